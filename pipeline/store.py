"""Where a run writes down what it paid for and what it made: SQLite in the run's own folder, or a schema of its own in Postgres.

A commit survives kill -9; on SQLite it survives a power cut too (synchronous=FULL), because an answer that was paid for must not be paid for again.
One run is driven by one process: opening it takes a lock that the operating system or the database gives back when the process dies. All statements run
in one thread of their own, in order, so the event loop never waits for a disk.
The catalogue's own schema is not touched: this is Alembic's neither to make nor to migrate.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout

from pipeline.ports import Recorded, Usage
from pipeline.values import PipelineFailed
from registry.errors import Conflict, NotFound
from registry.refs import check_slug

SCHEMA = "registry_pipeline"  # the Postgres schema of ledgers and checkpoints
_TABLES = (
    """CREATE TABLE IF NOT EXISTS calls (
        run TEXT NOT NULL, key TEXT NOT NULL, seq {serial}, purpose TEXT NOT NULL, answer TEXT NOT NULL, received_at TEXT NOT NULL,
        usage TEXT NOT NULL, cost DOUBLE PRECISION, attempts INTEGER NOT NULL, seconds DOUBLE PRECISION NOT NULL, UNIQUE (run, key))""",
    "CREATE TABLE IF NOT EXISTS items (run TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run, kind, id))",
)
_CALL = "key, purpose, received_at, usage, cost, attempts, seconds"
T = TypeVar("T")


class _Connection(Protocol):
    """What both drivers have in common, with %s for a parameter."""

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]: ...

    def write(self, sql: str, rows: Sequence[Sequence[Any]]) -> None: ...

    def close(self) -> None: ...


class _Sqlite:
    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        for table in _TABLES:
            self._db.execute(table.format(serial="INTEGER PRIMARY KEY AUTOINCREMENT"))

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return self._db.execute(sql.replace("%s", "?"), parameters).fetchall()

    def write(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(sql.replace("%s", "?"), rows)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        self._db.close()


class _Postgres:
    def __init__(self, conninfo: str) -> None:
        import psycopg

        self._db = psycopg.connect(conninfo, autocommit=True)

    def prepare(self) -> None:
        # A worker's role may use the tables and not make them, and IF NOT EXISTS asks for the right to make them all the same.
        found = self._db.execute("SELECT to_regclass(%s), to_regclass(%s)", [f"{SCHEMA}.calls", f"{SCHEMA}.items"]).fetchone()
        if found and all(found):
            return
        # Two processes may do this at the same moment, and IF NOT EXISTS does not keep them apart.
        with self._db.transaction():
            self._db.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [SCHEMA])
            self._db.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
            for table in _TABLES:
                self._db.execute(table.format(serial="BIGSERIAL PRIMARY KEY").encode())

    def lock(self, run: str) -> bool:
        found = self._db.execute("SELECT pg_try_advisory_lock(hashtext(%s), hashtext(%s))", [SCHEMA, run]).fetchone()
        return bool(found and found[0])

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[Any]:
        return self._db.execute(sql.encode(), parameters).fetchall()

    def write(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with self._db.transaction(), self._db.cursor() as cursor:
            cursor.executemany(sql.encode(), rows)

    def close(self) -> None:
        # The server would give the lock back too, but only when it notices that the connection is gone; who opens the run right after would meet it.
        if not self._db.closed:
            with suppress(Exception):
                self._db.execute("SELECT pg_advisory_unlock_all()")
        self._db.close()


def is_storage_error(error: BaseException) -> bool:
    """Whether a disk or a database refused; psycopg is looked for by name, because it may not be installed."""
    return isinstance(error, (sqlite3.Error, OSError)) or any(kind.__module__.startswith("psycopg") for kind in type(error).__mro__)


@contextmanager
def storage_in_words() -> Iterator[None]:
    """Turn what a disk or a database refuses inside the block into a sentence (PipelineFailed)."""
    try:
        yield
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise PipelineFailed(
            f"The run's ledger could not be read or written: {str(error).strip() or type(error).__name__}.",
            hint="Everything committed before is kept. Make room or mend the disk or the database, then go on with --resume.",
        ) from error


class SqlRunStore:
    """One run's ledger and workbook (the protocol RunStore)."""

    def __init__(self, run: str, connection: _Connection, release: Callable[[], None]) -> None:
        self.run = run
        self._connection = connection
        self._release = release
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    async def _do(self, work: Callable[[], T]) -> T:
        with storage_in_words():
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def recorded(self, key: str) -> Recorded | None:
        """The committed answer to a request, or None."""
        rows = await self._do(
            lambda: self._connection.rows(f"SELECT {_CALL}, answer FROM calls WHERE run = %s AND key = %s", (self.run, key))  # noqa: S608
        )
        return _recorded(rows[0]) if rows else None

    async def record(self, call: Recorded) -> None:
        """Commit an answer; the first one for a key stays."""
        row = (
            self.run,
            call.key,
            call.purpose,
            _dump(call.answer),
            call.received_at,
            _dump(asdict(call.usage)),
            call.cost,
            call.attempts,
            call.seconds,
        )
        sql = (
            "INSERT INTO calls (run, key, purpose, answer, received_at, usage, cost, attempts, seconds)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (run, key) DO NOTHING"
        )
        await self._do(lambda: self._connection.write(sql, [row]))

    async def calls(self) -> list[Recorded]:
        """Every committed answer in the order of commit, with `answer` left empty."""
        rows = await self._do(
            lambda: self._connection.rows(f"SELECT {_CALL}, '{{}}' FROM calls WHERE run = %s ORDER BY seq", (self.run,))  # noqa: S608
        )
        return [_recorded(row) for row in rows]

    async def put(self, kind: str, items: Mapping[str, Mapping[str, Any]]) -> None:
        """Write values by kind and id; the same id again replaces the value."""
        rows = [(self.run, kind, name, _dump(body)) for name, body in items.items()]
        sql = (
            "INSERT INTO items (run, kind, id, body) VALUES (%s, %s, %s, %s) ON CONFLICT (run, kind, id) DO UPDATE SET body = excluded.body"
        )
        if rows:
            await self._do(lambda: self._connection.write(sql, rows))

    async def items(self, kind: str) -> dict[str, dict[str, Any]]:
        """Every value of a kind, by id, in the order of ids."""
        rows = await self._do(lambda: self._connection.rows("SELECT id, body FROM items WHERE run = %s AND kind = %s", (self.run, kind)))
        # Sorted here: a database sorts text by its own collation.
        return {name: json.loads(body) for name, body in sorted(rows)}

    async def item(self, kind: str, name: str) -> dict[str, Any] | None:
        """One value, or None."""
        rows = await self._do(
            lambda: self._connection.rows("SELECT body FROM items WHERE run = %s AND kind = %s AND id = %s", (self.run, kind, name))
        )
        return json.loads(rows[0][0]) if rows else None

    async def remove(self, kind: str, names: Sequence[str]) -> None:
        """Take values out; names that are not there do not matter."""
        rows = [(self.run, kind, name) for name in names]
        if rows:
            await self._do(lambda: self._connection.write("DELETE FROM items WHERE run = %s AND kind = %s AND id = %s", rows))

    async def close(self) -> None:
        """Close the connection and give the run's lock back."""
        await self._do(self._connection.close)
        self._thread.shutdown()
        self._release()


def _dump(value: Any) -> str:
    return json.dumps(
        value, separators=(",", ":")
    )  # ASCII: half a surrogate pair, or a null, is a legal answer and no legal UTF-8 or Postgres text


def _recorded(row: Sequence[Any]) -> Recorded:
    key, purpose, received_at, usage, cost, attempts, seconds, answer = row
    return Recorded(key, purpose, json.loads(answer), received_at, Usage(**json.loads(usage)), cost, attempts, seconds)


class Workspace:
    """All runs of an installation. `url` is a Postgres URL where the catalogue is shared; None keeps ledgers in the run folders."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.root = home / "pipeline"
        self._url = url.replace("postgresql+psycopg://", "postgresql://", 1) if url and url.startswith("postgresql") else None

    @property
    def conninfo(self) -> str | None:
        """How the ledger and the checkpoints reach Postgres, with their schema first in the search path; None when embedded."""
        if self._url is None:
            return None
        from psycopg.conninfo import make_conninfo

        return make_conninfo(self._url, options=f"-csearch_path={SCHEMA}")

    def prepare(self) -> None:
        """Make the Postgres schema and its tables, where the catalogue is on Postgres; `registry init` calls it."""
        if self.conninfo is not None:
            connection = _Postgres(self.conninfo)
            try:
                connection.prepare()
            finally:
                connection.close()

    def folder(self, run: str) -> Path:
        """Where the files of a run lie; a run's name is a slug, so it cannot lead elsewhere."""
        return self.root / check_slug(run, "run")

    def open(self, run: str) -> SqlRunStore:
        """Open a run and lock it. Raises Conflict where another process drives it."""
        folder = self.folder(run)
        folder.mkdir(parents=True, exist_ok=True)
        busy = Conflict(f"Another process is working on run {run}.", hint="Wait for it, or end it, then go on with --resume.")
        if self.conninfo is not None:
            connection = _Postgres(self.conninfo)
            connection.prepare()
            if not connection.lock(run):
                connection.close()
                raise busy
            return SqlRunStore(run, connection, lambda: None)  # closing the connection gives its lock back
        lock = FileLock(folder / "run.lock", thread_local=False)  # taken in one thread and given back in another
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise busy from None
        try:
            with storage_in_words():
                return SqlRunStore(run, _Sqlite(folder / "ledger.db"), lock.release)
        except PipelineFailed:
            lock.release()
            raise

    def orders(self, advisor: str) -> dict[str, dict[str, Any]]:
        """What was ordered for an advisor, by run in the order of their names (which begin with the time), the newest last."""
        if self.conninfo is not None:
            connection = _Postgres(self.conninfo)
            try:
                connection.prepare()
                rows = connection.rows("SELECT run, body FROM items WHERE kind = 'order'", ())
            finally:
                connection.close()
        else:
            rows = [row for path in self.root.glob("*/ledger.db") for row in _sqlite_orders(path)]
        found = {run: json.loads(body) for run, body in sorted(rows)}
        return {run: order for run, order in found.items() if order["advisor"] == advisor}

    def newest(self, advisor: str) -> str:
        """The newest run of an advisor; NotFound where there is none."""
        runs = list(self.orders(advisor))
        if not runs:
            raise NotFound(f"'{advisor}' has no run to go on with.", hint=f"Start one: registry pipeline --advisor {advisor}")
        return runs[-1]


def _sqlite_orders(path: Path) -> list[Any]:
    try:
        db = sqlite3.connect(path.absolute().as_uri() + "?mode=ro", uri=True)
    except sqlite3.Error:
        return []
    try:
        return db.execute("SELECT run, body FROM items WHERE kind = 'order'").fetchall()
    except sqlite3.DatabaseError:  # killed before it wrote its tables, or damaged: the other runs are still there
        return []
    finally:
        db.close()
