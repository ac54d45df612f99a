"""The pipeline's story: what was read arrives in the catalogue as it was read, three advisors come out of one graph, nothing planted in a page changes a
pair, and a run that is killed loses nothing.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pipeline_kit as kit
import pytest
import sqlalchemy as sa
from fakes import brain, injections
from typer.testing import CliRunner

from jobs import curate
from pipeline import prompts
from pipeline.config import PipelineConfig, Thresholds
from pipeline.store import Workspace
from pipeline.values import text_sha256
from registry import advisors, datasets
from registry import settings as settings_module
from registry.db import Database
from registry.identifiers import identify
from registry.models import Document, Example, ExampleSource, Source
from registry.settings import Settings

REPO = Path(__file__).resolve().parent.parent.parent


class Recorded:
    """A model that answers searches with recorded responses of the Messages API, one recording a question, and lets every pair rest on all it was given."""

    def __init__(self, folder: Path) -> None:
        from fakes.messages_api import Replay

        self.tapes: list[list] = []
        for path in sorted(folder.glob("*.yaml")):
            replay = Replay(path)
            for asked, answer in zip(replay.requests, replay.answers, strict=True):
                # A request that ends with the model's own turn goes on with a paused one; any other is a search of its own.
                if asked["messages"][-1]["role"] == "assistant":
                    self.tapes[-1].append(answer)
                elif any(block["type"].startswith("web_") for block in answer["content"]):
                    self.tapes.append([answer])
        self.asked: dict[str, list] = {}

    def __call__(self, body):
        if not body.get("tools"):
            return _resting_on_everything(brain.answer(body), body)
        question = json.dumps(body["messages"][0])
        tape = self.asked.setdefault(question, self.tapes[len(self.asked) % len(self.tapes)])
        turns = sum(message["role"] == "assistant" for message in body["messages"])
        recorded = tape[min(turns, len(tape) - 1)]
        return {"content": recorded["content"], "stop_reason": recorded["stop_reason"], "usage": recorded["usage"], "kind": "search"}

    def citations(self):
        """Every (url, title, cited text) in the recordings."""
        blocks = [block for tape in self.tapes for answer in tape for block in answer["content"]]
        cited = [c for block in blocks for c in block.get("citations") or () if c.get("url")]
        return {(c["url"], c["title"], c["cited_text"]) for c in cited}

    def pages(self):
        """Every fetched page: (url, title, text)."""
        blocks = [block for tape in self.tapes for answer in tape for block in answer["content"]]
        found = [block["content"] for block in blocks if block["type"] == "web_fetch_tool_result" and block["content"].get("content")]
        return {(page["url"], page["content"]["title"], page["content"]["source"]["data"]) for page in found}


def _resting_on_everything(answer, body):
    text = answer["content"][0]["text"]
    if answer["kind"] != "synthesis":
        return answer
    value = json.loads(text)
    given = [line["id"] for line in brain._objects(brain._data(brain._user(body))["findings"])]
    for pair in value["pairs"]:
        pair["findings"] = given
    return {**answer, "content": [{**answer["content"][0], "text": json.dumps(value)}]}


def installed(db: Database, home: Path, *names: str) -> Settings:
    settings = Settings(home=home, database_url=None)
    with db.transaction() as session:
        for name in names:
            text = (REPO / "examples" / name / "prompt.md").read_text(encoding="utf-8")
            advisors.add(session, name, text, actor="ann")
    return settings


def ran(db, settings, world, config, name="elena", **more):
    """Order and run for an advisor, as the command does."""
    prepared = curate.prepare(db, settings, curate.Request(name, config, **more))
    return curate.curate(db, settings, prepared, world.controls(), actor="ann", accepted=True, watch=world.events.append)


def test_what_the_recordings_hold_arrives_in_the_catalogue(db, tmp_path, shared, monkeypatch):
    monkeypatch.setattr(prompts, "MAX_NAMED", 10**6)  # here every pair rests on all that was read
    model = Recorded(shared / "recorded" / "anthropic")
    hosts = {urlsplit(url).hostname for url, _, _ in model.citations() | model.pages()}
    config = replace(
        kit.SMALL,
        queries=6,
        web_agents=3,
        fetch_pages=True,
        examples=10,
        findings_per_batch=200,
        heldout=0.0,
        domain_share=1.0,
        # Recorded weather reports are much alike; here nothing but exact repeats may go.
        thresholds=Thresholds(research=1.0, review=1.0),
        allowed_domains={host.removeprefix("www."): "professional" for host in hosts},
    )
    settings = installed(db, tmp_path, "elena")
    with kit.world(tmp_path, brain=model) as world:
        world.papers._recorded, world.papers._whole = [], (shared / "recorded" / "semantic_scholar" / "paper_all_fields.json").read_bytes()
        done = ran(db, settings, world, config)
    with db.read() as session:
        rows = session.execute(
            sa.select(Source.url, Source.csl, Document.sha256, Source.doi).join(Document, Document.source_id == Source.id)
        ).all()
    arrived = {(url, csl.get("title"), sha256) for url, csl, sha256, _ in rows}
    report = kit.report_of(done.outcome)
    rejected = [json.loads(line) for line in (done.outcome.folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    repeats = {
        (identify(row["content"]["url"]).url, text_sha256(row["content"]["text"])) for row in rejected if row["reason"] == "exact_duplicate"
    }
    wanted = {(identify(url).url, title, text_sha256(text)) for url, title, text in model.citations()}
    assert len(wanted) > 20
    missing = {(url, sha256) for url, _, sha256 in wanted - arrived}
    assert missing <= repeats, report["flow"]
    pages = {(identify(url).url, text_sha256(text)) for url, _, text in model.pages()}
    assert pages
    assert pages <= {(url, sha256) for url, _, sha256 in arrived}
    paper = json.loads((shared / "recorded" / "semantic_scholar" / "paper_all_fields.json").read_bytes())
    dois = {doi: (csl["title"], sha256) for _, csl, sha256, doi in rows if doi}
    assert dois[paper["externalIds"]["DOI"].lower()] == (paper["title"], text_sha256(paper["abstract"]))


@pytest.mark.train
@pytest.mark.usefixtures("warm")
def test_three_prompts_go_through_one_graph_to_three_adapters(make_sqlite, tmp_path, tiny_bases):
    from jobs.train import Request, train
    from registry.artifacts import open_store

    db = Database(make_sqlite())
    names = ("elena", "marcus", "priya")
    settings = installed(db, tmp_path, *names)
    (tmp_path / "bases").symlink_to(tiny_bases)
    store = open_store(tmp_path / "artifacts")
    subjects = {}
    with kit.world(tmp_path) as world:
        for name in names:
            done = ran(db, settings, world, replace(kit.SMALL, examples=20, queries=8), name)
            assert done.outcome.status == "complete"
            made = train(db, store, tmp_path, Request(name, base="tiny", recipe={"max_steps": 6}), actor="ann", on_event=lambda _: None)
            assert (made.version.number, made.version.dataset.sha256) == (1, done.dataset)
            subjects[name] = kit.report_of(done.outcome)["subject"]
            with db.read() as session:
                dataset = datasets.latest(session, advisors.get(session, name))
                tied = sa.select(sa.func.count(ExampleSource.example_id.distinct()))
                assert session.scalar(tied) == session.scalar(sa.select(sa.func.count(Example.id)))  # every pair names a source
                assert dataset.heldout_total > 0
    db.dispose()
    assert len(set(subjects.values())) == 3


def with_planted(body):
    """The stand-in's answer; its first search also brings every planted text, as page text and as titles, from a publisher that is trusted."""
    answer = brain.answer(body)
    if answer["kind"] != "search":
        return answer
    more = []
    for number, planted in enumerate(injections.PLANTED):
        if planted.where in ("page", "title"):
            url = f"https://www.who.int/planted/{planted.id}-{number}"
            text, title = (planted.text, "A page") if planted.where == "page" else ("Rest helps people who are tired.", planted.text)
            citation = {"type": "web_search_result_location", "url": url, "title": title, "cited_text": text, "encrypted_index": "Eo8B"}
            more.append({"type": "text", "text": text, "citations": [citation]})
    return {**answer, "content": [*answer["content"], *more]}


def test_planted_instructions_change_no_pair_and_are_reported(make_sqlite, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    entries = []
    for planted in injections.PLANTED:
        if planted.where in ("pdf", "hidden", "captions") and len(entries) < 8:
            name, data = injections.document(planted)
            (folder / name).write_bytes(data)
            entries.append({"file": name, "type": "report", "title": f"On rest, {planted.id}", "publisher": "World Health Organization",
                            "URL": f"https://www.who.int/reports/{planted.id}"})  # fmt: skip
    (folder / "sources.json").write_text(json.dumps(entries), encoding="utf-8")
    results = []
    for planted, model in ((False, brain.answer), (True, with_planted)):
        home = tmp_path / str(planted)
        db = Database(make_sqlite())
        settings = installed(db, home, "elena")
        with kit.world(home, brain=model) as world:
            results.append(ran(db, settings, world, kit.SMALL, **({"documents": folder} if planted else {})))
        db.dispose()
    clean, attacked = results
    assert clean.dataset == attacked.dataset
    report = kit.report_of(attacked.outcome)
    flagged = json.dumps(report["flagged"])
    refused = (attacked.outcome.folder / "rejected.jsonl").read_text(encoding="utf-8")
    for planted in injections.PLANTED:
        if planted.where in ("page", "title"):
            assert f"/planted/{planted.id}-" in flagged + refused, planted.id
    for entry in entries:
        assert entry["URL"] in flagged, entry["file"]


def test_an_interrupted_run_goes_on_after_the_catalogue_forgot_nothing(db, tmp_path):
    """The same order on both databases: a run that stops for money and is gone on with registers what an uninterrupted one registers."""
    settings = installed(db, tmp_path, "elena")
    postgres = str(db.engine.url).startswith("postgresql")
    if postgres:
        settings = settings.model_copy(update={"database_url": db.engine.url.render_as_string(hide_password=False)})
    with kit.world(tmp_path) as world:
        config = replace(kit.SMALL, examples=30, queries=3, searches_per_query=1)
        whole = ran(db, settings, world, config)
        spent = kit.report_of(whole.outcome)["spending"]["total"]["cost"]
        prepared = curate.prepare(db, settings, curate.Request("elena", config))
        cap = world.controls(max_cost=spent * 0.9)
        part = curate.curate(db, settings, prepared, cap, actor="ann", accepted=True, watch=world.events.append)
        assert part.outcome.status == "stopped"
        assert part.pairs < whole.pairs
        sent = len(world.messages.requests)
        again = curate.prepare(db, settings, curate.Request("elena", resume=True))
        assert again.order.run == prepared.order.run
        done = curate.curate(db, settings, again, world.controls(), actor="ann", accepted=True, watch=world.events.append)
        assert (done.dataset, done.created) == (whole.dataset, False)
        assert len(world.messages.requests) - sent < sent  # only what was missing is asked for
        assert (Workspace(tmp_path).folder(prepared.order.run) / "ledger.db").exists() is not postgres
    assert curate.acknowledged(db, prepared.terms, actor="ann")
    assert not curate.acknowledged(db, prepared.terms, actor="bob")


@pytest.mark.parametrize("database", [(), ("--postgres",)])
def test_a_killed_run_ends_like_one_that_was_not(database):
    """Three seeds here; scripts/kill_pipeline.py --seeds 20 does twenty."""
    count = "1" if database else "3"
    command = [sys.executable, "scripts/kill_pipeline.py", "--seeds", count, "--examples", "20", "--scale", "0.02", *database]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.stdout.count("dataset same") == int(count)


def test_the_command_refuses_what_it_cannot_do(make_sqlite, tmp_path):
    from cli import app

    db = Database(make_sqlite())
    url = db.engine.url.render_as_string(hide_password=False)
    installed(db, tmp_path, "elena")
    db.dispose()
    unset = {key: None for key in os.environ if "API_KEY" in key or key.startswith("REGISTRY_")}
    environment = {**unset, "REGISTRY_HOME": str(tmp_path), "REGISTRY_DATABASE_URL": url, "COLUMNS": "200"}

    def registry(*arguments):
        settings_module.get_settings.cache_clear()
        done = CliRunner().invoke(app, ["pipeline", "--advisor", "elena", *arguments], env=environment)
        settings_module.get_settings.cache_clear()
        return done

    asked = registry()
    assert asked.exit_code == 1
    assert "--accept-terms" in asked.stderr
    assert "train models that compete" in asked.stderr
    told = registry("--accept-terms")
    assert told.exit_code == 1
    assert "ANTHROPIC_API_KEY" in told.stderr
    assert "datasets import" in told.stderr
    planned = registry("--plan", "--examples", "500")
    assert planned.exit_code == 0, planned.stderr
    assert "cost in US dollars" in planned.stdout
    assert not list(tmp_path.glob("pipeline/*"))  # a plan and refusals leave nothing behind


def test_the_default_order_is_what_the_readme_says():
    assert PipelineConfig().web_agents == 5
    assert PipelineConfig().web_search_type == "web_search_20250305"
