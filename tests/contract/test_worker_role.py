"""The role of a borrowed machine, on a real Postgres: it does a worker's whole work, and nothing else."""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import factories
import psycopg
import pytest
import sqlalchemy as sa
from api_kit import CITATION, add_live, measured, pair

from commands import installation
from pipeline import store as pipeline_store
from registry import advisors, runs, tokens, versions, worker_role
from registry.db import Database, normalise_url
from registry.errors import Conflict, Invalid, Unavailable
from registry.job_board import JobBoard
from registry.job_queue import BuildOrder, JobQueue
from registry.models import Base
from registry.settings import Settings

pytest.importorskip("dbos")
_numbers = itertools.count()


class Place:
    """A shared installation with an advisor, and a name for a role in it."""

    def __init__(self, url, home):
        self.url, self.home = url, home
        self.owner = Database(url)
        settings = Settings(home=home, database_url=url)
        installation._prepare_pipeline(settings)
        installation._prepare_jobs(settings)
        factories.add_advisor(self.owner, "elena")
        self.another_role()

    def another_role(self):
        self.role = f"worker_{os.getpid()}_{next(_numbers)}"  # roles belong to the server, not to a database
        self.role_url = sa.make_url(self.url).set(username=self.role).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def installed(postgres, tmp_path_factory):
    """Made once: DBOS's tables take seconds."""
    name = f"roles_{os.getpid()}"
    server = sa.create_engine(normalise_url(postgres), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} TEMPLATE template_catalogue")
    made = Place(postgres.replace("/postgres?", f"/{name}?"), tmp_path_factory.mktemp("roles"))
    yield made
    made.owner.dispose()
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    server.dispose()


@pytest.fixture
def place(installed):
    installed.another_role()
    return installed


@pytest.fixture
def worker(place):
    """The catalogue as the role sees it."""
    worker_role.apply(place.owner, place.role)
    db = Database(place.role_url)
    yield db
    db.dispose()


def test_a_worker_may_do_its_work_and_nothing_else(place, worker, store):
    with psycopg.connect(place.url, autocommit=True) as listener:
        listener.execute("LISTEN registry_catalogue")
        curate_train_and_promote(worker, store)
        assert next(listener.notifies(timeout=10)).channel == "registry_catalogue"  # the triggers tell the caches of a worker's writes, too
    with worker.read() as session:
        assert versions.resolve(session, "elena@live").number == 2
    keep_a_run(place)
    board = JobBoard.open(place.home, place.role_url)
    board.progress("build-elena-1", "step", {"step": "train"})
    board.beat("a", {})
    assert board.claim_dead(-1, "b") == ["a"]
    board.retire("a")
    assert board.jobs("nobody") == []
    board.dispose()
    refused(worker)


def curate_train_and_promote(db, store):
    db.require_head()
    factories.add_dataset(db, [pair("Why am I tired?"), pair("How do I rest?")], csl=[CITATION])
    assert add_live(db, store) == 1
    measured(db, "elena@1", loss=1.5)
    with db.transaction() as session:  # a run that ends well, a pending version of a run that died, and a rerun that adopts it
        advisor = advisors.get(session, "elena", lock=True)
        run = runs.start(session, advisor, "training", {"seed": 2}, actor="worker")
        runs.succeed(session, run.id, environment={}, timings={}, metrics={})
        versions.begin(session, advisor, factories.proposal(session, advisor, factories.put_files(store, "dead"), seed=2), actor="worker")
    with db.transaction() as session:
        advisor = advisors.get(session, "elena", lock=True)
        files = factories.put_files(store, "alive")
        version = versions.begin(session, advisor, factories.proposal(session, advisor, files, seed=2), actor="worker")
        kept = {"step": 5, "epoch": 0.5, "learning_rate": 1e-4, "sha256": files[0].sha256, "size": files[0].size}
        versions.keep_checkpoints(session, version, [kept])
        versions.finish(session, version.id, version.digest, actor="worker")
    from api_kit import promote

    promote(db, store, "elena@2")


def keep_a_run(place):
    """The pipeline's ledger and its checkpoints, without the right to make tables."""
    pytest.importorskip("langgraph")
    from pipeline.graph import checkpoints

    workspace = pipeline_store.Workspace(place.home, place.role_url)

    async def use():
        kept = workspace.open("run-1")
        await kept.close()
        async with checkpoints(place.home, workspace.conninfo) as saver:
            assert await saver.aget_tuple({"configurable": {"thread_id": "none"}}) is None

    asyncio.run(use())


def refused(db):
    statements = {
        "reading tokens": "SELECT * FROM tokens",
        "making a token": "INSERT INTO tokens (name) VALUES ('x')",
        "deleting events": "DELETE FROM events",
        "changing an event": "UPDATE events SET actor = 'x'",
        "changing a persona": "UPDATE personas SET text = 'x'",
        "adding a persona": "INSERT INTO personas (advisor_id) VALUES (1)",
        "adding an advisor": "INSERT INTO advisors (slug) VALUES ('x')",
        "publishing an advisor": "UPDATE advisors SET public = true",
        "naming an advisor": "INSERT INTO advisor_names VALUES ('x', 1)",
        "withdrawing a version": "UPDATE adapter_versions SET withdrawn_reason = 'x'",
        "deleting a version": "DELETE FROM adapter_versions",
        "clearing a source": "UPDATE sources SET withdrawn_at = NULL",
        "emptying a table": "TRUNCATE scores",
        "making a table": "CREATE TABLE mine (id int)",
        "making a schema": "CREATE SCHEMA mine",
        "dropping a table": "DROP TABLE events",
        "changing a table": "ALTER TABLE events DISABLE TRIGGER ALL",
        "changing an order": "UPDATE registry_jobs.jobs SET body = '{}'",
        "making a table for jobs": "CREATE TABLE registry_dbos.mine (id int)",
        "faking a migration": "UPDATE registry_dbos.dbos_migrations SET version = 0",
        "making a role": "CREATE ROLE another",
        "reading a file": "COPY (SELECT 1) TO '/tmp/x'",
    }
    for what, statement in statements.items():
        with pytest.raises(sa.exc.ProgrammingError) as error, db.engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert error.value.orig.sqlstate == "42501", (what, str(error.value))
    past = {  # granted, for what is not over yet; refused by the catalogue's triggers where it is
        "another file for a live version": "UPDATE version_files SET sha256 = 'sha256:' || repeat('0', 64)",
        "removing a live version's files": "DELETE FROM version_files",
        "one more file for a live version": "INSERT INTO version_files SELECT version_id, 'x', sha256, 1 FROM version_files LIMIT 1",
        "removing the checkpoints of a live version": "DELETE FROM version_checkpoints",
        "another digest for a live version": "UPDATE adapter_versions SET digest = 'sha256:' || repeat('0', 64)",
        "another recipe for a live version": "UPDATE adapter_versions SET recipe = '{}'",
        "another author of a live version": "UPDATE adapter_versions SET created_by = 'x'",
        "hiding a live version": "UPDATE adapter_versions SET state = 'pending'",
        "withdrawing without a reason": "UPDATE adapter_versions SET state = 'withdrawn'",
        "another end of a run": "UPDATE runs SET metrics = '{}'",
        "a run that goes on again": "UPDATE runs SET state = 'running'",
        "the history's end cut off": "UPDATE chain_head SET seq = 1",
        "the history's end forged": "UPDATE chain_head SET hash = 'sha256:' || repeat('0', 64)",
    }
    for what, statement in past.items():
        # A table of the worker's own in front of the catalogue's is no way around.
        for before in (
            "SELECT 1",
            "CREATE TEMP TABLE adapter_versions ON COMMIT DROP AS SELECT id, 'pending' AS state FROM adapter_versions",
        ):
            if before != "SELECT 1" and "UPDATE adapter_versions" in statement:
                continue
            with pytest.raises(sa.exc.IntegrityError) as error, db.engine.begin() as connection:
                connection.exec_driver_sql(before)
                connection.exec_driver_sql(statement)
            assert error.value.orig.sqlstate == "23000", (what, str(error.value))
    with pytest.raises(sa.exc.ProgrammingError), db.transaction() as session:
        tokens.create(session, "mine", ("admin",), actor="worker")


WORKER = """
import os, sys, time
from pathlib import Path
from dbos import DBOS, DBOSPortableJSONSerializer
from registry import job_queue as q
from registry.errors import TrainingFailed
url, home = sys.argv[1], Path(sys.argv[2])
DBOS(config={"name": q.APP_NAME, "system_database_url": q.dbos_url(home, url), "dbos_system_schema": q.SCHEMA, "run_migrations": False,
             "application_version": q.APP_VERSION, "executor_id": "probe-1", "serializer": DBOSPortableJSONSerializer(), "log_level": "WARNING"})
@DBOS.step()
def one():
    with (home / "one").open("a") as file:
        file.write("x")
    return {"made": 1}
@DBOS.step()
def two():
    if not (home / "mended").exists():
        raise TrainingFailed("The disk is full.")
    return {"made": 2}
@DBOS.workflow(name=q.WORKFLOW)
def build(order):
    return {"advisor": order["advisor"], "steps": [one(), two()]}
DBOS.launch()
while not (home / "done").exists():
    time.sleep(0.05)
DBOS.destroy()
"""


def test_dbos_works_as_the_role_without_making_tables_and_a_failed_job_goes_on(place, worker):
    queue = JobQueue.open(place.home, place.url)
    queue.client.register_queue("gpu", worker_concurrency=1, polling_interval_sec=0.1)
    place.home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", WORKER, place.role_url, str(place.home)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=Path(__file__).parent.parent.parent
    )
    try:
        job = queue.enqueue(BuildOrder("elena", "tester"))
        failed = wait(queue, job, process)
        assert (failed.state, failed.error, failed.executor) == ("failed", "The disk is full.", "probe-1")
        (place.home / "mended").touch()
        queue.retry(job)
        ended = wait(queue, job, process)
        assert (ended.state, ended.result) == ("succeeded", {"advisor": "elena", "steps": [{"made": 1}, {"made": 2}]})
        assert (place.home / "one").read_text() == "x"  # the step that had finished was not run again
        with pytest.raises(Conflict, match="has succeeded"):
            queue.cancel(job)
    finally:
        (place.home / "done").touch()
        output = process.communicate(timeout=60)[0]
        queue.dispose()
    assert process.returncode == 0, output


def wait(queue, job, process):
    for _ in range(600):
        found = queue.status(job)
        if not found.open or process.poll() is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def test_a_password_is_set_as_a_verifier_and_shown_nowhere(place):
    worker_role.apply(place.owner, place.role, "correct horse")
    worker_role.apply(place.owner, place.role)  # again, after an upgrade: the password stays
    with place.owner.engine.connect() as connection:
        query = sa.text("SELECT rolpassword, rolsuper, rolcanlogin FROM pg_authid WHERE rolname = :role")
        kept, mighty, may_log_in = connection.execute(query, {"role": place.role}).one()
    assert kept.startswith("SCRAM-SHA-256$")
    assert (mighty, may_log_in) == (False, True)
    assert "correct" not in "".join(worker_role.plan(place.owner, place.role))


def test_a_role_that_is_more_than_a_workers_is_refused(place):
    with place.owner.engine.begin() as connection:
        me = connection.execute(sa.text("SELECT current_user")).scalar_one()
        connection.exec_driver_sql(f"CREATE ROLE {place.role} CREATEROLE")
    with pytest.raises(Conflict, match="it is the one you are connected as and it has rights"):
        worker_role.apply(place.owner, me)
    with pytest.raises(Conflict, match="rights over the whole server"):
        worker_role.plan(place.owner, place.role)
    for name in ("Robert'); DROP", "pg_worker", "", "a-b"):
        with pytest.raises(Invalid, match="A worker's role is named"):
            worker_role.plan(place.owner, name)


def test_where_there_is_no_role_to_make(make_sqlite, make_postgres):
    small, bare = Database(make_sqlite()), Database(make_postgres())
    with pytest.raises(Invalid, match="SQLite file"):
        worker_role.plan(small, "worker")
    with pytest.raises(Unavailable, match="registry_dbos, registry_jobs, registry_pipeline"):
        worker_role.plan(bare, "worker")
    for db in (small, bare):
        db.dispose()


def test_the_lists_name_what_the_catalogue_has():
    tables = Base.metadata.tables
    assert {*worker_role.ADDED, *worker_role.CHANGED, *worker_role.REMOVED, *worker_role.HIDDEN} <= set(tables)
    for name, columns in worker_role.CHANGED.items():
        assert set(columns) <= set(tables[name].c.keys())
    assert worker_role.PIPELINE_SCHEMA == pipeline_store.SCHEMA
