"""The cache of public cards by itself: what it keeps, what it must not keep, and what it says of it."""

import asyncio
import gzip
import itertools
import time
from typing import Any

import pytest

from registry.api.edge import Hosts, Origins, is_card
from registry.card_cache import MAX_QUERY, Blind, CardCache, PostgresWatch, SqliteWatch, _allows_gzip

HOST = (b"host", b"example.org")
PATH = "/advisors/elena/sources"


class Count:
    """A watch that a test turns by hand."""

    def __init__(self) -> None:
        self.number: int | None = 1

    def generation(self) -> int | None:
        return self.number

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class Inner:
    """The app behind: counts its calls and answers with their number."""

    def __init__(self, status: int = 200, body: bytes = b"card %d") -> None:
        self.calls = 0
        self.status = status
        self.body = body
        self.during: Any = None
        self.seen: list[dict[str, Any]] = []

    async def __call__(self, scope, receive, send) -> None:
        self.calls += 1
        self.seen.append(scope)
        number = self.calls
        if self.during is not None:
            await self.during()
        headers = [(b"content-type", b"application/json"), (b"etag", b'W/"%d"' % number), (b"vary", b"Origin"), (b"content-length", b"6")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body % number if b"%d" in self.body else self.body})


def make(inner: Inner, watch: Any = None, entries: int = 100, origins: tuple[str, ...] = ()) -> CardCache:
    return CardCache(inner, watch or Count(), hosts=Hosts(["example.org"]), origins=Origins(origins), entries=entries)


async def ask(
    cache: Any, *headers: tuple[bytes, bytes], path: str = PATH, query: bytes = b"", method: str = "GET"
) -> tuple[int, dict, bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message) -> None:
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    await cache({"type": "http", "method": method, "path": path, "query_string": query, "headers": [HOST, *headers]}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


def run(test) -> None:
    asyncio.run(test())


def test_a_card_is_computed_once():
    async def story():
        inner = Inner()
        cache = make(inner)
        answers = [await ask(cache) for _ in range(3)]
        assert [body for _, _, body in answers] == [b"card 1"] * 3
        assert answers[0] == answers[2]
        assert inner.calls == 1

    run(story)


def test_a_change_of_the_catalogue_is_seen_by_the_next_request():
    async def story():
        inner, watch = Inner(), Count()
        cache = make(inner, watch)
        await ask(cache)
        watch.number = 2
        assert (await ask(cache))[2] == b"card 2"
        assert (await ask(cache))[2] == b"card 2"

    run(story)


def test_a_change_while_the_card_is_computed_is_not_missed():
    async def story():
        inner, watch = Inner(), Count()
        cache = make(inner, watch)
        numbers = itertools.count(2)

        async def change():
            watch.number = next(numbers)

        inner.during = change
        assert (await ask(cache))[2] == b"card 1"  # it may be answered with, for it was true when it was asked for
        inner.during = None
        assert (await ask(cache))[2] == b"card 2"
        assert (await ask(cache))[2] == b"card 2"

    run(story)


def test_nobody_watching_means_no_cache():
    async def story():
        inner, watch = Inner(), Count()
        cache = make(inner, watch)
        await ask(cache)
        watch.number = None
        assert [(await ask(cache))[2] for _ in range(2)] == [b"card 2", b"card 3"]
        watch.number = 1
        for blind in (make(Inner(), Blind()), make(Inner(), entries=0)):
            assert [(await ask(blind))[2] for _ in range(2)] == [b"card 1", b"card 2"]

    run(story)


def test_requests_at_the_same_time_share_one_computation():
    async def story():
        inner, gate = Inner(), asyncio.Event()
        cache = make(inner)
        inner.during = gate.wait
        waiting = [asyncio.create_task(ask(cache)) for _ in range(20)]
        await asyncio.sleep(0.01)
        assert inner.calls == 1
        gate.set()
        assert {body for _, _, body in await asyncio.gather(*waiting)} == {b"card 1"}
        assert inner.calls == 1

    run(story)


def test_who_waited_in_vain_does_not_wait_again():
    async def story():
        inner, gate = Inner(status=503), asyncio.Event()
        cache = make(inner)
        inner.during = gate.wait
        waiting = [asyncio.create_task(ask(cache)) for _ in range(10)]
        await asyncio.sleep(0.01)
        gate.set()
        assert {status for status, _, _ in await asyncio.gather(*waiting)} == {503}
        assert inner.calls == 10

    run(story)


def test_a_failing_app_leaves_no_waiter_behind():
    async def story():
        inner = Inner()

        async def fail():
            raise RuntimeError("broken")

        cache = make(inner)
        inner.during = fail
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await ask(cache)
        inner.during = None
        assert (await ask(cache))[0] == 200

    run(story)


@pytest.mark.parametrize("status", [404, 410, 422, 503])
def test_only_cards_are_kept(status):
    async def story():
        inner = Inner(status)
        cache = make(inner)
        assert [(await ask(cache))[0] for _ in range(2)] == [status, status]
        assert inner.calls == 2

    run(story)


def test_what_goes_past_the_cache():
    async def story():
        for headers, path, method in (
            ([(b"authorization", b"Bearer x")], PATH, "GET"),
            ([], "/advisors/elena", "GET"),
            ([], "/advisors/elena/x/sources", "GET"),
            ([], PATH, "POST"),
            ([], PATH, "OPTIONS"),
        ):
            inner = Inner()
            cache = make(inner)
            await ask(cache)
            for _ in range(2):
                await ask(cache, *headers, path=path, method=method)
            assert inner.calls == 3, (headers, path, method)
            assert inner.seen[-1]["method"] == method

    run(story)


def test_another_host_gets_nothing_from_memory():
    async def story():
        inner = Inner()
        cache = make(inner)
        await ask(cache)
        await ask(cache, (b"host", b"evil.example"))  # the last Host counts here
        assert inner.calls == 2

    run(story)


def test_not_modified_is_answered_here():
    async def story():
        inner = Inner()
        cache = make(inner)
        _, headers, _ = await ask(cache)
        for tag in (headers[b"etag"], b'"1"', b'"0", W/"1"', b"*"):
            status, kept, body = await ask(cache, (b"if-none-match", tag))
            assert (status, body, kept[b"etag"]) == (304, b"", headers[b"etag"])
            assert b"content-length" not in kept
            assert b"content-type" not in kept
        assert (await ask(cache, (b"if-none-match", b'"2"')))[0] == 200
        assert inner.calls == 1
        fresh = make(inner)
        assert (await ask(fresh, (b"if-none-match", b'W/"2"')))[0] == 304  # also on the very first request

    run(story)


def test_gzip_is_made_once_and_only_for_those_who_take_it():
    async def story():
        inner = Inner(body=b"x" * 5000)
        cache = make(inner)
        plain = await ask(cache, (b"accept-encoding", b"identity"))
        first, second = [await ask(cache, (b"accept-encoding", b"gzip, br")) for _ in range(2)]
        assert gzip.decompress(first[2]) == plain[2] == b"x" * 5000
        assert first[2] is second[2]
        assert (first[1][b"content-encoding"], first[1][b"content-length"]) == (b"gzip", str(len(first[2])).encode())
        assert plain[1][b"vary"] == first[1][b"vary"] == b"Accept-Encoding"
        assert first[1][b"etag"] == plain[1][b"etag"]
        assert inner.calls == 1

    run(story)


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        (b"gzip", True),
        (b"br, GZIP;q=0.5", True),
        (b"*", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0, *", False),
        (b"br", False),
        (b"", False),
        (b"gzip;q=x", False),
        (b"\xff\xfe", False),
    ],
)
def test_who_takes_gzip(header, takes):
    assert _allows_gzip(header) is takes


def test_each_origin_gets_its_own_headers():
    async def story():
        inner = Inner()
        cache = make(inner, origins=("https://good.example",))
        seen = {}
        for origin in (b"https://good.example", b"https://evil.example", None):
            _, headers, _ = await ask(cache, *([(b"origin", origin)] if origin else []))
            seen[origin] = headers.get(b"access-control-allow-origin")
            assert headers[b"vary"] == b"Origin"  # beside Accept-Encoding, which this dict hides
        assert seen == {b"https://good.example": b"https://good.example", b"https://evil.example": None, None: None}
        assert inner.calls == 1
        everybody = make(Inner(), origins=("*",))
        for origin in ([], [(b"origin", b"https://any.example")]):
            assert (await ask(everybody, *origin))[1][b"access-control-allow-origin"] == b"*"

    run(story)


def test_head_is_served_from_the_same_entry():
    async def story():
        inner = Inner()
        cache = make(inner)
        await ask(cache, method="HEAD")
        status, headers, _ = await ask(cache, method="HEAD")  # the server sends no body for HEAD
        assert (status, headers[b"content-length"]) == (200, b"6")
        assert [scope["method"] for scope in inner.seen] == ["GET"]

    run(story)


def test_memory_is_bounded():
    async def story():
        inner = Inner()
        cache = make(inner, entries=3)
        for n in range(5):
            await ask(cache, query=b"limit=%d" % n)
        assert len(cache._entries) == 3
        await ask(cache, query=b"limit=2")  # now the youngest
        await ask(cache, query=b"limit=9")
        assert [key[1] for key in cache._entries] == [b"limit=4", b"limit=2", b"limit=9"]
        await ask(cache, query=b"x" * (MAX_QUERY + 1))
        await ask(cache, path="/advisors/" + "a" * 200 + "/sources")
        assert len(cache._entries) == 3
        assert cache._bytes == sum(entry.size for entry in cache._entries.values())
        large = make(Inner(body=b"0" * (2 * 1024 * 1024)))
        await ask(large)
        assert not large._entries

    run(story)


def test_old_entries_go_when_the_catalogue_changes():
    async def story():
        watch = Count()
        cache = make(Inner(), watch)
        for n in range(5):
            await ask(cache, (b"accept-encoding", b"gzip"), query=b"limit=%d" % n)
        watch.number = 2
        await ask(cache)
        assert len(cache._entries) == 1
        assert cache._bytes == sum(entry.size for entry in cache._entries.values())

    run(story)


def test_what_is_not_kept_is_not_counted():
    async def story():
        watch = Count()
        cache = make(Inner(body=b"x" * 5000), watch)
        watch.number = None
        for _ in range(3):
            await ask(cache, (b"accept-encoding", b"gzip"))
        assert (cache._bytes, len(cache._entries)) == (0, 0)

    run(story)


def test_a_surprise_is_answered_in_the_apps_own_words():
    async def story():
        async def app(_scope, _receive, send):
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"problem"})
            raise ZeroDivisionError

        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": PATH, "query_string": b"", "headers": [HOST]}
        with pytest.raises(ZeroDivisionError):
            await make(app)(scope, None, send)
        assert [m.get("status") or m["body"] for m in sent] == [500, b"problem"]

    run(story)


def test_hosts():
    hosts = Hosts(["example.org", "*.team.example", "[::1]"])
    for name in (b"example.org", b"EXAMPLE.org:80", b"a.team.example", b"[::1]:8000", b"[::1]"):
        assert hosts.allow(name), name
    for name in (b"", b"org", b"team.example", b"xexample.org", b"example.org.evil", b"[::2]", b"example.org:x", None, b"\xff"):
        assert not hosts.allow(name), name
    assert Hosts(["*"]).allow(b"anything")
    for n in range(3000):
        hosts.allow(b"h%d" % n)
    assert len(hosts._verdicts) <= 1024


def test_which_addresses_are_cards():
    assert is_card("/advisors/elena/sources")
    for path in (
        "/advisors//x/sources",
        "/advisors/elena/sources/",
        "/advisors/sources",
        "/x/elena/sources",
        "/advisors/elena/versions/sources",
    ):
        assert not is_card(path), path


def test_the_sqlite_watch_sees_other_connections_and_survives_a_lost_file(make_sqlite, tmp_path):
    import sqlite3

    url = make_sqlite()
    watch = SqliteWatch(tmp_path / url.rpartition("/")[2])
    first = watch.generation()
    assert first is not None
    assert watch.generation() == first
    with sqlite3.connect(watch._file) as other:
        other.execute("INSERT INTO advisor_names (name, advisor_id) SELECT 'x', id FROM advisors")
        other.execute("UPDATE chain_head SET seq = seq + 1")
    other.close()
    assert watch.generation() not in (None, first)
    before = watch.generation()
    asyncio.run(watch.stop())
    assert watch.generation() != before  # another connection counts anew, and is never taken for the old one
    asyncio.run(watch.stop())
    assert SqliteWatch(tmp_path / "missing.db").generation() is None


def test_after_a_long_silence_nothing_is_trusted():
    watch = PostgresWatch("postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert watch.generation() is None
    watch._trusted_until = time.monotonic() + 5
    before = watch.generation()
    watch.bump()
    assert watch.generation() not in (None, before)
    watch._trusted_until = time.monotonic() - 0.001  # however sure its task may be
    assert watch.generation() is None
