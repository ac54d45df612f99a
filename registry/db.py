"""Engine, sessions and transactions of the catalogue; SQLite's pragmas and Postgres's isolation live here and nowhere else.

Rules: registry functions take a Session and never commit; `Database.transaction()` commits when its block ends and rolls back when it raises.
A write transaction takes SQLite's write lock at its start (BEGIN IMMEDIATE), so that what it reads stays true until it commits; on Postgres
the functions lock the advisor's row. The schema is Alembic's alone: nothing here creates a table.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, make_url, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from registry.errors import Invalid, Unavailable, WrongRevision

# The newest script in migrations/versions; a test keeps the two equal. Reading it here saves every command the import of Alembic.
HEAD_REVISION = "0002"
VERSION_TABLE = "registry_schema_version"  # an own name: other tools that share the database use alembic_version (mlflow#2923)
BUSY_TIMEOUT_MS = 30_000


def normalise_url(url: str) -> str:
    """The URL with the driver this product is tested with: psycopg 3 on Postgres, the standard library on SQLite. Raises Invalid otherwise."""
    try:
        parsed = make_url(url)
    except exc.ArgumentError:
        raise Invalid(
            "Expected a database URL such as sqlite:////data/catalogue.db or postgresql://user@host/name; found something else.",
            hint="Check REGISTRY_DATABASE_URL.",
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if backend == "sqlite":
        return parsed.set(drivername="sqlite").render_as_string(hide_password=False)
    raise Invalid(f"The catalogue runs on SQLite and Postgres; found a URL for '{backend}'.", hint="Check REGISTRY_DATABASE_URL.")


class Database:
    """One engine and the ways to use it. `on_commit` holds callables that run after every committed write of this process."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        """Open nothing yet; the first session connects. Creates the folder of a SQLite file."""
        self.url = normalise_url(url)
        parsed = make_url(self.url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.file = Path(parsed.database) if self.is_sqlite and parsed.database else None
        self.on_commit: list[Callable[[], None]] = []
        if self.file is not None:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        self.engine = _engine(self.url, is_sqlite=self.is_sqlite, pool_size=pool_size)
        self._writer = self.engine.execution_options(registry_write=True)
        # One snapshot for all statements of a read, as SQLite gives it anyway: a card or an audit must not see half a change.
        self._reader = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading one moment's state, whatever is written meanwhile; always rolled back."""
        with words_for_outages(), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        with words_for_outages(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session
        for callback in self.on_commit:
            callback()

    def revision(self) -> str | None:
        """The schema revision found in the database, or None in an empty one."""
        with words_for_outages(), self.engine.connect() as connection:
            if not inspect(connection).has_table(VERSION_TABLE):
                return None
            found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608  # a constant of this module
            return None if found is None else str(found)

    def require_head(self) -> None:
        """Raise WrongRevision, naming the command that fixes it, unless the schema is the one this code was written for."""
        found = self.revision()
        if found == HEAD_REVISION:
            return
        if found is None:
            raise WrongRevision(
                f"The catalogue at {self.place} is empty: expected schema revision {HEAD_REVISION}.", hint="Run: registry init"
            )
        if found > HEAD_REVISION:
            raise WrongRevision(
                f"The catalogue has schema revision {found}; this program knows up to {HEAD_REVISION}.",
                hint="Install a newer release of adapter-registry.",
            )
        raise WrongRevision(
            f"The catalogue has schema revision {found}; this program needs {HEAD_REVISION}.",
            hint="Back the catalogue up, then run: registry db upgrade",
        )

    @property
    def place(self) -> str:
        """The URL without its password, for messages."""
        return make_url(self.url).render_as_string(hide_password=True)

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _engine(url: str, *, is_sqlite: bool, pool_size: int) -> Engine:
    if not is_sqlite:
        # pre-ping: a connection that the server dropped is replaced before a request meets it.
        try:
            return create_engine(url, pool_pre_ping=True, pool_size=pool_size, max_overflow=pool_size, connect_args={"connect_timeout": 5})
        except ModuleNotFoundError:
            raise Invalid(
                "A Postgres catalogue needs the psycopg package, which is not installed.",
                hint="Run: pip install 'adapter-registry[postgres]'",
            ) from None
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _sqlite_connect)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _sqlite_connect(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # the driver would otherwise begin transactions itself, late and deferred
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", f"busy_timeout={BUSY_TIMEOUT_MS}", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: two writers that both read first would otherwise meet SQLITE_BUSY when they upgrade their read locks.
    write = connection.get_execution_options().get("registry_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def words_for_outages() -> Iterator[None]:
    """Turn a lost, full or locked database into Unavailable; every other database error is a bug and passes."""
    try:
        yield
    except (exc.OperationalError, exc.InterfaceError) as error:
        raise Unavailable(
            _outage_sentence(error), hint="Nothing was changed. Try again; if it stays, look at the database server or the disk."
        ) from error
    except exc.DBAPIError as error:
        if not error.connection_invalidated:
            raise
        raise Unavailable(
            "The database closed the connection in the middle of the request.", hint="Nothing was changed. Try again."
        ) from error
    except exc.TimeoutError as error:
        raise Unavailable(
            "Every database connection of this worker is in use.",
            hint="Nothing was changed. Try again in a moment, or raise REGISTRY_POOL_SIZE.",
        ) from error


def _outage_sentence(error: Any) -> str:
    words = str(getattr(error, "orig", error)).strip().splitlines() or ["no reason given"]
    if "disk is full" in words[0]:
        return "The disk that holds the catalogue is full."
    if "locked" in words[0]:
        return f"Another process held the catalogue's write lock for more than {BUSY_TIMEOUT_MS // 1000} seconds."
    return f"The database does not answer: {words[0]}"
