"""What can be seen of durable jobs from outside: the orders as they were given, lines of progress, and the heartbeats of workers.

Rules: the tables live beside the catalogue and never in its schema (Postgres: the schema registry_jobs; SQLite: a file of its own), so that a heartbeat
disturbs no cache and no migration of Alembic's. Every time is the database's: two machines' clocks never decide whether a worker is dead. Lines of one
job are numbered 1, 2, 3 in the order in which they became visible, so a reader who has seen line 7 misses nothing by asking for what comes after it.
A dead worker is taken over by one statement that compares and swaps; the claim lapses, so that a reaper may die as well.
It does not know whether a job runs: that is the queue's to say (registry/job_queue.py). Nothing here imports DBOS.
"""

import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from registry.db import Database, words_for_outages
from registry.errors import Conflict, Invalid, NotFound, Unavailable

SCHEMA = "registry_jobs"  # on Postgres; SQLite has a file instead
FOLDER = "jobs"  # in the installation's home, for SQLite
MAX_BODY = 64 * 1024  # bytes of JSON in one line, order or heartbeat: what a page of them may weigh
_LOCK = 7_203_115  # any number, the same everywhere: two that prepare at once wait for each other on Postgres
_ATTEMPTS = 20  # writers of one job's lines that may collide before one gives up; a job has one worker, so two is already rare

_metadata = sa.MetaData(schema=SCHEMA)
_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows by themselves only in an INTEGER column
_jobs = sa.Table(
    "jobs",
    _metadata,
    sa.Column("number", _BIG, primary_key=True, autoincrement=True),
    sa.Column("job", sa.Text, nullable=False, unique=True),
    sa.Column("advisor", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("wave", sa.Text),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),  # seconds since 1970, by the database's clock, like every time here
    sa.Index("jobs_by_advisor", "advisor", "number"),
    sa.Index("jobs_by_wave", "wave", "number"),
    sqlite_autoincrement=True,
)
_lines = sa.Table(
    "lines",
    _metadata,
    sa.Column("job", sa.Text, primary_key=True),
    sa.Column("seq", _BIG, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
_workers = sa.Table(
    "workers",
    _metadata,
    sa.Column("executor", sa.Text, primary_key=True),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("beat_at", sa.Double, nullable=False),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_at", sa.Double),
)


@dataclass(frozen=True)
class Line:
    """One thing that a job said. `seq` counts the job's lines from 1."""

    seq: int
    at: dt.datetime
    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True)
class JobRow:
    """An order as it was given. `number` orders all jobs of the installation by the time they were put down."""

    number: int
    job: str
    advisor: str
    actor: str
    wave: str | None
    queue: str
    order: Mapping[str, Any]
    created_at: dt.datetime
    age_s: float  # seconds since then, by the database's clock


@dataclass(frozen=True)
class WorkerRow:
    """A worker that is alive, or was: `age_s` seconds passed since its last heartbeat."""

    executor: str
    facts: Mapping[str, Any]
    beat_at: dt.datetime
    age_s: float

    def deadline(self, fallback: float) -> float:
        """After how many seconds of silence it is dead: its own `dead_s`, by which it stands down itself; `fallback` where it told none."""
        own = self.facts.get("dead_s")
        return float(own) if isinstance(own, int | float) and not isinstance(own, bool) and own > 0 else fallback


def is_postgres(database_url: str) -> bool:
    """Whether this catalogue is shared through a server."""
    return sa.make_url(database_url).get_backend_name() == "postgresql"


def sqlite_url(home: Path, name: str) -> str:
    """The URL of a file in the folder of jobs."""
    return f"sqlite:///{home / FOLDER / name}"


class JobBoard:
    """The tables and what may be done with them. Every method is its own transaction; none is held between two calls."""

    def __init__(self, db: Database) -> None:
        """Use `open`; this takes a database that is not the catalogue's session factory but has its pragmas, pool and words for outages."""
        self._db = db
        schema = {SCHEMA: None} if db.is_sqlite else {}
        self._engine = db.engine.execution_options(schema_translate_map=schema)
        self._writer = self._engine.execution_options(registry_write=True)

    @classmethod
    def open(cls, settings_home: Path, database_url: str) -> "JobBoard":
        """The board of an installation: beside the catalogue in Postgres, or in <home>/jobs/board.db. Connects at the first use. Raises Invalid for other URLs."""
        url = database_url if is_postgres(database_url) else sqlite_url(settings_home, "board.db")
        return cls(Database(url, pool_size=4))

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._db.dispose()

    def prepare(self) -> None:
        """Make what is missing; does nothing where all is there. Safe against another that prepares at the same moment. Raises Unavailable."""
        with words_for_outages(), self._writer.begin() as connection:
            if not self._db.is_sqlite:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            _metadata.create_all(connection)

    @property
    def place(self) -> str:
        """The database without its password, for messages."""
        return self._db.place

    @contextmanager
    def _begin(self, *, write: bool = False) -> Iterator[sa.Connection]:
        try:
            with (self._writer if write else self._engine).begin() as connection:
                yield connection
        except exc.DBAPIError as error:
            if _is_missing(error):
                raise _not_prepared() from error
            with words_for_outages():
                raise
        except exc.TimeoutError:
            with words_for_outages():
                raise

    @property
    def _now(self) -> sa.ColumnElement[float]:
        if self._db.is_sqlite:
            return (sa.func.julianday("now") - 2440587.5) * 86400.0  # the Julian day of 1970-01-01T00:00Z; milliseconds
        return sa.cast(sa.func.extract("epoch", sa.func.clock_timestamp()), sa.Double)

    def _insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table) if self._db.is_sqlite else postgresql.insert(table)

    # ---- Lines -----------------------------------------------------------------------------------------------------------------------------

    def progress(self, job: str, kind: str, body: Mapping[str, Any]) -> None:
        """Append a line to a job. The caller keeps it to a few a second. Raises Invalid for a body that is no JSON object or too large."""
        text = _dump(body, "a line of progress")
        following = sa.select(sa.func.coalesce(sa.func.max(_lines.c.seq), 0) + 1).where(_lines.c.job == job).scalar_subquery()
        row = sa.select(sa.literal(job), following, self._now, sa.literal(kind), sa.literal(text)).where(sa.true())
        statement = self._insert(_lines).from_select(["job", "seq", "at", "kind", "body"], row).on_conflict_do_nothing()
        for _attempt in range(_ATTEMPTS):
            with self._begin(write=True) as connection:
                if connection.execute(statement.returning(_lines.c.seq)).first() is not None:
                    return
        raise Conflict(f"Too many write progress of the job '{job}' at once.", hint="A job has one worker; look for a second one.")

    def since(self, job: str, after: int, limit: int = 500) -> list[Line]:
        """A job's lines after number `after`, in order, at most `limit`. A job that nobody knows has none."""
        query = sa.select(_lines).where(_lines.c.job == job, _lines.c.seq > after).order_by(_lines.c.seq).limit(limit)
        with self._begin() as connection:
            return [_line(row) for row in connection.execute(query)]

    def newest(self, jobs: Sequence[str], kind: str) -> dict[str, Line]:
        """The newest line of one kind of each of these jobs, where it has one."""
        last = (
            sa.select(_lines.c.job, sa.func.max(_lines.c.seq).label("seq"))
            .where(_lines.c.job.in_(jobs), _lines.c.kind == kind)
            .group_by(_lines.c.job)
            .subquery()
        )
        query = sa.select(_lines).join(last, sa.and_(_lines.c.job == last.c.job, _lines.c.seq == last.c.seq))
        with self._begin() as connection:
            return {row.job: _line(row) for row in connection.execute(query)}

    # ---- Workers ---------------------------------------------------------------------------------------------------------------------------

    def beat(self, executor: str, facts: Mapping[str, Any]) -> None:
        """A worker's first heartbeat, with what it does; `renew` is for every later one. Raises Conflict where the name is taken.

        `dead_s` in the facts is the silence, in seconds, after which it counts as dead.
        """
        row = {"executor": executor, "body": _dump(facts, "a heartbeat"), "beat_at": self._now}
        statement = self._insert(_workers).values(row).on_conflict_do_nothing(index_elements=[_workers.c.executor])
        with self._begin(write=True) as connection:
            if connection.execute(statement.returning(_workers.c.executor)).first() is None:
                raise Conflict(
                    f"There is a worker '{executor[:120]}' already.", hint="Every process takes a name of its own; start it anew."
                )

    def renew(self, executor: str, facts: Mapping[str, Any]) -> bool:
        """Say that a worker still lives; False, changing nothing, where it was declared dead meanwhile: its jobs are others' now, so it must stand down."""
        fresh = {"body": _dump(facts, "a heartbeat"), "beat_at": self._now}
        statement = sa.update(_workers).where(_workers.c.executor == executor, _workers.c.claimed_by.is_(None)).values(fresh)
        with self._begin(write=True) as connection:
            return connection.execute(statement).rowcount == 1

    def workers(self) -> list[WorkerRow]:
        """Every worker that has not left, the freshest first."""
        with self._begin() as connection:
            return self._read_workers(connection)

    def _read_workers(self, connection: sa.Connection) -> list[WorkerRow]:
        query = sa.select(_workers, (self._now - _workers.c.beat_at).label("age")).order_by(_workers.c.beat_at.desc(), _workers.c.executor)
        return [WorkerRow(row.executor, json.loads(row.body), _moment(row.beat_at), max(0.0, row.age)) for row in connection.execute(query)]

    def claim_dead(self, older_than_s: float, by: str) -> list[str]:
        """Take over the workers that have been silent for longer than their own deadline (`WorkerRow.deadline`); each goes to one caller.

        `older_than_s`, in seconds, judges those that told no deadline. The claim lapses after the longer of the two, in case the claimant dies too: put the
        dead one's jobs back, then `retire` it. Never claims `by` itself.
        """
        with self._begin() as connection:
            silent = [row for row in self._read_workers(connection) if row.executor != by and row.age_s > row.deadline(older_than_s)]
        won = []
        for row in silent:  # each in a transaction of its own, and the statement looks at the clock and the claim again
            with self._begin(write=True) as connection:
                if connection.execute(self._claim(row, older_than_s, by)).rowcount == 1:
                    won.append(row.executor)
        return sorted(won)

    def _claim(self, row: WorkerRow, older_than_s: float, by: str) -> sa.Update:
        now, deadline = self._now, row.deadline(older_than_s)
        free = sa.or_(_workers.c.claimed_at.is_(None), _workers.c.claimed_at < now - max(deadline, older_than_s))
        dead = sa.update(_workers).where(_workers.c.executor == row.executor, _workers.c.beat_at < now - deadline, free)
        return dead.values(claimed_by=by, claimed_at=now)

    def retire(self, executor: str) -> None:
        """Forget a worker: it left, or its jobs were put back."""
        with self._begin(write=True) as connection:
            connection.execute(sa.delete(_workers).where(_workers.c.executor == executor))

    # ---- Orders ----------------------------------------------------------------------------------------------------------------------------

    def put_job(self, job: str, order: Mapping[str, Any], actor: str, wave: str | None, queue: str = "gpu") -> bool:
        """Put an order down; False where just this one is down already. Raises Conflict where the job stands for another order."""
        text = _dump(order, "an order")
        row = {
            "job": job,
            "advisor": str(order["advisor"]),
            "actor": actor,
            "wave": wave,
            "queue": queue,
            "body": text,
            "created_at": self._now,
        }
        with self._begin(write=True) as connection:
            made = connection.execute(
                self._insert(_jobs).values(row).on_conflict_do_nothing(index_elements=[_jobs.c.job]).returning(_jobs.c.number)
            )
            if made.first() is not None:
                return True
            present = connection.execute(sa.select(_jobs.c.body).where(_jobs.c.job == job)).scalar_one()
        if json.loads(present) != json.loads(text):
            raise Conflict(f"The job '{job}' was ordered before, with other settings.", hint="Use another key for another order.")
        return False

    @property
    def _select_jobs(self) -> sa.Select[Any]:
        return sa.select(_jobs, (self._now - _jobs.c.created_at).label("age"))

    def find_job(self, job: str) -> JobRow | None:
        """The order of a job, or None."""
        with self._begin() as connection:
            row = connection.execute(self._select_jobs.where(_jobs.c.job == job)).first()
        return _job(row) if row is not None else None

    def job(self, job: str) -> JobRow:
        """The order of a job. Raises NotFound."""
        found = self.find_job(job)
        if found is None:
            raise NotFound(f"There is no job '{job[:120]}' here.", hint="See them with: registry jobs list")
        return found

    def jobs(self, advisor: str | None = None, wave: str | None = None, limit: int = 50, before: int | None = None) -> list[JobRow]:
        """Orders, the newest first, at most `limit`: of one advisor, of one wave, and put down before the one with the number `before`."""
        query = self._select_jobs.order_by(_jobs.c.number.desc()).limit(limit)
        if advisor is not None:
            query = query.where(_jobs.c.advisor == advisor)
        if wave is not None:
            query = query.where(_jobs.c.wave == wave)
        if before is not None:
            query = query.where(_jobs.c.number < before)
        with self._begin() as connection:
            return [_job(row) for row in connection.execute(query)]


def _dump(value: Mapping[str, Any], what: str) -> str:
    try:
        text = json.dumps(dict(value), allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise Invalid(f"Expected {what} that is a JSON object; found something that JSON cannot say ({error}).") from None
    if len(text) > MAX_BODY:
        raise Invalid(f"Expected {what} of at most {MAX_BODY} bytes of JSON; found {len(text)}.")
    return text


def _moment(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


def _line(row: Any) -> Line:
    return Line(row.seq, _moment(row.at), row.kind, json.loads(row.body))


def _job(row: Any) -> JobRow:
    order, created_at = json.loads(row.body), _moment(row.created_at)
    return JobRow(row.number, row.job, row.advisor, row.actor, row.wave, row.queue, order, created_at, max(0.0, row.age))


def _is_missing(error: exc.DBAPIError) -> bool:
    # 42P01 undefined_table, 3F000 invalid_schema_name (the PostgreSQL manual, appendix A); SQLite has words only
    return getattr(error.orig, "sqlstate", None) in ("42P01", "3F000") or "no such table" in str(error.orig)


def _not_prepared() -> Unavailable:
    return Unavailable(
        "The tables for jobs were not made yet in this installation.", hint="Run once, with the rights to make tables: registry init"
    )
