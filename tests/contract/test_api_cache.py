"""The whole service, as uvicorn gets it: the cache in front changes nothing but speed, and never tells what is no longer true."""

import asyncio
import gzip
import time
from collections.abc import Callable, Iterator

import factories
import pytest
from api_kit import DOI, HOST, Api, add_live, counted, measured, pair, problem, promote, public_elena, settings, withdraw_source
from sqlalchemy import text
from starlette.testclient import TestClient

from registry import advisors
from registry.api.app import create_app
from registry.app import compose
from registry.card_cache import CardCache, PostgresWatch, watch_of

CARD = "/advisors/elena/sources"
only_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True)


class Served(Api):
    """The composed service with its lifespan running."""

    cache: CardCache

    def number(self, query: str = "") -> int | None:
        version = self.client.get(CARD + query).json()["version"]
        return None if version is None else version["number"]

    def from_memory(self) -> bool:
        """Whether a card comes without a statement."""
        self.client.get(CARD)
        with counted(self.db) as statements:
            assert self.client.get(CARD).status_code == 200
        return not statements

    def wait_until(self, true: Callable[[], bool], seconds: float = 15) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not happen in time"
            time.sleep(0.02)


@pytest.fixture
def served(db, store) -> Iterator[Served]:
    public_elena(db, store)
    factories.add_version(db, store, seed=2)
    app = create_app(settings(cors_origins=("https://good.example",)), db, store)
    whole = compose(app)
    api = Served(db, store, app)
    api.cache = whole
    with TestClient(whole, base_url=f"http://{HOST}") as client:
        api.client = client
        api.wait_until(lambda: whole._watch.generation() is not None)
        yield api


def test_the_second_request_asks_the_database_nothing(served):
    first = served.client.get(CARD)
    with counted(served.db) as statements:
        second = served.client.get(CARD)
    assert statements == []
    assert second.json() == first.json()
    assert second.headers == first.headers
    alone = TestClient(served.app, base_url=f"http://{HOST}").get(CARD, headers={"accept-encoding": "identity"})
    assert {**alone.json(), "generated_at": ""} == {**second.json(), "generated_at": ""}
    assert alone.headers["etag"] == second.headers["etag"]


def test_every_change_shows_on_the_very_next_request(served):
    assert (served.number(), served.number()) == (1, 1)
    for number in (2, 1, 2, 1):
        assert served.send("PUT", "/advisors/elena/aliases/live", {"version": number}).json()["done"] is True
        assert (served.number(), served.number()) == (number, number)
    served.post("/advisors/elena/aliases/live/rollback", {"reason": "r", "to": 2})
    assert served.number() == 2
    served.post("/advisors/elena/aliases/live/undo", {})
    assert served.number() == 1
    served.send("PATCH", "/advisors/elena", {"role": "Guide"})
    assert served.client.get(CARD).json()["advisor"]["role"] == "Guide"
    served.post("/advisors/elena/names", {"name": "lena"})
    assert served.client.get(CARD).json()["advisor"]["aliases"] == ["dr-elena", "lena"]
    measured(served.db, "elena@1", loss=1)
    assert served.client.get(CARD).json()["evaluated"]["value"] == 1
    withdraw_source(served.db, DOI)
    assert served.client.get(CARD).json()["state"] == "withheld"
    served.send("PATCH", "/advisors/elena", {"public": False})
    problem(served.client.get(CARD), 404)
    served.send("PATCH", "/advisors/elena", {"public": True})
    served.post("/advisors/elena/retire", {"reason": "r"})
    problem(served.client.get(CARD), 410)


def test_a_change_that_fails_changes_nothing(served):
    assert served.number() == 1
    problem(served.send("PUT", "/advisors/elena/aliases/live", {"version": 2, "expected_version": 9}), 412)
    assert served.number() == 1


def test_writes_of_other_programs_show_too(served):
    """By plain SQL on a connection that knows nothing of the product."""
    served.wait_until(served.from_memory)  # a notification of the last write may still be under way
    with served.db.engine.connect() as connection:
        connection.execute(text("UPDATE advisors SET name = 'Eleonora' WHERE slug = 'elena'"))
        connection.commit()
    served.wait_until(lambda: served.client.get(CARD).json()["advisor"]["name"] == "Eleonora", 2)


def test_variants_come_from_one_entry(served):
    served.client.get(CARD)
    with counted(served.db) as statements:
        squeezed = served.client.get(CARD, headers={"accept-encoding": "gzip"})
        plain = served.client.get(CARD, headers={"accept-encoding": "identity"})
        other = served.client.get(CARD, headers={"origin": "https://good.example"})
        head = served.client.head(CARD, headers={"accept-encoding": "identity"})
        unchanged = served.client.get(CARD, headers={"if-none-match": plain.headers["etag"]})
    assert statements == []
    assert squeezed.headers["content-encoding"] == "gzip"
    assert int(squeezed.headers["content-length"]) < int(plain.headers["content-length"])
    assert squeezed.content == plain.content  # the client unpacks it
    assert len(gzip.compress(plain.content)) < len(plain.content)
    assert "Accept-Encoding" in plain.headers["vary"]
    assert other.headers["access-control-allow-origin"] == "https://good.example"
    assert "access-control-allow-origin" not in plain.headers
    assert head.headers["content-length"] == plain.headers["content-length"]
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    for answer in (squeezed, plain, other, unchanged):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "public, no-cache"


def test_a_token_goes_past_the_cache_and_leaves_nothing_in_it(served):
    served.send("PATCH", "/advisors/elena", {"public": False})
    assert served.client.get(CARD, headers=served.root).status_code == 200
    problem(served.client.get(CARD), 404)
    assert not served.cache._entries


def test_the_host_is_checked_for_cached_cards_too(served):
    served.wait_until(served.from_memory)  # a notification of the last write may still be under way
    problem(served.client.get(CARD, headers={"host": "evil.example"}), 400, "unknown_host")


def test_refused_requests_are_not_kept(served):
    for query in ("?limit=0", "?group=x", "?version=99", "?cursor=x"):
        assert served.client.get(CARD + query).status_code in (404, 422)
    assert not served.cache._entries
    assert served.number("?version=2") == 2
    assert len(served.cache._entries) == 1


def test_downloads_and_the_rest_pass_unchanged(served):
    files = served.get("/advisors/elena/versions/1").json()["files"]
    response = served.get("/advisors/elena/versions/1/files/adapter_config.json")
    assert response.headers["etag"] == f'"{files[0]["sha256"]}"'
    assert served.client.get("/health").json() == {"status": "ok"}


# ---- Postgres: no listener, no cache --------------------------------------------------------------------------------------------------------


def kill_listener(api: Served) -> None:
    with api.db.engine.connect() as connection:
        found = connection.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'LISTEN%'")
        )
        killed = [row[0] for row in found]
        if not killed:  # its last statement was the sign of life
            listener = text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND query = 'SELECT 1'"
            )
            killed = [row[0] for row in connection.execute(listener)]
    assert killed


@only_postgres
def test_a_killed_listener_means_no_cache_until_it_is_back(served, monkeypatch):
    served.wait_until(served.from_memory)  # a notification of the last write may still be under way
    monkeypatch.setattr("registry.card_cache._RESTARTS", (1.0, 1.0))
    kill_listener(served)
    served.wait_until(lambda: served.cache._watch.generation() is None)
    with counted(served.db) as statements:
        assert served.number() == 1
        assert served.number() == 1
    assert len(statements) == 4
    with served.db.engine.connect() as connection:  # nobody hears of this
        connection.execute(text("UPDATE advisors SET name = 'Unheard' WHERE slug = 'elena'"))
        connection.commit()
    assert served.client.get(CARD).json()["advisor"]["name"] == "Unheard"
    served.wait_until(lambda: served.cache._watch.generation() is not None)
    assert served.client.get(CARD).json()["advisor"]["name"] == "Unheard"
    served.wait_until(served.from_memory)  # a notification of the last write may still be under way
    promote(served.db, served.store, "elena@2")
    assert served.number() == 2


@only_postgres
def test_without_a_running_listener_nothing_is_kept(db, store):
    public_elena(db, store)
    client = TestClient(compose(create_app(settings(), db, store)), base_url=f"http://{HOST}")  # no lifespan, so no listener
    with counted(db) as statements:
        assert [client.get(CARD).status_code for _ in range(2)] == [200, 200]
    assert len(statements) == 4


def test_a_listener_that_cannot_connect_goes_on_trying():
    async def story() -> None:
        watch = PostgresWatch("postgresql+psycopg://nobody@127.0.0.1:1/none")
        await watch.start()
        await asyncio.sleep(0.2)
        assert watch.generation() is None
        assert watch._task is not None
        assert not watch._task.done()
        await watch.stop()
        await watch.stop()

    asyncio.run(story())


def test_the_watch_suits_the_database(db):
    callbacks = len(db.on_commit)
    watch = watch_of(db)
    assert (type(watch).__name__ == "SqliteWatch") == db.is_sqlite
    assert len(db.on_commit) == callbacks + (0 if db.is_sqlite else 1)


def test_a_registry_that_keeps_no_cards(db, store):
    public_elena(db, store)
    whole = compose(create_app(settings(card_cache_entries=0), db, store))
    with TestClient(whole, base_url=f"http://{HOST}") as client, counted(db) as statements:
        assert [client.get(CARD).status_code for _ in range(2)] == [200, 200]
    assert len([s for s in statements if "advisor_names" in s]) == 2


def test_private_advisors_stay_private_when_others_are_cached(served):
    factories.add_advisor(served.db, "marcus")
    factories.add_dataset(served.db, [pair("Why?")], "marcus")
    add_live(served.db, served.store, "marcus", seed=3)
    served.wait_until(served.from_memory)  # a notification of the last write may still be under way
    problem(served.client.get("/advisors/marcus/sources"), 404)
    with served.db.transaction() as session:
        advisors.change(session, advisors.get(session, "marcus"), actor="x", public=True)
    assert served.client.get("/advisors/marcus/sources").status_code == 200
