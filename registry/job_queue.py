"""Durable jobs as seen by whoever orders, watches or stops one: the order's form, and the queue behind it (DBOS, through its client alone).

Rules: an order is plain JSON without a path, a file name or an address in it, checked field by field both when it is given and when a worker takes it.
The job's row on the board is written before the job enters the queue, so a job in the queue always has its order; a row whose job never entered (the
process died between the two) is shown as failed and can be retried. Nothing is pickled: DBOS's portable JSON is the only serializer. The version that
DBOS compares is fixed, so a new release takes over the jobs of the one before. DBOS's own tables are DBOS's alone, apart from the catalogue's.
It knows the names of a recipe's settings, but not what they or a pipeline's mean: whoever may import the trainer checks their values, when a person orders
at the command line (jobs/engine/orders.py) and, for every order, when a worker takes it. DBOS is imported at the first use.
"""

import datetime as dt
import hashlib
import importlib.util
import json
import logging
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy import exc

from registry import errors
from registry.db import normalise_url, words_for_outages
from registry.errors import Conflict, Invalid, NotFound, RegistryError, Unavailable
from registry.job_board import JobBoard, JobRow, is_postgres, sqlite_url
from registry.refs import check_alias, check_digest, check_slug, clean_text, nearest
from registry.vocabulary import DEFAULT_SEED, MAX_SEED, RECIPE_SETTINGS

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

QUEUES = ("gpu", "cpu")
WORKFLOW = "build"
APP_NAME = "adapter-registry"
APP_VERSION = "jobs/1"  # fixed: DBOS gives a job only to workers that state the same
SCHEMA = "registry_dbos"  # on Postgres; SQLite has a file instead
KINDS = ("build", "pipeline")
PROMOTE = ("gate", "never")
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
STATES: Mapping[str, State] = {
    "ENQUEUED": "queued",
    "DELAYED": "queued",
    "PENDING": "running",
    "SUCCESS": "succeeded",
    "ERROR": "failed",
    "MAX_RECOVERY_ATTEMPTS_EXCEEDED": "failed",
    "CANCELLED": "cancelled",
}
OPEN: tuple[State, ...] = ("queued", "running")
MAX_EXAMPLES = 1_000_000  # far above what one advisor needs; a bound so that no order is absurd
MAX_RECIPE = 64  # settings in a recipe or a pipeline: recipe/2 has fewer than 50
_ENTERING_S = 60.0  # how long a row may be on the board before a job that is not in the queue counts as one that never entered
_PRIORITIES = 2**31 - 2  # DBOS takes 1 to 2**31 - 1
_BASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95}(@[0-9a-f]{40})?)?")
_FILES = ("documents", "threads")  # settings of a pipeline that name files: the command line's alone


def require_packages() -> None:
    """Raise Invalid, saying what to install, where the engine of durable jobs is missing."""
    if importlib.util.find_spec("dbos") is None:
        raise Invalid("Durable jobs need the package dbos, which is not installed.", hint="Run: pip install 'adapter-registry[jobs]'")


# ---- Orders ---------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildOrder:
    """What is to be made for one advisor. `check` runs when it is made; what it says goes through JSON and back unchanged.

    `examples`: pairs to have the pipeline write; null trains on what is there. `base`: tiny, or a hub id with or without @revision (40 hex digits).
    `recipe` and `pipeline` hold only the settings that differ from the defaults. `promote`: gate moves `alias` when the held-out scores allow it.
    """

    advisor: str
    actor: str
    kind: str = "build"
    examples: int | None = None
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    terms_sha256: str | None = None
    dataset: str | None = None
    base: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = DEFAULT_SEED
    force: bool = False
    promote: str = "gate"
    alias: str = "live"
    wave: str | None = None

    def __post_init__(self) -> None:
        """Raise Invalid for the first field that breaks a rule."""
        for rule in _RULES:
            rule(self)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, as it goes into the queue."""
        return asdict(self) | {"pipeline": dict(self.pipeline), "recipe": dict(self.recipe)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "BuildOrder":
        """The order that `as_json` wrote. Raises Invalid for a field that is unknown, missing or of the wrong kind."""
        known = [f.name for f in fields(cls)]
        unknown = sorted(str(name)[:40] for name in value if name not in known)
        missing = [name for name in known if name not in value]
        if unknown or missing:
            found = [f"unknown: {', '.join(unknown)}"] * bool(unknown) + [f"missing: {', '.join(missing)}"] * bool(missing)
            raise Invalid(f"An order has the fields {', '.join(known)}; found {'; '.join(found)}.")
        return cls(**value)


def _refuse(what: str, expected: str, found: Any) -> NoReturn:
    raise Invalid(f"In an order, {what} must be {expected}; found {str(found)[:80]!a}.")


def _words(order: BuildOrder) -> None:
    for name, allowed in (("kind", KINDS), ("promote", PROMOTE)):
        if getattr(order, name) not in allowed:
            _refuse(name, " or ".join(allowed), getattr(order, name))
    if not isinstance(order.force, bool):
        _refuse("force", "true or false", order.force)


def _names(order: BuildOrder) -> None:
    for name in ("advisor", "actor", "alias"):
        if not isinstance(getattr(order, name), str):
            _refuse(name, "text", getattr(order, name))
    check_slug(order.advisor)
    check_alias(order.alias)
    clean_text(order.actor, "actor", limit=200)
    if order.wave is not None:
        if not isinstance(order.wave, str):
            _refuse("wave", "a name or null", order.wave)
        check_slug(order.wave, "wave")


def _numbers(order: BuildOrder) -> None:
    whole = isinstance(order.examples, int) and not isinstance(order.examples, bool) and 1 <= order.examples <= MAX_EXAMPLES
    if order.examples is not None and not whole:
        _refuse("examples", f"a whole number from 1 to {MAX_EXAMPLES} or null", order.examples)
    if order.kind == "pipeline" and order.examples is None:
        _refuse("examples", "given where the kind is pipeline", order.examples)
    if order.examples is not None and order.dataset is not None:
        _refuse("examples", "left out where a dataset is named, since new pairs make a new dataset", order.examples)
    if not isinstance(order.seed, int) or isinstance(order.seed, bool) or not 0 <= order.seed <= MAX_SEED:
        _refuse("seed", f"a whole number from 0 to {MAX_SEED}", order.seed)


def _digests(order: BuildOrder) -> None:
    for name in ("dataset", "terms_sha256"):
        value = getattr(order, name)
        if value is not None and not isinstance(value, str):
            _refuse(name, "a digest or null", value)
        if value is not None:
            check_digest(value)


def _no_path(order: BuildOrder) -> None:
    if order.base is not None:
        if not isinstance(order.base, str) or not _BASE.fullmatch(order.base):
            _refuse(
                "base",
                "tiny or a name such as mistralai/Mistral-7B-Instruct-v0.3, maybe with @ and 40 hex digits, never a path",
                order.base,
            )
        if ".." in order.base:
            _refuse("base", "a name without '..'", order.base)
    for name in _FILES:
        if order.pipeline.get(name):
            _refuse(f"pipeline.{name}", "left out: files are read by the command line alone", order.pipeline[name])


def _settings(order: BuildOrder) -> None:
    for what, value, depth in (("recipe", order.recipe, 1), ("pipeline", order.pipeline, 2)):
        if not isinstance(value, Mapping):
            _refuse(what, "a JSON object", value)
        _check_object(what, value, depth)


def _recipe_names(order: BuildOrder) -> None:
    for name in order.recipe:
        if name not in RECIPE_SETTINGS:
            guess = nearest(name, RECIPE_SETTINGS)
            hint = f"Did you mean {guess}?" if guess else f"Known: {', '.join(RECIPE_SETTINGS)}."
            raise Invalid(f"A recipe has no setting {name[:60]!a}.", hint=hint)


def _check_object(what: str, value: Mapping[Any, Any], depth: int) -> None:
    if len(value) > MAX_RECIPE:
        _refuse(what, f"an object of at most {MAX_RECIPE} settings", f"{len(value)} settings")
    for name, item in value.items():
        if not isinstance(name, str) or len(name) > 100:
            _refuse(what, "an object whose names have at most 100 characters", name)
        if isinstance(item, Mapping) and depth > 1:
            _check_object(f"{what}.{name}", item, depth - 1)
            continue
        for one in item if isinstance(item, (list, tuple)) else (item,):
            _check_scalar(f"{what}.{name}", one)


def _check_scalar(what: str, value: Any) -> None:
    if value is None or isinstance(value, (bool, int)):
        return
    if isinstance(value, float) and value == value and abs(value) != float("inf"):  # noqa: PLR0124 - NaN is not equal to itself
        return
    if not isinstance(value, str) or len(value) > 200:
        _refuse(what, "a number, a short text, true, false or null, or a list of them", value)
    if value.startswith(("/", "~", ".")) or ".." in value or "\\" in value or "://" in value or "\x00" in value:
        _refuse(what, "no path and no address", value)


# Settings come before the rule that looks into them.
_RULES = (_words, _names, _numbers, _digests, _settings, _recipe_names, _no_path)


def priority_of(base: str | None) -> int:
    """The same number for the same base, so that a worker takes all jobs of one base before it loads the next; 1 to 2**31 - 2, smaller goes first."""
    return 1 + int.from_bytes(hashlib.sha256((base or "").encode()).digest()[:8], "big") % _PRIORITIES


def job_id(order: BuildOrder, key: str | None = None) -> str:
    """A new job's name; with a `key`, the same name for the same key (made of whatever tells one caller's keys from another's)."""
    tail = (
        hashlib.sha256(json.dumps([order.kind, order.advisor, key]).encode()).hexdigest()[:12] if key is not None else secrets.token_hex(6)
    )
    return f"{order.kind}-{order.advisor}-{tail}"


# ---- The queue ------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobStatus:
    """Where a job stands. `step`: the one that is, or was last, worked on; `result`: what a succeeded job returned; `entered`: whether the queue has it."""

    job: str
    state: State
    step: str | None
    error: str | None
    executor: str | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    result: Mapping[str, Any] | None
    row: JobRow
    entered: bool = True

    @property
    def open(self) -> bool:
        """Whether the job may still do something."""
        return self.state in OPEN


def dbos_url(home: Path, database_url: str) -> str:
    """The URL of DBOS's system database, for the client here and for the workers: the catalogue's on Postgres (schema `SCHEMA`), or <home>/jobs/dbos.db."""
    return normalise_url(database_url) if is_postgres(database_url) else sqlite_url(home, "dbos.db")


class JobQueue:
    """The queue of an installation and the board that goes with it."""

    def __init__(self, url: str, board: JobBoard) -> None:
        """Use `open`."""
        self._url = url
        self.board = board
        self._client: DBOSClient | None = None
        self._connecting = threading.Lock()

    @classmethod
    def open(cls, home: Path, database_url: str) -> "JobQueue":
        """Connects at the first use. Raises Invalid where dbos is not installed, or for a URL that is neither Postgres nor SQLite."""
        require_packages()
        return cls(dbos_url(home, database_url), JobBoard.open(home, database_url))

    def dispose(self) -> None:
        """Close every connection."""
        if self._client is not None:
            self._client.destroy()
            self._client = None
        self.board.dispose()

    def prepare(self) -> None:
        """Make or upgrade DBOS's tables and the board's. Safe against another that does so at the same moment. Raises Unavailable."""
        from dbos import DBOS

        _quiet()
        with in_words(), self._one_at_a_time():
            self.board.prepare()
            DBOS.migrate(self._url, schema=SCHEMA)
            self._faster_file()

    def _one_at_a_time(self) -> AbstractContextManager[Any]:
        """A lock beside the SQLite file: there two that make the files meet 'database is locked'. On Postgres DBOS keeps them apart itself."""
        if not self._url.startswith("sqlite"):
            return nullcontext()
        return FileLock(f"{sa.make_url(self._url).database}.lock")

    @property
    def place(self) -> str:
        """Where DBOS's tables are, without a password, for messages."""
        return sa.make_url(self._url).render_as_string(hide_password=True)

    def _faster_file(self) -> None:
        """Let readers of the SQLite file go on while somebody writes; DBOS leaves SQLite's own default, which does not."""
        if self._url.startswith("sqlite"):
            engine = sa.create_engine(self._url)
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            engine.dispose()

    @property
    def client(self) -> "DBOSClient":
        """DBOS's client, connected. Raises Unavailable where the database does not answer or was not prepared."""
        with self._connecting:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> "DBOSClient":
        from dbos import DBOSClient, DBOSPortableJSONSerializer

        if self._url.startswith("sqlite") and not Path(sa.make_url(self._url).database or "").is_file():
            raise _not_prepared()
        _quiet()
        refuse_pickles()
        with in_words():
            return DBOSClient(
                system_database_url=self._url,
                dbos_system_schema=SCHEMA,
                serializer=DBOSPortableJSONSerializer(),
                application_name=APP_NAME,
                retry_connection_errors=False,  # DBOS would otherwise wait for a lost database for ever
            )

    def enqueue(self, order: BuildOrder, queue: str = "gpu", key: str | None = None) -> str:
        """Put an order down and into the queue; returns the job's name. The same `key` gives the same job, which is then only once in the queue.

        Raises Invalid for a queue that nobody works on, Conflict where the key stands for another order.
        """
        if queue not in QUEUES:
            raise Invalid(f"A queue is one of {', '.join(QUEUES)}; found {queue[:40]!a}.")
        client = self.client  # before the row: where the queue is out of reach, nothing is put down
        job = job_id(order, key)
        self.board.put_job(job, order.as_json(), order.actor, order.wave, queue)
        self._enter(client, job, order, queue)
        return job

    def _enter(self, client: "DBOSClient", job: str, order: BuildOrder, queue: str) -> None:
        with in_words():
            client.enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": queue,
                    "workflow_id": job,  # a name that is taken attaches to the job that has it
                    "app_version": APP_VERSION,
                    "priority": priority_of(order.base),
                    "application_name": APP_NAME,
                },
                order.as_json(),
            )

    def status(self, job: str) -> JobStatus:
        """Where a job stands. Raises NotFound."""
        return self._statuses([self.board.job(job)])[0]

    def list(self, advisor: str | None = None, wave: str | None = None, limit: int = 50, before: int | None = None) -> Sequence[JobStatus]:
        """Jobs, the newest first; the board's `jobs` tells what the arguments mean."""
        return self._statuses(self.board.jobs(advisor, wave, limit, before))

    def _statuses(self, rows: Sequence[JobRow]) -> Sequence[JobStatus]:
        if not rows:
            return []
        names = [row.job for row in rows]
        with in_words():
            found = {w.workflow_id: w for w in self.client.list_workflows(workflow_ids=names, load_input=False)}
        steps = self.board.newest(names, "step")
        return [_status(row, found.get(row.job), steps[row.job].body.get("step") if row.job in steps else None) for row in rows]

    def cancel(self, job: str) -> JobStatus:
        """Take a job out of the queue, or let its worker stop before its next step.

        Raises Conflict where it has ended, unless it was cancelled, and where it was put down a moment ago and is not in the queue yet.
        """
        found = self.status(job)
        if found.state == "cancelled":
            return found
        if not found.open:
            raise Conflict(f"The job '{job}' has {found.state}; only a waiting or running one can be cancelled.")
        if not found.entered:
            raise Conflict(f"The job '{job}' is just entering the queue.", hint="Try again in a moment.")
        with in_words():
            self.client.cancel_workflow(job)
        return self.status(job)

    def retry(self, job: str) -> str:
        """Put a failed or cancelled job back; the steps that it finished are not run again. Returns its name. Raises NotFound, and Conflict where it has not ended."""
        found = self.status(job)
        if found.state not in ("failed", "cancelled"):
            raise Conflict(f"The job '{job}' is {found.state}; only a failed or cancelled one can be retried.")
        row = found.row
        with in_words():
            present = self.client.list_workflows(workflow_ids=[job], load_input=False, load_output=False)
            if not present:
                self._enter(self.client, job, BuildOrder.from_json(row.order), row.queue)
            elif present[0].status == "CANCELLED":
                self.client.resume_workflow(job, queue_name=row.queue)
            else:
                self.client.rewind_workflow(job, start_step=self._failed_step(job), queue_name=row.queue, application_version=APP_VERSION)
        return job

    def _failed_step(self, job: str) -> int:
        """DBOS's number of the first step that failed; one after the last where the failure was in no step."""
        steps = self.client.list_workflow_steps(job)
        failed = [s["function_id"] for s in steps if s["error"] is not None]
        return min(failed) if failed else max((s["function_id"] for s in steps), default=0) + 1


def _status(row: JobRow, workflow: "WorkflowStatus | None", step: Any) -> JobStatus:
    if workflow is None:
        return _not_entered(row)
    state = STATES[workflow.status]
    return JobStatus(
        job=row.job,
        state=state,
        step=step if isinstance(step, str) else None,
        error=_sentence(workflow) if state == "failed" else None,
        executor=workflow.executor_id,
        created_at=row.created_at,
        started_at=_moment(workflow.dequeued_at),
        finished_at=_moment(workflow.completed_at) if state not in OPEN else None,
        result=workflow.output if state == "succeeded" and isinstance(workflow.output, Mapping) else None,
        row=row,
    )


def _not_entered(row: JobRow) -> JobStatus:
    state: State = "queued" if row.age_s < _ENTERING_S else "failed"
    words = None if state == "queued" else "The order was put down, but its process ended before the job entered the queue. Retry it."
    return JobStatus(row.job, state, None, words, None, row.created_at, None, None, None, row, entered=False)


def _sentence(workflow: "WorkflowStatus") -> str:
    """How a job failed, for whoever may read it: of what is none of our own errors only the kind."""
    if workflow.status == "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
        return "Its worker died too many times in a row; look at the job's lines, then retry it."
    kind = str(getattr(workflow.error, "name", type(workflow.error).__name__))  # DBOS gives an error back as a name and a sentence
    if kind not in _OURS:
        return errors.unforeseen(kind[:80])
    return str(workflow.error).strip() or "It failed without a word."


_OURS = frozenset(name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RegistryError))


def _moment(milliseconds: int | None) -> dt.datetime | None:
    return None if milliseconds is None else dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def refuse_pickles() -> None:
    """Let DBOS in this process read JSON only.

    It reads a row by the serializer that the row itself names, whatever was configured; a row that says py_pickle would run its writer's code in whoever
    lists the jobs.
    """
    from dbos import _serialization as formats

    def refuse(_self: Any, _data: str) -> NoReturn:
        raise Invalid(
            "A row of the job queue holds a pickle; this program reads JSON only.", hint="Find out who wrote into the queue's tables."
        )

    def write(_self: Any, data: Any) -> str:
        return json.dumps(str(data))  # how a job ended whose row asks for a pickle: in words, which nobody unpickles

    formats.DefaultSerializer.deserialize = refuse  # type: ignore[assignment,method-assign]
    formats.DefaultSerializer.serialize = write  # type: ignore[assignment,method-assign]


def _quiet() -> None:
    """DBOS tells of every table it makes; its warnings stay."""
    logging.getLogger("dbos").setLevel(logging.WARNING)


def _not_prepared() -> Unavailable:
    return Unavailable(
        "The queue for jobs was not made yet in this installation.", hint="Run once, with the rights to make tables: registry init"
    )


@contextmanager
def in_words() -> Iterator[None]:
    """Turn what DBOS and its database refuse into sentences."""
    from dbos import error as refusals

    try:
        with words_for_outages():
            yield
    except RegistryError as error:
        if "no such table" in error.message:
            raise _not_prepared() from error
        raise
    except exc.ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) in ("42P01", "3F000"):
            raise _not_prepared() from error
        raise
    except refusals.DBOSNonExistentWorkflowError as error:
        raise NotFound("This job is not in the queue.", hint="See the jobs with: registry jobs list") from error
    except refusals.DBOSException as error:
        raise Conflict(f"The queue refused: {error}.") from error
