"""The method x base table: every method on a tiny random model of every architecture, on the CPU, NF4 included.

All trainings run in one warm process (tests/unit/trainer/architectures.py); each test looks at its own cell. Two steps each: what is asked is whether the parts fit,
not whether anything is learnt.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tiny_models import DESIGNS, LAYERS

from registry.adapter_files import base_card_from_config, check_version_files
from registry.errors import Invalid
from trainer.bases import BaseSpec
from trainer.recipe import make_recipe, modules_of
from trainer.spec import TrainedAdapter, TrainSpec

pytestmark = pytest.mark.train

REPO = Path(__file__).resolve().parents[3]
# Two steps, no warm-up: enough that every pair has moved. The random numbers of dropout are test_train.py's matter.
QUICK = {
    "max_steps": 2,
    "batch_size": 3,
    "max_length": 512,
    "learning_rate": 1e-2,
    "warmup": 0.0,
    "threads": 1,
    "kept_checkpoints": 1,
    "heldout_max_examples": 1,
}
LORA = {**QUICK, "r": 4, "alpha": 8, "dropout": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "lora-f32": {**LORA, "method": "lora", "dtype": "float32"},
    "lora-bf16": {**LORA, "method": "lora", "dtype": "bfloat16"},
    "qlora-nf4": {**LORA, "method": "qlora", "dtype": "bfloat16"},
    "full": {**QUICK, "method": "full", "dtype": "bfloat16", "learning_rate": 5e-3},
}
PROFILES = ("attention", "all-linear")
CELLS = [(base, method, profile) for base in DESIGNS for method in METHODS for profile in (PROFILES if method != "full" else ("none",))]
# One more of each of these, and one cell of every architecture again, in another place of the row: beside other bases and methods in the same process.
EXTRA = {
    ("llama-8b", "rslora"): {**METHODS["lora-f32"], "targets": "all-linear", "rslora": True},
    ("qwen-14b", "lora-plus"): {**METHODS["lora-f32"], "targets": "attention", "lora_plus_ratio": 16.0},
}
AGAIN = {
    "mistral-7b": "lora-f32",
    "llama-8b": "lora-bf16",
    "llama-70b": "qlora-nf4",
    "phi-4": "qlora-nf4",
    "qwen-14b": "lora-f32",
    "qwen-72b": "full",
}
# Phi computes q, k and v in one matrix, so there is no q_proj; PEFT alone would train o_proj and say nothing.
PARTIAL = ("phi-4", ("o_proj", "q_proj"))
TURNS = [
    ("How do I rest?", "Stop, and breathe."),
    ("What now?", "Walk.", "And then?", "Sleep a little."),
    ("Am I late?", "No."),
    ("Who helps?", "A friend.", "Which one?", "Ask one, then another."),
]


@dataclass(frozen=True)
class Cell:
    """One training of the table: its spec, what the process said of it, and its result where there is one."""

    spec: TrainSpec
    said: dict[str, Any]

    @property
    def result(self) -> TrainedAdapter:
        assert self.said["ok"], self.said
        return TrainedAdapter.load(self.spec.out_dir)

    @property
    def sha256(self) -> dict[str, str]:
        return {f.path: f.sha256 for f in self.result.files}


@pytest.fixture(scope="session")
def table(tiny_bases_of: dict[str, BaseSpec], dataset_at: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Cell]:
    """Every training of this file, done. The folder above this worker's own is shared by all workers of the session: one trains, the others wait."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "table"
    folder.mkdir(exist_ok=True)

    def spec(key: Any, base: str, settings: dict[str, Any]) -> TrainSpec:
        name = "-".join("+".join(k) if isinstance(k, tuple) else k for k in key)
        return TrainSpec(make_recipe(tiny_bases_of[base], None, settings), tiny_bases_of[base], 42, folder / "dataset", folder / name)

    specs = dict(_specs(spec))
    with FileLock(folder / "table.lock"):
        if not (folder / "said.json").is_file():
            dataset_at(folder / "dataset", TURNS, [("Is it so?", "It is.")])
            (folder / "said.json").write_text(json.dumps(_run(_written(specs.values()))))
    said = json.loads((folder / "said.json").read_text())
    return {key: Cell(one, words) for (key, one), words in zip(specs.items(), said, strict=True)}


def _written(specs: Iterable[TrainSpec]) -> list[Path]:
    """Each spec as a file in its own folder."""
    paths = []
    for one in specs:
        one.out_dir.mkdir(exist_ok=True)
        paths.append(one.out_dir / "spec.json")
        paths[-1].write_text(json.dumps(one.as_json()))
    return paths


def _specs(spec: Any) -> Iterator[tuple[Any, TrainSpec]]:
    for base, method, profile in CELLS:
        key = (base, method, profile)
        yield key, spec(key, base, METHODS[method] | ({"targets": profile} if method != "full" else {}))
    for key, settings in EXTRA.items():
        yield key, spec(key, key[0], settings)
    yield PARTIAL, spec(PARTIAL, PARTIAL[0], METHODS["lora-f32"] | {"target_modules": list(PARTIAL[1])})
    for base, method in AGAIN.items():
        key = (base, method, "again")
        yield key, spec(key, base, METHODS[method] | ({"targets": "attention"} if method != "full" else {}))


def _run(paths: list[Path]) -> list[dict[str, Any]]:
    script = Path(__file__).with_name("architectures.py")
    done = subprocess.run(
        [sys.executable, str(script), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def card_of(cell: Cell) -> Any:
    base = cell.spec.base
    return base_card_from_config(dict(base.config or {}), base.repo, base.revision)


def files_of(cell: Cell) -> dict[str, Path]:
    return {f.path: cell.result.folder / f.path for f in cell.result.files}


@pytest.mark.parametrize("key", [*CELLS, *EXTRA], ids="-".join)
def test_every_method_trains_every_base_into_files_that_the_gate_and_stock_loaders_take(table, key):
    cell = table[key]
    result = cell.result
    check_version_files(files_of(cell), card_of(cell))
    assert len(result.metrics["loss_curve"]) == 2
    measured = [row["logprob"] for row in result.metrics["canary"]]
    # In bfloat16 a sum rounds differently where the model is put together differently; either way the training moved the figure by more than that.
    close = {"float32": 1e-3, "bfloat16": 0.05}[cell.spec.recipe.dtype]
    assert max(abs(row["logprob"] - row["base_logprob"]) for row in result.metrics["canary"]) > 2 * close
    assert cell.said["reloaded"] == pytest.approx(measured, abs=close)


@pytest.mark.parametrize("key", [key for key in CELLS if key[1] == "lora-f32"], ids="-".join)
def test_an_adapter_has_the_modules_and_parameters_of_its_profile(table, key):
    cell = table[key]
    facts = check_version_files(files_of(cell), card_of(cell))
    card, names = card_of(cell), modules_of(cell.spec.base, key[2])
    assert facts.target_modules == cell.spec.recipe.target_modules == names
    assert facts.parameters == cell.result.metrics["trainable_parameters"] == LAYERS * 4 * sum(sum(card.modules[name]) for name in names)


def test_phis_attention_is_one_matrix_and_the_output(table):
    assert table["phi-4", "lora-f32", "attention"].spec.recipe.target_modules == ("o_proj", "qkv_proj")
    assert table["phi-4", "lora-f32", "all-linear"].spec.recipe.target_modules == ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")
    assert not table[PARTIAL].said["ok"]
    assert "has no modules named q_proj; only o_proj would be trained" in table[PARTIAL].said["message"]
    assert not (table[PARTIAL].spec.out_dir / "result.json").exists()


@pytest.mark.parametrize(("base", "method"), AGAIN.items(), ids=str)
def test_the_same_training_gives_the_same_bytes(table, base, method):
    """Later in the same process, after other bases and methods."""
    first = table[base, method, "none" if method == "full" else "attention"]
    assert table[base, method, "again"].sha256 == first.sha256
    assert table[base, method, "again"].result.metrics["canary"] == first.result.metrics["canary"]


def test_options_and_methods_make_different_adapters(table):
    assert table["llama-8b", "rslora"].sha256 != table["llama-8b", "lora-f32", "all-linear"].sha256
    assert table["qwen-14b", "lora-plus"].sha256 != table["qwen-14b", "lora-f32", "attention"].sha256
    assert table["llama-8b", "lora-f32", "attention"].sha256 != table["llama-8b", "lora-bf16", "attention"].sha256


@pytest.mark.parametrize("base", DESIGNS)
def test_only_the_answers_are_trained(table, base):
    """As many tokens as the answers and their end tokens have, whatever the template adds around them."""
    from tokenizers import Tokenizer

    spec = table[base, "lora-f32", "attention"].spec
    tokenizer = Tokenizer.from_file(str(Path(str(spec.base.path)) / "tokenizer.json"))
    space = " " if base == "mistral-7b" else ""
    answers = [space + text for turns in TURNS for text in turns[1::2]]
    expected = sum(len(tokenizer.encode(a, add_special_tokens=False).ids) + 1 for a in answers)
    assert table[base, "lora-f32", "attention"].result.metrics["trained_tokens"] == expected


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "DoRA is refused: no serving engine"),
        ({"init_lora_weights": "pissa"}, "LoftQ starts are refused: they rewrite the base's own weights"),
        ({"pissa": True}, "PiSSA is refused: it rewrites the base's own weights"),
        ({"loftq_config": {"loftq_bits": 4}}, "LoftQ is refused: it rewrites the base's own weights"),
        ({"modules_to_save": ["lm_head"]}, "Whole modules beside the LoRA pairs are refused"),
    ],
)
def test_kinds_that_cannot_be_served_are_refused_with_the_reason(tiny_bases_of, settings, words):
    with pytest.raises(Invalid, match=words):
        make_recipe(tiny_bases_of["mistral-7b"], None, settings)
