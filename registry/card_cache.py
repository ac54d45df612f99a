"""Public Source Cards from memory: a small ASGI layer in front of the API.

A cache must not lie. Rules:
- Only GET and HEAD of /advisors/{slug}/sources without Authorization, and only answers with status 200, are kept.
- An entry is served only while nothing in the catalogue has changed since it was made. SQLite is asked on every request (PRAGMA data_version, about 4
  microseconds). Postgres tells by NOTIFY, sent by the migration's triggers as a transaction commits; while nobody listens, nothing is served from memory.
  A commit of this process is known at once, by Database.on_commit.
- The generation is read before the card is computed, and the card is kept only if it is still the same afterwards: a change in between is never missed.
- Memory is bounded by entries, by bytes, and by the length of what may be a key.

An entry holds the finished ASGI messages, plain and (made when first asked for) gzipped; a request that finds one costs a dictionary look-up and two sends.
Answers to one host or origin are never given to another that may not have them: the same Hosts and Origins decide as in registry/api/edge.py.
"""

import asyncio
import contextlib
import gzip
import itertools
import logging
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy import make_url
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.api.edge import Hosts, Origins, is_card
from registry.api.sources import matches
from registry.db import Database

CHANNEL = "registry_catalogue"  # what the first migration's triggers notify
MAX_BYTES = 64 * 1024 * 1024  # bodies in memory per worker
MAX_BODY = 1024 * 1024  # one card of all seven classes with 200 sources each would be larger, and is not worth the room
MAX_QUERY = 1024  # bytes of a query string that may be a key
MAX_PATH = 100
HEARTBEAT = 2.0  # seconds between signs of life of the listening connection
SILENCE = 2.5 * HEARTBEAT  # after so long without one nothing is served from memory, whatever the task that listens believes
_GZIP_LEVEL = 6
_REMEMBERED = 1024
_RESTARTS = (0.05, 5.0)  # seconds before the first and at most before a later attempt to listen again
_log = logging.getLogger(__name__)


class Watch(Protocol):
    """Says which generation of the catalogue this is."""

    def generation(self) -> int | None:
        """A number that changes whenever the catalogue has changed; None while nobody can tell."""

    async def start(self) -> None:
        """Begin to watch."""

    async def stop(self) -> None:
        """End watching; may be called twice."""


class Blind:
    """The watch that knows nothing: no cache."""

    def generation(self) -> int | None:
        """Unknown."""
        return None

    async def start(self) -> None:
        """Nothing to begin."""

    async def stop(self) -> None:
        """Nothing to end."""


class SqliteWatch:
    """Asks SQLite itself, on a connection of its own that never writes and never stays in a transaction."""

    def __init__(self, file: Path) -> None:
        """`file` is the catalogue."""
        self._file = file
        self._connection: sqlite3.Connection | None = None
        self._epoch = 0

    def generation(self) -> int | None:
        """The connection's data_version, which changes with every commit of any other connection in any process."""
        try:
            if self._connection is None:
                self._connection = self._open()
            version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error as error:
            _log.warning("the card cache cannot ask the catalogue for its version: %s", error)
            self._close()
            return None
        return self._epoch + version

    def _open(self) -> sqlite3.Connection:
        # Two connections count differently, so what one said is never compared with what another says.
        self._epoch += 2**33
        # The event loop's thread alone uses it, but under a test client that thread changes.
        return sqlite3.connect(f"file:{quote(str(self._file))}?mode=rw", uri=True, isolation_level=None, check_same_thread=False)

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    async def start(self) -> None:
        """Opened when first asked."""

    async def stop(self) -> None:
        """Close the connection."""
        self._close()


class PostgresWatch:
    """Listens for the triggers' notifications in a task of the event loop; deaf while its connection is down."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's."""
        self._conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._counter = itertools.count(1)
        self._generation = 0
        self._trusted_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def generation(self) -> int | None:
        """The number of the last change heard of; None while nobody listens."""
        return self._generation if time.monotonic() < self._trusted_until else None

    def bump(self) -> None:
        """Note a change; called from any thread."""
        self._generation = next(self._counter)

    async def start(self) -> None:
        """Begin to listen, in the background."""
        self._task = asyncio.get_running_loop().create_task(self._listen_for_ever(), name="registry-card-cache")

    async def stop(self) -> None:
        """End the task and its connection."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _listen_for_ever(self) -> None:
        import psycopg

        wait = _RESTARTS[0]
        try:
            while True:
                try:
                    await self._listen()
                except (psycopg.Error, OSError) as error:
                    _log.warning("the card cache is off until it can listen to the catalogue again: %s", str(error).strip())
                wait = _RESTARTS[0] if self._trusted_until else min(wait * 2, _RESTARTS[1])
                self._trusted_until = 0.0
                await asyncio.sleep(wait)
        finally:
            self._trusted_until = 0.0  # however this ends, nobody listens any more

    async def _listen(self) -> None:
        """Listen until the connection is lost; raises psycopg.Error or OSError then."""
        from psycopg import AsyncConnection, sql

        connection = await AsyncConnection.connect(self._conninfo, autocommit=True, connect_timeout=5)
        async with connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            self.bump()  # whatever happened before this moment was not heard
            while True:
                self._trusted_until = time.monotonic() + SILENCE
                async for _ in connection.notifies(timeout=HEARTBEAT):
                    self.bump()
                async with asyncio.timeout(HEARTBEAT):
                    await connection.execute("SELECT 1")


def watch_of(database: Database) -> Watch:
    """The watch for a catalogue; for Postgres it also hears of this process's own commits at once."""
    if database.is_sqlite:
        return SqliteWatch(database.file) if database.file is not None else Blind()
    watch = PostgresWatch(database.url)
    database.on_commit.append(watch.bump)
    return watch


Reply = tuple[Message, Message]


class _Entry:
    """One card, ready to send. `plain` is for clients that state neither an origin nor gzip, as most machines do."""

    __slots__ = ("_origins", "_replies", "_squeezed", "_unchanged", "body", "etag", "generation", "headers", "plain", "size")

    def __init__(self, generation: int | None, headers: list[tuple[bytes, bytes]], body: bytes, origins: Origins) -> None:
        self.generation = generation
        self.body = body
        self.size = len(body)
        self.headers = [*(h for h in headers if not h[0].startswith((b"access-control-", b"content-length", b"vary"))), _VARY]
        self.etag = next((value.decode("latin-1") for name, value in headers if name == b"etag"), "")
        self._origins = origins
        self._replies: dict[tuple[bytes | None, bool], Reply] = {}
        self._unchanged: dict[bytes | None, Reply] = {}
        self._squeezed: bytes | None = None
        self.plain = self.reply(None, squeezed=False)

    def reply(self, origin: bytes | None, *, squeezed: bool) -> Reply:
        """The messages for a request from `origin`."""
        key = (self._origins.key(origin), squeezed)
        found = self._replies.get(key)
        if found is None:
            body = self._gzipped() if squeezed else self.body
            encoding = [(b"content-encoding", b"gzip")] if squeezed else []
            headers = [*self.headers, *encoding, (b"content-length", str(len(body)).encode()), *self._origins.headers(origin)]
            found = self._replies[key] = _messages(200, headers, body)
        return found

    def _gzipped(self) -> bytes:
        if self._squeezed is None:
            self._squeezed = gzip.compress(self.body, _GZIP_LEVEL, mtime=0)
            self.size += len(self._squeezed)
        return self._squeezed

    def not_modified(self, origin: bytes | None) -> Reply:
        """The messages of a 304."""
        key = self._origins.key(origin)
        found = self._unchanged.get(key)
        if found is None:
            headers = [h for h in self.headers if not h[0].startswith(b"content-type")]
            found = self._unchanged[key] = _messages(304, [*headers, *self._origins.headers(origin)], b"")
        return found


_VARY = (b"vary", b"Accept-Encoding")


def _messages(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Reply:
    return {"type": "http.response.start", "status": status, "headers": headers}, {"type": "http.response.body", "body": body}


class CardCache:
    """The layer itself. Everything that is no public card goes through to `app` untouched."""

    def __init__(self, app: ASGIApp, watch: Watch, *, hosts: Hosts, origins: Origins, entries: int) -> None:
        """`entries` is how many cards are kept at most; 0 keeps none."""
        self._app = app
        self._watch = watch
        self._generation: Callable[[], int | None] = watch.generation if entries else Blind().generation
        self._hosts = hosts
        self._origins = origins
        self._limit = entries
        self._entries: OrderedDict[tuple[str, bytes], _Entry] = OrderedDict()
        self._bytes = 0
        self._filling: dict[tuple[str, bytes], asyncio.Future[None]] = {}
        self._gzip: dict[bytes, bool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from memory where that is allowed."""
        if scope["type"] != "http":
            await (self._lifespan if scope["type"] == "lifespan" else self._app)(scope, receive, send)
            return
        key = (scope["path"], scope["query_string"])
        entry = self._entries.get(key)
        headers = dict(scope["headers"])
        if (
            (entry is None and not is_card(key[0]))
            or scope["method"] not in ("GET", "HEAD")
            or b"authorization" in headers
            or not self._hosts.allow(headers.get(b"host"))
        ):
            await self._app(scope, receive, send)
            return
        if entry is not None and entry.generation == self._generation():
            self._entries.move_to_end(key)
        else:
            entry = await self._fresh(scope, headers, send)
            if entry is None:
                return
        if len(headers) == 1:  # a Host alone, as machines ask
            start, body = entry.plain
        else:
            size = entry.size
            start, body = self._choose(entry, headers)
            if entry.size != size and self._entries.get(key) is entry:
                self._bytes += entry.size - size
        await send(start)
        await send(body)

    def _choose(self, entry: _Entry, headers: dict[bytes, bytes]) -> Reply:
        """The variant of a card that a request asks for."""
        origin = headers.get(b"origin")
        known = headers.get(b"if-none-match")
        if known is not None and matches(known.decode("latin-1"), entry.etag):
            return entry.not_modified(origin)
        encoding = headers.get(b"accept-encoding")
        if encoding is None and origin is None:
            return entry.plain
        return entry.reply(origin, squeezed=encoding is not None and self._takes_gzip(encoding))

    def _takes_gzip(self, header: bytes) -> bool:
        if len(header) > 200:  # longer than any browser's; not worth remembering
            return False
        verdict = self._gzip.get(header)
        if verdict is None:
            if len(self._gzip) >= _REMEMBERED:
                self._gzip.clear()
            verdict = self._gzip[header] = _allows_gzip(header)
        return verdict

    async def _fresh(self, scope: Scope, headers: dict[bytes, bytes], send: Send) -> _Entry | None:
        """A card that was just computed, by this request or by one beside it; None where another answer than a card was sent."""
        key = (scope["path"], scope["query_string"])
        other = self._filling.get(key)
        if other is not None:
            await asyncio.shield(other)
            entry = self._entries.get(key)
            if entry is not None and entry.generation == self._generation():
                return entry
        # Who waited in vain does not wait again: a line of requests behind a dead database would move one time-out at a time.
        if other is not None or self._generation() is None:
            return await self._compute(scope, headers, send)
        done = self._filling[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._compute(scope, headers, send)
        finally:
            del self._filling[key]
            done.set_result(None)

    async def _compute(self, scope: Scope, headers: dict[bytes, bytes], send: Send) -> _Entry | None:
        before = self._generation()
        # Conditions and encodings are decided here, over the whole card, so the inner app is asked for just that.
        asked = [(name, headers[name]) for name in (b"host", b"origin") if name in headers]
        caught = _Caught()
        try:
            await self._app({**scope, "method": "GET", "headers": asked}, _nothing_to_receive, caught)
        except Exception:
            await caught.pass_on(send)  # the app's own words for a surprise, which it raises again for the server's log
            raise
        if caught.status != 200:
            await caught.pass_on(send)
            return None
        entry = _Entry(before, caught.headers, caught.body, self._origins)
        if before is not None and before == self._generation():
            self._keep((scope["path"], scope["query_string"]), entry)
        return entry

    def _keep(self, key: tuple[str, bytes], entry: _Entry) -> None:
        if len(key[0]) > MAX_PATH or len(key[1]) > MAX_QUERY or entry.size > MAX_BODY:
            return
        if self._entries and next(reversed(self._entries.values())).generation != entry.generation:
            self._entries.clear()  # the others are of an older catalogue
            self._bytes = 0
        old = self._entries.pop(key, None)
        self._bytes += entry.size - (old.size if old is not None else 0)
        self._entries[key] = entry
        while len(self._entries) > self._limit or self._bytes > MAX_BYTES:
            self._bytes -= self._entries.popitem(last=False)[1].size

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._watch.start()
        try:
            await self._app(scope, receive, send)
        finally:
            await self._watch.stop()


class _Caught:
    """Collects the inner app's answer instead of sending it."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        self.messages.append(message)

    async def pass_on(self, send: Send) -> None:
        for message in self.messages:
            await send(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return list(self.messages[0].get("headers", ()))

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])


async def _nothing_to_receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


def _allows_gzip(header: bytes) -> bool:
    """Whether Accept-Encoding takes gzip (RFC 9110, 12.5.3): named with a weight above 0, or covered by *."""
    weights: dict[str, float] = {}
    for part in header.decode("latin-1").lower().split(","):
        name, _, parameter = part.partition(";")
        weight = parameter.replace(" ", "").removeprefix("q=") or "1"
        with contextlib.suppress(ValueError):
            weights[name.strip()] = float(weight)
    return weights.get("gzip", weights.get("*", 0.0)) > 0
