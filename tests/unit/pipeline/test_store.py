"""A run's ledger and workbook, on SQLite and on Postgres: what is committed stays, the first answer counts, one process drives a run."""

import asyncio
import sqlite3
import threading

import pytest

from pipeline.ports import Recorded, Usage
from pipeline.store import SCHEMA, Workspace
from pipeline.values import PipelineFailed
from registry.errors import Conflict, Invalid, NotFound


@pytest.fixture(params=["sqlite", "postgres"])
def workspace(request, tmp_path):
    url = request.getfixturevalue("make_postgres")() if request.param == "postgres" else None
    return Workspace(tmp_path, url)


def with_store(workspace, work, run="run-1"):
    async def main():
        store = workspace.open(run)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(main())


def recorded(key="sha256:1", **changes):
    facts = {"key": key, "purpose": "web_1", "answer": {"text": "é\u2028"}, "received_at": "2026-11-23T00:00:00+00:00"}
    return Recorded(**{**facts, "usage": Usage(1, 2, 3, 4, 5, 6), "cost": 0.25, "attempts": 2, "seconds": 1.5, **changes})


def test_what_was_recorded_is_read_back_by_another_opening(workspace):
    async def write(store):
        await store.record(recorded())
        assert await store.recorded("sha256:2") is None

    async def read(store):
        return await store.recorded("sha256:1"), await store.calls()

    with_store(workspace, write)
    found, calls = with_store(workspace, read)
    assert found == recorded()
    assert calls == [recorded(answer={})]


def test_the_first_answer_to_a_request_stays(workspace):
    async def work(store):
        await store.record(recorded())
        await store.record(recorded(answer={"text": "another"}))
        return await store.recorded("sha256:1")

    assert with_store(workspace, work).answer == {"text": "é\u2028"}


def test_an_unknown_cost_stays_unknown(workspace):
    async def work(store):
        await store.record(recorded(cost=None))
        return await store.recorded("sha256:1")

    assert with_store(workspace, work).cost is None


def test_items_come_by_id_in_the_order_of_ids_and_are_replaced_whole(workspace):
    async def work(store):
        await store.put("pair", {"b": {"n": 1}, "a": {"n": 2}, "Z": {"n": 3}, "é": {"n": 4}})
        await store.put("pair", {"a": {"m": 5}})
        await store.put("pair", {})
        return await store.items("pair"), await store.items("none"), await store.item("pair", "a"), await store.item("pair", "x")

    items, none, one, missing = with_store(workspace, work)
    assert list(items) == ["Z", "a", "b", "é"]  # by code point on both databases, whatever their collation
    assert items["a"] == one == {"m": 5}
    assert none == {}
    assert missing is None


def test_runs_do_not_see_each_other(workspace):
    async def write(store):
        await store.record(recorded())
        await store.put("pair", {"a": {}})

    async def read(store):
        return await store.recorded("sha256:1"), await store.items("pair"), await store.calls()

    with_store(workspace, write)
    assert with_store(workspace, read, run="run-2") == (None, {}, [])


def test_a_run_that_is_being_worked_on_cannot_be_opened_again(workspace):
    async def work(_store):
        found = []

        def other():
            try:
                workspace.open("run-1")
            except Conflict as error:
                found.append(error.message)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return found

    assert "run-1" in with_store(workspace, work)[0]
    with_store(workspace, lambda store: store.calls())  # and can be after it was closed


def test_orders_are_found_by_advisor_the_newest_last(workspace):
    for run, advisor in (("20260102-elena", "elena"), ("20260101-elena", "elena"), ("20260103-marcus", "marcus")):
        with_store(workspace, lambda store, a=advisor: store.put("order", {"order": {"advisor": a}}), run=run)
    assert list(workspace.orders("elena")) == ["20260101-elena", "20260102-elena"]
    assert workspace.newest("elena") == "20260102-elena"
    with pytest.raises(NotFound, match="priya"):
        workspace.newest("priya")


def test_a_run_killed_before_its_tables_were_made_is_no_order(tmp_path):
    workspace = Workspace(tmp_path)
    folder = workspace.folder("run-1")
    folder.mkdir(parents=True)
    sqlite3.connect(folder / "ledger.db").close()
    (workspace.folder("run-2")).mkdir()
    assert workspace.orders("elena") == {}


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A", "x" * 64, "/etc"])
def test_a_run_s_name_cannot_lead_elsewhere(tmp_path, name):
    with pytest.raises(Invalid):
        Workspace(tmp_path).folder(name)


def test_a_ledger_that_cannot_be_written_is_said_in_a_sentence(tmp_path, monkeypatch):
    async def work(store):
        monkeypatch.setattr(store._connection, "write", full)
        await store.record(recorded())

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(PipelineFailed, match="disk is full") as failed:
        with_store(Workspace(tmp_path), work)
    assert "--resume" in failed.value.hint


def test_ledgers_on_postgres_stay_out_of_the_catalogue_s_schema(make_postgres, tmp_path):
    import psycopg

    url = make_postgres()
    workspace = Workspace(tmp_path, url)
    workspace.prepare()
    workspace.prepare()  # twice is no harm
    with psycopg.connect(url.replace("postgresql+psycopg", "postgresql")) as db:
        places = db.execute("SELECT table_schema FROM information_schema.tables WHERE table_name IN ('calls', 'items')").fetchall()
    assert {place for (place,) in places} == {SCHEMA}
