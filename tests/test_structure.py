"""The shape of the repository: every module has its layer, every document its command, and the service starts without torch."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_registry_module_is_on_a_layer():
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {part.strip(" ()") for layer in layers for part in layer.split("|")}
    modules = {
        f"registry.{p.stem}"
        for p in (REPO / "registry").iterdir()
        if (p.suffix == ".py" and p.stem != "__init__") or (p / "__init__.py").exists()
    }
    assert modules - named == set()


def test_nothing_but_training_itself_imports_torch():
    heavy = ("torch", "transformers", "peft", "trl", "datasets", "bitsandbytes")
    statements = (
        "import cli",
        "import registry.app",
        "import registry.api.app",
        "import jobs.train",
        "import trainer.recipe, trainer.bases, trainer.preflight, trainer.process, trainer.spec",
        "import lineage.card, lineage.diff",
    )
    # One process for all: where none of these is loaded after every import, none of the imports loads it.
    code = "".join(f"{statement}\nprint({statement!r}, [m for m in {heavy} if m in sys.modules])\n" for statement in statements)
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{statement} []" for statement in statements]


def test_help_imports_neither_sqlalchemy_nor_pydantic():
    code = "import sys; import cli; print([m for m in ('sqlalchemy', 'pydantic', 'fastapi', 'numpy', 'boto3') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_generated_docs_do_not_drift():
    done = subprocess.run([sys.executable, "scripts/docs.py", "--check"], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_setting_and_every_command_of_the_readme_exists():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    import typer

    from cli import app

    known = set(typer.main.get_command(app).commands)
    used = {line.split()[1] for line in text.splitlines() if line.strip().startswith("registry ") and len(line.split()) > 1}
    assert used
    assert used <= known


def test_constraints_name_no_index_no_hash_and_no_cuda():
    lines = [line for line in (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert "torch==2.13.0" in lines
    assert not [line for line in lines if line.startswith(("-", "nvidia", "triton", "cuda")) or "--hash" in line or "://" in line]


def test_every_dependency_is_locked():
    locked = {
        line.split("==")[0].split(" ")[0].lower()
        for line in (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    wanted = [*PROJECT["project"]["dependencies"], *(d for extra in PROJECT["project"]["optional-dependencies"].values() for d in extra)]
    names = {"".join(c if c.isalnum() or c == "-" else " " for c in d).split()[0].lower() for d in wanted}
    assert names - locked == set()


def test_the_example_mapping_is_readable():
    mapping = json.loads((REPO / "examples" / "counsel_chat.mapping.json").read_text(encoding="utf-8"))
    assert mapping["columns"]["source"] == ["questionLink"]
