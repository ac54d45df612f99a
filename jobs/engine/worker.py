"""A process that takes jobs: it beats, prefetches, drives one warm trainer, notices when it was declared dead, and leaves cleanly.

Rules:
- Its row in the heartbeat table is there before it asks for the first job. Others take its jobs when it has been silent for `Pace.dead_s`.
- Before a step acts and after it acted, before a training and before registering what it made, `check` looks at the clock: after half of that silence it
  asks the table first, and where its row was taken it stands down: it lets go of everything, records nothing, and ends; whoever runs it starts it anew.
- Beating, looking for cancelled jobs and reaping are threads of their own: no error ends one of them, and one that waits for the database holds up no other.
- Two jobs at a time, one training at a time: while one trains, the next is curated, planned and exported.
- Asked to leave, it stops taking jobs, pauses the training (its state is saved), puts its jobs back into the queue, and forgets its row.
- A cancelled job's training is stopped; nothing of it is registered. Its next attempt begins when the old one has let go.
- What a job says is read by everybody who may read its advisor: paths of this machine and the worker's full name are left out of it.
DBOS is one to a process, so there is one running Worker to a process.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from dbos import DBOS

from jobs.engine import processes, reaper, workflow
from jobs.engine.pace import PREFETCH, Pace, neutral, new_executor
from jobs.engine.stages import Interrupted, Tools
from registry.artifacts import ArtifactStore
from registry.db import Database
from registry.errors import Paused, RegistryError, Unavailable, told_outside
from registry.job_board import WorkerRow
from registry.job_queue import APP_VERSION, BuildOrder, JobQueue, in_words
from registry.settings import Settings
from trainer.process import OnEvent
from trainer.spec import Drive, TrainedAdapter, TrainSpec

Facts = Mapping[str, Any]
_Result = TypeVar("_Result")
OnLine = Callable[[str, str, Facts], None]
LOST = "its row was taken by another worker"
_CLAIM_S = 10.0  # seconds that a claim of DBOS's may take at most; DBOS itself waits as long for the same threads
_LINE_EVERY_S = 0.5  # of a training's steps, two lines a second are enough to watch and little enough to store


class Trainer(Protocol):
    """What trains for a worker: trainer.process.WarmTrainer, which keeps a base in memory from job to job."""

    def train(self, spec: TrainSpec, on_event: OnEvent) -> TrainedAdapter:
        """Train. Raises the RegistryErrors of run_training, and Paused after `stop`."""

    def stop(self) -> None:
        """Ask a running training to save its state and end."""

    def close(self) -> None:
        """End the process that trains."""


@dataclass(frozen=True)
class Wishes:
    """When a worker leaves by itself: at a moment (seconds since the epoch), when nothing is left, after so many jobs, or when the caller says so."""

    until: float | None = None
    once: bool = False
    max_jobs: int | None = None
    done: Callable[[], bool] = lambda: False


class Worker:
    """One worker. `run` returns why it left; it can run once."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        store: ArtifactStore,
        trainer: Trainer,
        *,
        queues: Sequence[str] = ("gpu",),
        pace: Pace | None = None,
        on_line: OnLine | None = None,
    ) -> None:
        """Nothing is started yet."""
        self.executor = new_executor()
        self.pace = pace or Pace()
        self.stuck = False
        self._settings, self._db, self._store, self._trainer = settings, db, store, trainer
        self._queues = list(queues)
        self._on_line = on_line or (lambda _job, _kind, _body: None)
        self._jobs = JobQueue.open(settings.home, settings.database)  # its client gives up where DBOS's own connection would wait for ever
        self._board = self._jobs.board
        self._wishes = Wishes()
        self._running: dict[str, str] = {}
        self._admitted: set[str] = set()
        self._cancelled: set[str] = set()
        self._said: dict[str, float] = {}
        self._training: str | None = None
        self._heard = self._told = False  # of the present training: whether it said anything yet, and whether it was asked to stop
        self._base: str | None = None
        self._state = threading.Lock()
        self._turn = threading.Lock()  # whose turn it is to train
        self._leaving = threading.Event()
        self._over = threading.Event()
        self._why = ""
        self._beat_at = 0.0
        self._trouble = ""  # the last thing that nobody foresaw, so that it is not printed with every beat

    # ---- The life of a worker --------------------------------------------------------------------------------------------------------------

    def run(self, wishes: Wishes | None = None) -> str:
        """Take jobs until a wish comes true or `ask` is called. Returns why it ended; LOST means: start anew, as another executor."""
        self._wishes = wishes or self._wishes
        self._board.beat(self.executor, self._facts())
        self._beat_at = _now()
        try:
            self._launch()
            self._safely(self._reap)
            loops = ((self._over, self._beat), (self._over, self._look_for_cancelled), (self._leaving, self._reap))
            threads = [threading.Thread(target=self._repeat, args=loop, daemon=True) for loop in loops]
            for thread in threads:
                thread.start()
            while not self._leaving.wait(self.pace.poll_s):
                reason = self._safely(self._wish)
                if reason:
                    self.ask(reason)
            self._let_go()
            self._over.set()
            for thread in threads:
                thread.join(self.pace.grace_s)
        finally:
            self._leaving.set()
            self._over.set()
            DBOS.destroy(destroy_registry=True)
            logging.getLogger("dbos").handlers.clear()  # DBOS keeps the stderr that it first saw, also where that is closed by now
            self._trainer.close()
            if self._why != LOST:
                with suppress(RegistryError):
                    self._board.retire(self.executor)
            self._jobs.dispose()
        return self._why

    def ask(self, why: str) -> None:
        """Ask the worker to leave. Returns at once; safe in a signal handler."""
        if not self._leaving.is_set():
            self._why = why
            self._leaving.set()

    def _launch(self) -> None:
        DBOS(config=workflow.config(self._settings.home, self._settings.database, self.executor))
        workflow.register(self)
        DBOS.listen_queues(self._queues)
        self._register_queues()
        DBOS.launch()

    def _register_queues(self) -> None:
        """Through the client, before the launch: DBOS looks for new queues only once a second. Raises Unavailable where `registry init` was not run."""
        for queue in self._queues:
            self._jobs.client.register_queue(
                queue, worker_concurrency=PREFETCH, polling_interval_sec=self.pace.poll_s, on_conflict="always_update"
            )

    def _wish(self) -> str | None:
        wishes = self._wishes
        if wishes.until is not None and time.time() >= wishes.until:
            return "its time is over"
        if wishes.done():
            return "its jobs are done"
        if self._running:
            return None
        if wishes.max_jobs is not None and len(self._admitted) >= wishes.max_jobs:
            return f"it took {wishes.max_jobs} jobs"
        if wishes.once and not self._waiting():
            return "nothing is left to do"
        return None

    def _waiting(self) -> bool:
        """Whether anything waits in our queues, was just given to us, or will soon wait again because its worker died."""
        found = self._jobs.client.list_workflows(
            status=["ENQUEUED", "PENDING"], queue_name=self._queues, load_input=False, load_output=False
        )
        if any(w.status == "ENQUEUED" or w.executor_id == self.executor for w in found):
            return True
        rows = {row.executor: row for row in self._board.workers()} if found else {}
        return any(self._dying(rows.get(w.executor_id or "")) for w in found)

    def _dying(self, row: WorkerRow | None) -> bool:
        """Whether a worker is dead, or silent for so long that it may be."""
        return row is None or row.age_s > 2 * self.pace.beat_s or processes.gone(row.facts)

    def _let_go(self) -> None:
        """Stop taking jobs, stop what runs, and put what is not finished back, unless it is others' already."""
        _stop_polling()
        self._stop_training()
        deadline = time.monotonic() + self.pace.grace_s
        while self._running and time.monotonic() < deadline:
            time.sleep(min(0.05, self.pace.poll_s))
        self.stuck = bool(self._running)
        if self._why != LOST:
            # In a thread: without its database DBOS would wait for ever; then our jobs are handed back by whoever finds us dead.
            back = threading.Thread(target=self._safely, args=(partial(reaper.hand_back, [self.executor]),), daemon=True)
            back.start()
            back.join(max(self.pace.grace_s, _CLAIM_S))

    # ---- Heartbeat and reaper --------------------------------------------------------------------------------------------------------------

    def _repeat(self, until: threading.Event, act: Callable[[], object]) -> None:
        while not until.wait(self.pace.beat_s):
            self._safely(act)

    def _safely(self, act: Callable[[], _Result]) -> _Result | None:
        """Do something that the next beat does again: a database that does not answer ends no thread, and `check` asks before anything is done."""
        try:
            with in_words():
                return act()
        except RegistryError:
            return None
        except Exception as error:  # noqa: BLE001  # whatever it is: without its heartbeat the whole worker would be lost
            if self._trouble != (words := f"{type(error).__name__}: {error}"):
                self._trouble = words
                traceback.print_exception(error)
            return None

    def _beat(self) -> bool:
        begun = _now()
        alive = self._board.renew(self.executor, self._facts())
        if alive:
            self._beat_at = begun
        else:
            self.ask(LOST)
        return alive

    def _reap(self) -> None:
        for executor in reaper.reap(self._jobs, self.pace.dead_s, self.executor):
            self._on_line("", "reaped", {"executor": executor})

    def _look_for_cancelled(self) -> None:
        jobs = list(self._running)
        if not jobs:
            return
        found = self._jobs.client.list_workflows(workflow_ids=jobs, status="CANCELLED", load_input=False, load_output=False)
        for workflow_id in (w.workflow_id for w in found):
            self._cancelled.add(workflow_id)
            self._stop_training(workflow_id)

    def _facts(self) -> dict[str, Any]:
        return {
            **processes.myself(),
            "queues": self._queues,
            "base": self._base,
            "program": APP_VERSION,
            "dead_s": self.pace.dead_s,
            "jobs": dict(self._running),
        }

    # ---- What the workflow calls -----------------------------------------------------------------------------------------------------------

    @contextmanager
    def working(self, job: str) -> Iterator[None]:
        """The job runs here for as long as this lasts."""
        self._admit(job)
        try:
            yield
        finally:
            self._running.pop(job, None)

    def _admit(self, job: str) -> None:
        while not self._enter(job):
            # One job too many was fetched; it goes back when we leave. Or an earlier attempt of the same job still lets go.
            if self._leaving.wait(self.pace.poll_s):
                raise Interrupted("fetched, but not begun")

    def _enter(self, job: str) -> bool:
        most = self._wishes.max_jobs
        with self._state:
            old = job in self._running
            if not old and (most is None or len(self._admitted | {job}) <= most):
                self._admitted.add(job)
                self._cancelled.discard(job)
                self._running[job] = ""
                return True
            if old:  # it was cancelled and retried, maybe between two looks: the attempt before is nobody's any more
                self._cancelled.add(job)
        if old:
            self._stop_training(job)
        return False

    def ordered(self, job: str) -> Mapping[str, Any] | None:
        """The order as it was put down on the board, where a worker's role may not change it; None where nobody put it down. Waits for the database."""
        while True:
            try:
                row = self._board.find_job(job)
            except Unavailable:
                if self._leaving.wait(self.pace.beat_s):
                    raise Interrupted(f"let go: {self._why}") from None
            else:
                return None if row is None else row.order

    def tools(self, job: str, _order: BuildOrder) -> Tools:
        """What the steps of this job work with."""
        train, say, check = partial(self._train, job), partial(self._say, job), partial(self._check, job)
        return Tools(self._settings, self._db, self._store, train, say, check, Drive(self.pace.save_s))

    def began(self, job: str, step: str) -> None:
        """A step begins."""
        self._running[job] = step
        self._line(job, "step", {"step": step, "state": "began", "executor": neutral(self.executor)})

    def ended(self, job: str, step: str, result: Facts, seconds: float) -> None:
        """A step ended and is about to be recorded."""
        told = {"step": step, "state": "done", "executor": neutral(self.executor), "seconds": round(seconds, 3), "result": result}
        self._line(job, "step", told)

    def failed(self, job: str, step: str, error: Exception) -> Exception:
        """A step failed, and with it the job. Returns the error to record, without this machine's paths."""
        if isinstance(error, RegistryError):
            recorded, hint = error, error.hint and self._without_paths(error.hint)
        else:
            traceback.print_exception(error)
            recorded, hint = RegistryError(told_outside(error)), None
        words = self._without_paths(recorded.message)
        self._line(job, "failed", {"step": step, "message": words[:4000], "hint": hint})
        return error if words == str(error) else RegistryError(words, hint)

    def _without_paths(self, text: str) -> str:
        for folder, word in ((self._settings.home.resolve(), "<home>"), (self._settings.home, "<home>"), (Path.home(), "~")):
            text = text.replace(str(folder), word) if len(folder.parts) > 1 else text
        return text

    def _check(self, job: str) -> None:
        if self._leaving.is_set():
            raise Interrupted(f"let go: {self._why}")
        if job in self._cancelled:
            raise Interrupted("cancelled")
        while _now() - self._beat_at > self.pace.dead_s / 2:  # so long a silence may have been taken for death
            try:
                if not self._beat():
                    raise Interrupted(LOST)
            except RegistryError:
                if self._leaving.wait(self.pace.beat_s):
                    raise Interrupted(f"let go: {self._why}") from None

    def _train(self, job: str, spec: TrainSpec, on_event: OnEvent) -> TrainedAdapter:
        while not self._turn.acquire(timeout=0.2):
            self._check(job)
        try:
            self._check(job)
            with self._state:
                self._training, self._base, self._heard, self._told = job, spec.base.repo, False, False
            return self._trainer.train(spec, partial(self._hear, job, on_event))
        except RegistryError as error:
            if isinstance(error, Paused):
                self._safely(self._look_for_cancelled)
            self._check(job)  # who lets go of a job does not record how its training ended
            raise
        finally:
            with self._state:
                self._training = None
            self._turn.release()

    def _hear(self, job: str, on_event: OnEvent, event: Facts) -> None:
        self._heard = True
        if self._leaving.is_set() or job in self._cancelled:
            self._stop_training(job)
        if event.get("event") != "phase":  # whoever gets a phase may let go of the job, and here the training saves its state first
            on_event(event)
        else:
            self._say(job, "train", event)

    def _stop_training(self, job: str | None = None) -> None:
        """Ask the training (of this job) to save its state and end, once; before its first word there is nobody to ask, and `_hear` does it then."""
        with self._state:  # so that it does not become another job's training meanwhile
            if self._training is not None and job in (None, self._training) and self._heard and not self._told:
                self._told = True
                self._trainer.stop()

    def _say(self, job: str, kind: str, body: Facts) -> None:
        if body.get("event") == "step" and body.get("step") != body.get("of"):
            if _now() - self._said.get(job, 0.0) < _LINE_EVERY_S:
                return
            self._said[job] = _now()
        self._line(job, kind, body)

    def _line(self, job: str, kind: str, body: Facts) -> None:
        self._on_line(job, kind, body)
        with suppress(RegistryError):  # a line that cannot be written is no reason to lose a training
            self._board.progress(job, kind, {k: self._without_paths(v) if isinstance(v, str) else v for k, v in body.items()})


def _now() -> float:
    """Seconds on a clock that goes on while this process, or the whole machine, sleeps (Linux; elsewhere the monotonic clock)."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _stop_polling() -> None:
    """Let DBOS take no more jobs from the queues; what runs goes on, and its results are still recorded."""
    from dbos._dbos import _get_dbos_instance

    for event in _get_dbos_instance().background_thread_stop_events:
        event.set()
    # One that is just claiming a job ends its claim first: a job that it took after we gave ours back would be nobody's until the next reaper comes.
    for thread in threading.enumerate():
        if thread.name.startswith("queue-worker-"):
            thread.join(_CLAIM_S)
