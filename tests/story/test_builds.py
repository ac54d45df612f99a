"""Builds as a person orders them: from a persona to a live version unattended, and a fleet whose workers are killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pipeline_kit as kit
import pytest
from typer.testing import CliRunner

from registry import settings as settings_module

REPO = Path(__file__).resolve().parent.parent.parent
PROMPT = REPO / "examples" / "elena" / "prompt.md"
PIPELINE = {"queries": 5, "web_agents": 2, "findings_per_batch": 4, "heldout": 0.5}
RECIPE = {"method": "lora", "r": 4, "alpha": 8, "learning_rate": 0.005, "max_steps": 12, "batch_size": 2}


class Shared:
    """The session's trainer, which no worker may close."""

    def __init__(self, trainer):
        self.train, self.stop, self.close = trainer.train, trainer.stop, trainer.stop


@pytest.fixture
def registry(tmp_path, tiny_bases, monkeypatch, warm_trainer):
    """A command of `registry` in an installation of its own, with stand-ins for every service; its output. The trainer is the session's, already warm."""
    from cli import app

    monkeypatch.setattr("trainer.process.WarmTrainer", lambda: Shared(warm_trainer))

    home = tmp_path / "home"
    home.mkdir()
    (home / "bases").symlink_to(tiny_bases)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with kit.world(tmp_path / "world") as world:
        found = world.papers.endpoints
        environment = {
            "REGISTRY_HOME": str(home),
            "REGISTRY_ACTOR": "ann",
            "REGISTRY_ANTHROPIC_API_KEY": "test",
            "REGISTRY_ANTHROPIC_URL": world.messages.url,
            "REGISTRY_SEMANTIC_SCHOLAR_URL": found.semantic_scholar,
            "REGISTRY_OPENALEX_URL": found.openalex,
            "REGISTRY_ARXIV_URL": found.arxiv,
            "COLUMNS": "300",
        }

        def run(*arguments, code=0):
            settings_module.get_settings.cache_clear()
            result = CliRunner().invoke(app, list(arguments), env=environment)
            settings_module.get_settings.cache_clear()
            assert result.exit_code == code, (arguments, result.output, result.exception)
            return result.stdout

        yield run


@pytest.mark.train
def test_elena_is_built_from_her_persona_to_a_live_version_unattended(registry, tmp_path):
    pipeline, recipe = tmp_path / "pipeline.json", tmp_path / "recipe.json"
    pipeline.write_text(json.dumps(PIPELINE))
    recipe.write_text(json.dumps(RECIPE))
    registry("init")
    registry("advisors", "add", "elena", "--prompt-file", str(PROMPT))
    order = ["build", "elena", "--examples", "12", "--pipeline", str(pipeline), "--recipe", str(recipe), "--base", "tiny", "--json"]
    registry(*order, code=1)  # nobody has read the provider's terms yet
    assert json.loads(registry("jobs", "list", "--json")) == []
    made = json.loads(registry(*order, "--accept-terms"))
    assert (made["state"], made["version"], made["promoted"], made["why"]) == ("succeeded", 1, "live", [])

    story = json.loads(registry("log", "elena", "--json"))
    told = [row["event"] for row in story]
    assert told.index("version:registered") < told.index("alias:promoted") < told.index("build:finished")
    assert told.count("build:finished") == told.count("alias:promoted") == 1
    ended = story[told.index("build:finished")]
    assert (ended["job"], ended["version"], ended["promoted"], ended["reasons"]) == (made["job"], 1, "live", [])
    assert json.loads(registry("resolve", "elena@live", "--json"))["ref"] == "elena@1"
    lines = registry("jobs", "logs", made["job"])
    for words in ("curate done in", "train done in", "promote done in", "step 12 of 12"):
        assert words in lines, lines
    (row,) = json.loads(registry("jobs", "list", "--advisor", "elena", "--json"))
    assert (row["job"], row["state"], row["promoted"], row["by"]) == (made["job"], "succeeded", "live", "ann")

    # The same order again finds what is there: terms acknowledged, the same training, the alias where it is.
    again = json.loads(registry("build", "--all", "--recipe", str(recipe), "--base", "tiny", "--json"))
    assert again["counts"] == {"succeeded": 1}
    assert again["advisors"][0]["version"] == 1
    assert json.loads(registry("jobs", "report", again["wave"], "--json"))["advisors"][0]["job"] == again["advisors"][0]["job"]


@pytest.mark.train
def test_a_fleet_loses_nothing_when_its_workers_are_killed(tiny_bases):
    """Seeds 0, 1 and 2 of scripts/kill_worker.py: one of two workers is killed in the middle of a training, three times; the script runs more of them."""
    command = [sys.executable, "scripts/kill_worker.py", "--seeds", "3", "--sqlite", "--bases", str(tiny_bases)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=500, env=dict(os.environ))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("nothing lost, sha256 same") == 3
    assert "3 of 3 kills fell inside a training" in done.stdout
    assert "; 0 of these trainings went on" not in done.stdout
