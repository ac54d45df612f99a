"""Durable jobs: build advisors from their prompt or data to a live version, run workers, and look at what they do."""

import datetime as dt
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from commands.frame import Json, Opened, app, jobs_app, open_catalogue, print_json, show_facts, table
from registry.errors import Invalid
from registry.vocabulary import DEFAULT_SEED, MAX_SEED

if TYPE_CHECKING:
    from jobs.engine.worker import Wishes, Worker
    from registry.job_board import Line
    from registry.job_queue import BuildOrder, JobQueue, JobStatus

JobName = Annotated[str, typer.Argument(help="A job, as `registry jobs list` names it.")]
QueueOption = Annotated[str, typer.Option("--queue", help="gpu, or cpu for workers that leave the GPUs alone.")]
_LOOK_S = 0.5  # seconds between two looks at a job that is watched
_UNTIL = "REGISTRY_WORKER_UNTIL"  # tells a worker that begins anew when it was to leave: HH:MM would by then mean tomorrow
_stuck: set[str] = set()  # workers of this process of which a step of another's job still runs
_INTERRUPTED = "a person or the system asked it to"


@app.command()
def build(
    advisor: Annotated[str | None, typer.Argument(help="Whose adapter to build; or --all.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every active advisor that has a dataset; with --examples every active one.")
    ] = False,
    examples: Annotated[int | None, typer.Option(min=1, help="Let the pipeline write this many pairs first.")] = None,
    pipeline: Annotated[Path | None, typer.Option(help="JSON file with pipeline settings that differ from the defaults.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Digest of the dataset; default: the advisor's latest.")] = None,
    base: Annotated[
        str | None,
        typer.Option(help="'tiny', or a hub id, also as org/name@revision (40 hex digits); default: what suits the worker's GPU."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="JSON file with recipe settings that differ from the defaults.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of everything random.")] = DEFAULT_SEED,
    force: Annotated[bool, typer.Option("--force", help="Train again although the same training is registered.")] = False,
    promote: Annotated[bool, typer.Option("--promote/--no-promote", help="Move the alias where the gate allows it.")] = True,
    alias: Annotated[str, typer.Option(help="The alias to move.")] = "live",
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="You have read the provider's terms on training.")] = False,
    queue: QueueOption = "gpu",
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Wait and tell what happens; else only order.")] = True,
    here: Annotated[bool, typer.Option("--here", help="Work on it in this command, also where other workers could.")] = False,
    as_json: Json = False,
) -> None:
    """Curate, train, evaluate, gate and promote as a durable job, of one advisor or of all."""
    from commands.versions import recipe_settings
    from registry.job_queue import BuildOrder, require_packages

    require_packages()
    from jobs.engine.orders import check_recipe
    from jobs.engine.wave import save

    if (advisor is None) != every:
        raise Invalid("Name an advisor, or pass --all.", hint="registry build elena, or registry build --all")
    with open_catalogue() as opened:
        order = BuildOrder(
            advisor=advisor or "all",
            actor=opened.actor,
            examples=examples,
            pipeline=recipe_settings(pipeline),
            dataset=_whole_digest(opened, advisor, dataset),
            base=base,
            recipe=recipe_settings(recipe),
            seed=seed,
            force=force,
            promote="gate" if promote else "never",
            alias=alias,
        )
        check_recipe(order, opened.settings.home)
        order = _acknowledged(opened, order, accept_terms=accept_terms)
        with _queue(opened) as jobs:
            here = here or opened.db.is_sqlite
            found = _build_all(opened, jobs, order, queue, here=here, watch=watch, quiet=as_json) if every else None
            found = found or _build_one(opened, jobs, order, queue, here=here, watch=watch, quiet=as_json)
            _show_built(as_json, found)
            if every and watch:
                save(jobs, found)
    _end_with(found)


def _whole_digest(opened: Opened, advisor: str | None, ref: str | None) -> str | None:
    """The whole digest of a dataset that was named by its first digits."""
    from registry import advisors, datasets

    if ref is None:
        return None
    if advisor is None:
        raise Invalid("--dataset is one advisor's; --all takes each one's latest.")
    with opened.db.read() as session:
        return datasets.get(session, advisors.get_active(session, advisor), ref).sha256


def _acknowledged(opened: Opened, order: "BuildOrder", *, accept_terms: bool) -> "BuildOrder":
    """The order with the words that somebody acknowledged, where the pipeline will ask a provider. Raises Invalid where nobody did."""
    from jobs.engine.orders import terms_of, with_terms

    terms = terms_of(order)
    if terms is None:
        return order
    from commands.pipeline import _ask
    from jobs.curate import acknowledged

    if not acknowledged(opened.db, terms, actor=opened.actor) and not _ask(terms, accepted=accept_terms):
        raise Invalid("The provider's terms were not acknowledged.", hint="Read them and pass --accept-terms.")
    return with_terms(order, terms)


@contextmanager
def _queue(opened: Opened) -> Iterator["JobQueue"]:
    from registry.job_queue import JobQueue

    jobs = JobQueue.open(opened.settings.home, opened.settings.database)
    try:
        yield jobs
    finally:
        jobs.dispose()


def _build_one(
    opened: Opened, jobs: "JobQueue", order: "BuildOrder", queue: str, *, here: bool, watch: bool, quiet: bool
) -> dict[str, Any]:
    from jobs.engine.orders import checked
    from jobs.engine.wave import fate_of

    job = jobs.enqueue(checked(opened.db, order), queue)
    if not watch:
        return {"job": job}
    print(f"Job {job}", file=sys.stderr)
    if here:
        _work_here(opened, queue, lambda: not jobs.status(job).open, quiet=quiet)
    _follow(jobs, job, _Teller(quiet=quiet or here))
    return vars(fate_of(jobs.status(job))) | {"job": job}


def _build_all(
    opened: Opened, jobs: "JobQueue", order: "BuildOrder", queue: str, *, here: bool, watch: bool, quiet: bool
) -> dict[str, Any]:
    from jobs.engine import wave
    from jobs.engine.orders import buildable, checked

    name = wave.new_name(dt.datetime.now(dt.UTC))
    slugs = buildable(opened.db, writes=order.examples is not None)
    if not slugs:
        raise Invalid("No active advisor has a dataset.", hint="Pass --examples 200 to let the pipeline write them.")
    made = wave.start(jobs, name, slugs, lambda slug: checked(opened.db, replace(order, advisor=slug, wave=name)), queue)
    if not watch:
        return {"wave": name, "jobs": dict(made.jobs)}
    print(f"Wave {name}: {len(made.jobs)} jobs", file=sys.stderr)
    if here:
        _work_here(opened, queue, lambda: not any(status.open for status in wave.statuses(jobs, name)), quiet=quiet)
    _follow_wave(jobs, name, quiet=quiet or here)
    return wave.report(jobs, name)


def _show_built(as_json: bool, found: Mapping[str, Any]) -> None:
    """Print what came of it."""
    if as_json:
        print_json(found)
    elif "advisors" in found:
        show_report(found)
    elif "state" not in found:
        print(f"Ordered {found.get('wave') or found['job']}. Follow it: registry jobs list")
    else:
        _tell_fate(found)


def _end_with(found: Mapping[str, Any]) -> None:
    """Exit code 1 where something failed."""
    states = [row["state"] for row in found.get("advisors", [found] if "state" in found else [])]
    code = 1 if any(state not in ("succeeded", "queued", "running") for state in states) else 0
    if _stuck:
        _leave_stuck(code)
    if code:
        raise typer.Exit(code)


def _tell_fate(fate: Mapping[str, Any]) -> None:
    ref = f"{fate['advisor']}@{fate['version']}" if fate["version"] else fate["advisor"]
    became = f"is {fate['promoted']} now" if fate["promoted"] else fate["state"]
    print(f"{ref} {became} ({fate['seconds'] or 0:.1f} s)")
    for reason in fate["why"]:
        print(f"  - {reason}")
    print(f"The whole story: registry log {fate['advisor']}")


def show_report(found: Mapping[str, Any]) -> None:
    """Print a wave's report as a table."""
    counts = ", ".join(f"{count} {state}" for state, count in sorted(found["counts"].items()))
    rows = [
        (f["advisor"], f["state"], f["version"], f["promoted"], "; ".join(f["why"]) or None, f["seconds"], f["job"])
        for f in found["advisors"]
    ]
    table(f"{found['wave']}: {counts}", ("advisor", "state", "version", "now", "why", "seconds", "job"), rows)


# ---- Workers --------------------------------------------------------------------------------------------------------------------------------


@app.command()
def worker(
    queues: Annotated[list[str] | None, typer.Option("--queue", help="gpu or cpu; default: both.")] = None,
    gpu: Annotated[
        int | None, typer.Option(min=0, help="Train on this card alone (sets CUDA_VISIBLE_DEVICES): one worker for each card.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="HH:MM on this machine's clock: leave then, training paused and its job handed back.")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Leave when nothing waits any more, nor a job of a worker that died.")] = False,
    max_jobs: Annotated[int | None, typer.Option(min=1, help="Leave after so many jobs.")] = None,
    beat: Annotated[float, typer.Option(min=0.01, help="Seconds between two heartbeats.")] = 5.0,
    dead_after: Annotated[float, typer.Option(min=0.03, help="Seconds of silence after which this worker's jobs go to another.")] = 30.0,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that a training has to save its state when the worker leaves.")] = 60.0,
    save_every: Annotated[
        float, typer.Option(min=0.01, help="Seconds between two saved states of a training, lost at most by a kill.")
    ] = 300.0,
) -> None:
    """Take jobs from the queue, on any machine that reaches the database and the store. SIGTERM and Ctrl-C hand them back."""
    from jobs.engine.pace import Pace
    from jobs.engine.worker import LOST, Wishes
    from registry.job_queue import QUEUES, require_packages

    require_packages()
    strange = [name for name in queues or () if name not in QUEUES]
    if strange:
        raise Invalid(f"A queue is one of {', '.join(QUEUES)}; found {strange[0][:40]!a}.")
    leave_at = _leave_at(until)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)  # what this process looks at, and what its training processes inherit
    wishes = Wishes(until=leave_at, once=once, max_jobs=max_jobs)
    with open_catalogue() as opened:
        teller = _Teller(quiet=False)
        pace = Pace(beat_s=beat, dead_s=dead_after, grace_s=grace, save_s=save_every)
        made = _make_worker(opened, queues or QUEUES, pace, teller)
        why = _run(made, wishes)
    if why == LOST:
        # Nothing of this process may act any more; the same command line begins anew, under another name. Its children end with its pipes.
        environment = {**os.environ, **({_UNTIL: str(leave_at)} if leave_at is not None else {})}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606
    if made.stuck:
        _leave_stuck(1)


def _leave_at(until: str | None) -> float | None:
    """When a worker leaves, in seconds since the epoch: what it was told when it first began, else the next HH:MM."""
    before = os.environ.pop(_UNTIL, None)
    if until is None:
        return None
    return float(before) if before is not None else moment_of(until, dt.datetime.now().astimezone())


def _leave_stuck(code: int) -> NoReturn:
    """End with a step that heard nothing; its job is back in the queue, and what it still does counts for nothing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def moment_of(text: str, now: dt.datetime) -> float:
    """The next HH:MM after `now`, in seconds since the epoch. Raises Invalid."""
    try:
        hour, minute = (int(part) for part in text.split(":"))
        then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    except ValueError:
        raise Invalid(f"Expected a time such as 06:30; found {text[:20]!a}.") from None
    return (then if then > now else then + dt.timedelta(days=1)).timestamp()


def _make_worker(opened: Opened, queues: Sequence[str], pace: Any, teller: "_Teller") -> "Worker":
    from jobs.engine.worker import Worker
    from trainer.process import WarmTrainer

    return Worker(opened.settings, opened.db, opened.store, WarmTrainer(), queues=queues, pace=pace, on_line=teller.line)


def _run(made: "Worker", wishes: "Wishes") -> str:
    """Run a worker; the first SIGTERM or Ctrl-C asks it to leave, the second ends it at once."""

    def leave(number: int, _frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)
        made.ask(_INTERRUPTED)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    print(f"Worker {made.executor} takes jobs.", file=sys.stderr)
    try:
        why = made.run(wishes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    print(f"Worker {made.executor} leaves: {why}.", file=sys.stderr)
    return why


def _work_here(opened: Opened, queue: str, done: Callable[[], bool], *, quiet: bool) -> None:
    """Be the worker until the command's own jobs are done, or nothing waits because others do them. An interrupt leaves the jobs in the queue."""
    from jobs.engine.pace import Pace
    from jobs.engine.worker import LOST, Wishes

    why = LOST
    while why == LOST:
        made = _make_worker(opened, [queue], Pace(), _Teller(quiet=quiet))
        why = _run(made, Wishes(once=True, done=_now_and_then(done)))
        if why == _INTERRUPTED or (made.stuck and not done()):
            print("Stopped. The job waits in the queue; go on with: registry worker --once", file=sys.stderr)
            code = 130 if why == _INTERRUPTED else 1
            if made.stuck:
                _leave_stuck(code)
            raise typer.Exit(code)
        if made.stuck:
            _stuck.add(made.executor)


def _now_and_then(done: Callable[[], bool]) -> Callable[[], bool]:
    """The question, asked twice a second at most: a worker looks five times, and a wave's answer takes a few queries."""
    asked = [0.0]

    def ask() -> bool:
        if time.monotonic() - asked[0] < _LOOK_S:
            return False
        asked[0] = time.monotonic()
        return done()

    return ask


# ---- Looking at jobs ------------------------------------------------------------------------------------------------------------------------


class _Teller:
    """Tells people what jobs say: a line per step, and what an agent or a training is at when that changes. On stderr."""

    def __init__(self, *, quiet: bool, stream: Any = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._last: dict[str, str] = {}

    def line(self, job: str, kind: str, body: Mapping[str, Any]) -> None:
        """One line of a job; what repeats itself is left out."""
        words = told(kind, body)
        if self._quiet or words is None or self._last.get(job) == words:
            return
        self._last[job] = words
        print(f"{job}: {words}" if job else words, file=self._stream, flush=True)


def told(kind: str, body: Mapping[str, Any]) -> str | None:
    """A line of progress in words; None for what is not worth one."""
    teller = _TOLD.get(kind)
    return teller(body) if teller else None


def _told_step(body: Mapping[str, Any]) -> str:
    if body["state"] == "began":
        return f"{body['step']} ..."
    return f"{body['step']} done in {body['seconds']:.1f} s"


def _told_training(body: Mapping[str, Any]) -> str | None:
    if body.get("event") == "step":
        loss = f", loss {body['loss']:.3f}" if isinstance(body.get("loss"), float) else ""
        return f"step {body['step']} of {body['of']}{loss}"
    if body.get("event") == "phase":
        return str(body["name"]).replace("_", " ")
    return f"note: {body['message']}" if body.get("event") == "warning" else None


_TOLD: Mapping[str, Callable[[Mapping[str, Any]], str | None]] = {
    "step": _told_step,
    "train": _told_training,
    "agent": lambda body: f"{body['agent']}: {body['state']} {body['message']}".rstrip(),
    "note": lambda body: str(body["message"]),
    "failed": lambda body: f"{body['step']} failed: {body['message']}{' Hint: ' + body['hint'] if body['hint'] else ''}",
    "reaped": lambda body: f"{body['executor']} is dead; its jobs go back to the queue",
}


def _follow(jobs: "JobQueue", job: str, teller: _Teller) -> None:
    """Tell a job's lines until it ends."""
    after, is_open = 0, True
    while True:
        lines = jobs.board.since(job, after)
        for line in lines:
            teller.line(job, line.kind, line.body)
            after = line.seq
        if not lines and not is_open:
            return
        is_open = jobs.status(job).open
        if is_open:
            time.sleep(_LOOK_S)


def _follow_wave(jobs: "JobQueue", name: str, *, quiet: bool) -> None:
    """Tell when a job of a wave begins and ends, until all have ended."""
    from jobs.engine.wave import statuses

    known: dict[str, str] = {}
    while True:
        found = statuses(jobs, name)
        for status in found:
            if known.get(status.job) != status.state and not quiet:
                print(f"{status.job}: {status.state}{': ' + status.error if status.error else ''}", file=sys.stderr, flush=True)
            known[status.job] = status.state
        if not any(status.open for status in found):
            return
        time.sleep(2 * _LOOK_S)


@jobs_app.command("list")
def jobs_list(
    advisor: Annotated[str | None, typer.Option(help="Only this advisor's.")] = None,
    wave: Annotated[str | None, typer.Option(help="Only this wave's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, the newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, the newest first: what each is at, and what became of it."""
    with open_catalogue() as opened, _queue(opened) as jobs:
        rows = [_job_row(status) for status in jobs.list(advisor, wave, limit)]
    if as_json:
        print_json(rows)
    else:
        table("", ("job", "state", "step", "version", "now", "ordered", "seconds", "by", "why"), [tuple(row.values()) for row in rows])


def _job_row(status: "JobStatus") -> dict[str, Any]:
    from jobs.engine.wave import fate_of

    fate = fate_of(status)
    return {
        "job": status.job,
        "state": status.state,
        "step": status.step,
        "version": fate.version,
        "promoted": fate.promoted,
        "ordered": status.created_at,
        "seconds": fate.seconds,
        "by": status.row.actor,
        "why": "; ".join(fate.why) or None,
    }


@jobs_app.command("report")
def jobs_report(wave: Annotated[str, typer.Argument(help="A wave, as `registry build --all` names it.")], as_json: Json = False) -> None:
    """Say what happened to each advisor of a wave, as it stands now."""
    from jobs.engine.wave import report

    with open_catalogue() as opened, _queue(opened) as jobs:
        found = report(jobs, wave)
    if not found["advisors"]:
        raise Invalid(f"There is no wave {wave[:80]!a}.", hint="See: registry jobs list")
    if as_json:
        print_json(found)
    else:
        show_report(found)


@jobs_app.command("logs")
def jobs_logs(
    job: JobName, follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False, as_json: Json = False
) -> None:
    """Print what a job said: its steps, its agents, its training, its failure."""
    with open_catalogue() as opened, _queue(opened) as jobs:
        if follow:
            jobs.board.job(job)
            _follow(jobs, job, _Teller(quiet=False, stream=sys.stdout))
            return
        jobs.board.job(job)
        lines = list(_lines(jobs, job))
    if as_json:
        print_json([{"seq": line.seq, "at": line.at, "kind": line.kind, **line.body} for line in lines])
    else:
        table("", ("at", "what"), [(f"{ln.at:%Y-%m-%d %H:%M:%S}", told(ln.kind, ln.body)) for ln in lines if told(ln.kind, ln.body)])


def _lines(jobs: "JobQueue", job: str) -> Iterator["Line"]:
    after = 0
    while page := jobs.board.since(job, after):
        yield from page
        after = page[-1].seq


@jobs_app.command("cancel")
def jobs_cancel(job: JobName, as_json: Json = False) -> None:
    """Take a job out of the queue, or stop it: a running training ends, and nothing of it is registered."""
    with open_catalogue() as opened, _queue(opened) as jobs:
        show_facts(as_json, _job_row(jobs.cancel(job)))


@jobs_app.command("retry")
def jobs_retry(job: JobName, as_json: Json = False) -> None:
    """Put a failed or cancelled job back into the queue; the steps that it finished are not run again."""
    with open_catalogue() as opened, _queue(opened) as jobs:
        jobs.retry(job)
        show_facts(as_json, _job_row(jobs.status(job)))
    print("Work on it here with: registry worker --once", file=sys.stderr)
