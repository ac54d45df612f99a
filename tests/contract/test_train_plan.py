"""`registry train --plan`, `--method`, `--until` and `registry cleanup` as a person meets them."""

import datetime as dt
import json
import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from commands.jobs import moment_of
from jobs.planning import measured_rate
from jobs.train import Request, plan
from registry import runs
from registry import settings as settings_module
from registry.advisors import get
from registry.db import Database
from registry.errors import Invalid
from trainer.counting import Counts, count

ELENA = Path(__file__).resolve().parents[2] / "examples" / "elena"


class Cli:
    """Runs commands in one installation, in this process."""

    def __init__(self, home, database_url):
        self.home = home
        self.database_url = database_url

    def __call__(self, *arguments, code=0):
        from cli import app

        settings_module.get_settings.cache_clear()
        environment = {"REGISTRY_HOME": str(self.home), "REGISTRY_DATABASE_URL": self.database_url, "COLUMNS": "300"}
        result = CliRunner().invoke(app, list(arguments), env=environment)
        settings_module.get_settings.cache_clear()
        assert result.exit_code == code, (arguments, result.output, result.exception)
        return result.output

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json"))


@pytest.fixture
def elena(tmp_path, make_sqlite, tiny_bases):
    home = tmp_path / "home"
    home.mkdir()
    (home / "bases").symlink_to(tiny_bases)
    cli = Cli(home, make_sqlite())
    cli("advisors", "add", "elena", "--prompt-file", str(ELENA / "prompt.md"))
    cli("datasets", "import", str(ELENA / "pairs.jsonl"), "--advisor", "elena", "--sources", str(ELENA / "sources.json"))
    return cli


def test_a_plan_tells_tokens_memory_and_why_and_trains_nothing(elena, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    # In this process; tests/unit/trainer/test_counting.py has the child say the same.
    monkeypatch.setattr("trainer.counting.counted", lambda spec: Counts.from_event(count(spec)))
    facts = elena.json("train", "--advisor", "elena", "--plan", "--targets", "all-linear", "--gpu-price", "2")
    assert facts["method"] == "lora"
    assert facts["chosen because"] == "the built-in base trains on the CPU, unquantised"
    assert (facts["profile"], facts["device"]) == ("all-linear", "CPU")
    assert facts["modules"] == "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    assert facts["trained tokens, min"] > 0
    assert re.fullmatch(r"\d+ tokens, train.jsonl line \d+ \(sha256:\w+\.\.\.\)", facts["longest example"])
    assert facts["steps"] == 36  # 48 pairs, 4 at a time, 3 epochs
    assert facts["memory bytes"] < facts["memory bytes there"]
    assert (facts["seconds"], facts["cost"]) == (None, None)
    assert json.loads(facts["recipe epochs"]) == 3
    assert elena.json("versions", "elena") == []
    table = elena("train", "--advisor", "elena", "--plan")
    assert "memory in all" in table
    assert "memory bytes" not in table


def test_a_rate_that_was_measured_gives_time(elena, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    db = Database(elena.database_url)
    decided = plan(db, elena.home, Request("elena"))
    assert measured_rate(db, decided) is None
    spec = {"base": {"repo": decided.base.repo}, "recipe": decided.recipe.as_json()}
    metrics = {"tokens": 1000, "steps": 30, "seconds_per_step": 0.5, "loss_curve": [{"epoch": 3.0}]}
    with db.transaction() as session:
        advisor = get(session, "elena")
        runs.record(session, advisor, "training", spec, actor="x", environment={"device": "cpu"}, metrics=metrics)
        runs.record(session, advisor, "training", spec, actor="x", environment={"device": "NVIDIA H200"}, metrics=metrics | {"steps": 1})
        runs.record(session, advisor, "training", spec, actor="x", environment={"device": "cpu"}, metrics=None)
    assert measured_rate(db, decided) == pytest.approx(15 / 3000)
    db.dispose()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "dora"), "method is lora or qlora or full; found 'dora'"),
        (("--targets", "everything"), "targets is attention or all-linear or custom or none; found 'everything'"),
        (("--until", "25:00"), "Expected a time such as 06:30; found '25:00'"),
    ],
)
def test_bad_choices_get_a_sentence(elena, arguments, words):
    assert words in elena("train", "--advisor", "elena", *arguments, code=1)


def test_until_means_the_next_such_time_of_day():
    zone = dt.timezone(dt.timedelta(hours=2))
    now = dt.datetime(2026, 3, 3, 22, 15, tzinfo=zone)
    assert moment_of("23:00", now) - now.timestamp() == 45 * 60
    assert moment_of("06:30", now) - now.timestamp() == (8 * 60 + 15) * 60
    assert moment_of("22:15", now) - now.timestamp() == 24 * 3600
    with pytest.raises(Invalid):
        moment_of("soon", now)


def test_until_is_passed_on_to_the_training(elena, monkeypatch):
    seen = []

    def asked(_db, _store, _home, request, **_more):
        seen.append(request)
        raise Invalid("enough")

    monkeypatch.setattr("jobs.train.train", asked)
    elena("train", "--advisor", "elena", "--until", f"{dt.datetime.now().astimezone() + dt.timedelta(hours=1):%H:%M}", code=1)
    assert 0 < seen[0].drive.stop_at - time.time() <= 3600


def test_cleanup_says_what_would_go_and_refuses_to_lose_the_registry(elena):
    assert "Error: The artifact store of this installation lies in" in elena("cleanup", code=1)
    facts = elena.json("cleanup", "--registry-stays", "--dry-run")
    assert facts["dry_run"] is True
    assert facts["bytes_after"] is None
    assert {"name": "bases", "bytes": facts["kept"][1]["bytes"], "why": "a link, which is not followed"} in facts["kept"]
    text = elena("cleanup", "--registry-stays", "--dry-run")
    assert "Would be removed" in text
    assert "0 versions trained here read again in the store" in text
