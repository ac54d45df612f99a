"""Going on with a run: whatever stopped it and wherever, the result is what an uninterrupted run gives, and the record says what happened."""

import asyncio
import json
import sqlite3
from dataclasses import replace

import pipeline_kit as kit
import pytest
from fakes import brain
from fakes.messages_api import Fault

from jobs import curate
from pipeline.steps import Steps
from pipeline.store import Workspace
from pipeline.values import PipelineFailed
from registry import advisors
from registry.db import Database
from registry.errors import Conflict
from registry.models import Run
from registry.settings import Settings

MORE = replace(kit.SMALL, examples=30)


def rejecting(body):
    """The stand-in, with an answer that breaks a rule for a third of the first plan's cells: top-up rounds are needed."""
    reply = brain.answer(body)
    if reply["kind"] != "synthesis":
        return reply
    value = json.loads(reply["content"][0]["text"])
    for pair in value["pairs"]:
        if pair["cell"].startswith("c") and int(pair["cell"][1:]) % 3 == 0:
            pair["turns"][0]["advisor"] = "As a licensed therapist I say: " + pair["turns"][0]["advisor"]
    return {**reply, "content": [{**reply["content"][0], "text": json.dumps(value)}]}


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    with kit.world(tmp_path_factory.mktemp("resume"), brain=rejecting) as world:
        yield world


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    from pipeline import calls

    monkeypatch.setattr(calls, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(calls, "MAX_PAUSE", 0.02)


@pytest.fixture(scope="module")
def whole(stand):
    outcome = stand.run(kit.order(config=MORE))
    assert outcome.status == "complete"
    assert kit.report_of(outcome)["composition"]
    return outcome


@pytest.mark.parametrize("share", [0.75, 0.85, 0.93, 0.97])
def test_money_that_ran_out_and_came_back(stand, whole, share):
    stand.messages.reset()
    order = kit.order(config=MORE)
    spent = kit.report_of(whole)["spending"]["total"]["cost"]
    try:
        part = stand.run(order, stand.controls(max_cost=spent * share))
    except PipelineFailed:
        part = None
    assert part is None or part.status == "stopped"
    done = stand.run(order)
    assert done.status == "complete"
    assert kit.pair_texts(done) == kit.pair_texts(whole)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_crash_around_planning_a_round(stand, whole, monkeypatch, number, moment):
    stand.messages.reset()
    order, plan = kit.order(config=MORE), Steps._batches

    class Crash(BaseException):
        """As sudden as a kill."""

    async def crashing(self, round_number, cells):
        if round_number == number and moment == "before":
            raise Crash
        names = await plan(self, round_number, cells)
        if round_number == number:
            raise Crash
        return names

    monkeypatch.setattr(Steps, "_batches", crashing)
    with pytest.raises(Crash):
        stand.run(order)
    monkeypatch.setattr(Steps, "_batches", plan)
    assert kit.pair_texts(stand.run(order)) == kit.pair_texts(whole)


@pytest.mark.parametrize("kind", ["overloaded", "server_error", "rate_limited", "drop"])
def test_an_outage_is_not_the_end_of_a_run(stand, whole, kind):
    stand.messages.reset(Fault(kind, "synthesis", times=None, retry_after=0.01))
    order = kit.order(config=MORE)
    with pytest.raises(PipelineFailed):
        stand.run(order)
    searched = sum(seen.purpose == "search" for seen in stand.messages.requests)
    stand.messages.faults = []
    done = stand.run(order)
    assert kit.pair_texts(done) == kit.pair_texts(whole)
    assert sum(seen.purpose == "search" for seen in stand.messages.requests) == searched


def test_a_finished_run_is_not_run_again_and_keeps_its_times(stand):
    stand.messages.reset()
    order = kit.order(config=MORE)
    first = kit.report_of(stand.run(order))
    sent = len(stand.messages.requests)
    again = kit.report_of(stand.run(order))
    assert len(stand.messages.requests) == sent
    assert again["seconds"]["total"] >= first["seconds"]["total"] > 0
    assert again["funnel"] == first["funnel"]


def test_half_a_character_in_an_answer_is_no_full_disk(tmp_path):
    def half(body):
        reply = brain.answer(body)
        for block in reply["content"]:
            for citation in block.get("citations") or ():
                citation["cited_text"] += " \ud83d"
        return reply

    with kit.world(tmp_path, brain=half) as world:
        assert world.run(kit.order()).status == "complete"


def test_a_fault_of_ours_in_one_agent_is_a_gap(stand, monkeypatch):
    from pipeline.agents import papers

    async def broken(*_arguments, **_more):
        raise KeyError("a field nobody thought of")

    stand.messages.reset()
    monkeypatch.setattr(papers, "research", broken)
    outcome = stand.run(kit.order())
    assert outcome.status == "complete"
    assert "unexpected" in {gap["reason"] for gap in kit.report_of(outcome)["gaps"]}


@pytest.mark.parametrize("pairs", [60, 200])
def test_about_a_tenth_of_the_pairs_can_be_held_out(stand, pairs):
    from registry.splits import Member, SplitRule, heldout

    stand.messages.reset()
    outcome = stand.run(kit.order(config=replace(kit.SMALL, examples=pairs, queries=None, web_agents=5)))
    members = [Member(str(i), frozenset(link.identifier.key for link in e.links)) for i, e in enumerate(outcome.draft.examples)]
    assert 0.07 * pairs <= sum(heldout(members, SplitRule(fraction=0.1))) <= 0.1 * pairs


# -- through the job ----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def catalogue(make_sqlite, tmp_path):
    db = Database(make_sqlite())
    with db.transaction() as session:
        advisors.add(session, "elena", (kit.REPO / "examples" / "elena" / "prompt.md").read_text(encoding="utf-8"), actor="ann")
    yield db, Settings(home=tmp_path / "home")
    db.dispose()


def curated(catalogue, stand, request, **controls):
    db, settings = catalogue
    prepared = curate.prepare(db, settings, request)
    return curate.curate(db, settings, prepared, stand.controls(**controls), actor="ann", accepted=True, watch=lambda _: None)


def states(db):
    with db.read() as session:
        return [(run.state, run.error) for run in session.query(Run).order_by(Run.id)]


def test_without_the_optional_packages_a_sentence_says_what_to_install(catalogue, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in ("langgraph", "baml_py") else found(name, *more))
    with pytest.raises(PipelineFailed, match="not installed: baml_py, langgraph") as failed:
        curate.prepare(*catalogue, curate.Request("elena", kit.SMALL))
    assert "[pipeline]" in failed.value.hint


def test_a_second_process_leaves_the_first_one_s_record_alone(catalogue, stand):
    db, settings = catalogue
    stand.messages.reset()
    prepared = curate.prepare(db, settings, curate.Request("elena", kit.SMALL))
    store = prepared.workspace.open(prepared.order.run)
    try:
        with pytest.raises(Conflict, match="Another process"):
            curate.curate(db, settings, prepared, stand.controls(), actor="ann", accepted=True, watch=lambda _: None)
        assert states(db) == []
    finally:
        asyncio.run(store.close())
    curate.curate(db, settings, prepared, stand.controls(), actor="ann", accepted=True, watch=lambda _: None)
    assert states(db) == [("succeeded", None)]


def test_a_damaged_checkpoint_file_is_a_sentence_and_an_ended_record(catalogue, stand, monkeypatch):
    from pipeline import graph

    def full(*_arguments, **_more):
        raise sqlite3.OperationalError("database or disk is full")

    stand.messages.reset()
    monkeypatch.setattr(graph, "drive", full)
    with pytest.raises(PipelineFailed, match="disk is full"):
        curated(catalogue, stand, curate.Request("elena", kit.SMALL))
    ((state, error),) = states(catalogue[0])
    assert state == "failed"
    assert "disk is full" in error


def test_a_damaged_ledger_hides_no_other_run(catalogue, stand):
    _, settings = catalogue
    stand.messages.reset()
    done = curated(catalogue, stand, curate.Request("elena", kit.SMALL))
    broken = Workspace(settings.home).folder("20990101-000000-elena-000000")
    broken.mkdir(parents=True)
    (broken / "ledger.db").write_bytes(b"this is no database at all, but long enough to be taken for one" * 50)
    assert list(Workspace(settings.home).orders("elena")) == [done.outcome.run]
    with pytest.raises(PipelineFailed, match="not a database"):
        Workspace(settings.home).open("20990101-000000-elena-000000")


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%20b", "ä ö"])
def test_homes_with_odd_names(tmp_path, name):
    async def write(store):
        await store.put("order", {"order": {"advisor": "elena"}})
        await store.close()

    workspace = Workspace(tmp_path / name)
    asyncio.run(write(workspace.open("20260101-elena")))
    assert list(workspace.orders("elena")) == ["20260101-elena"]


def test_changed_options_and_changed_citations_are_another_run(catalogue, stand, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "rest.md").write_text("# On rest\n\nPeople who rest in the evening sleep longer.\n", encoding="utf-8")
    citation = {
        "file": "rest.md",
        "type": "report",
        "title": "On rest",
        "publisher": "World Health Organization",
        "URL": "https://www.who.int/rest",
    }
    (folder / "sources.json").write_text(json.dumps([citation]), encoding="utf-8")
    stand.messages.reset()
    done = curated(catalogue, stand, curate.Request("elena", kit.SMALL, documents=folder))
    assert curated(catalogue, stand, curate.Request("elena", resume=True)).outcome.run == done.outcome.run
    with pytest.raises(Conflict, match="ordered differently"):
        curate.prepare(*catalogue, curate.Request("elena", replace(kit.SMALL, examples=12), resume=True))
    (folder / "sources.json").write_text(json.dumps([{**citation, "publisher": "Somebody else"}]), encoding="utf-8")
    with pytest.raises(Conflict, match="have changed"):
        curate.prepare(*catalogue, curate.Request("elena", resume=True))


def test_a_judge_who_does_not_answer_is_named(stand):
    stand.messages.reset(Fault("overloaded", "judge", times=None))
    outcome = stand.run(kit.order(config=replace(kit.SMALL, judge=True)))
    gaps = [gap for gap in kit.report_of(outcome)["gaps"] if gap["step"] == "judge"]
    assert sum(gap["count"] for gap in gaps) == len(outcome.draft.examples)
    assert all("unjudged" in gap["message"] for gap in gaps)
