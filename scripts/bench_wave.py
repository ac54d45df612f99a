"""What the queue costs: a wave of tiny advisors through two workers on Postgres, against the same trainings without a queue; part of `make bench`.

Two figures, because either alone could flatter:
- idle: 1 - busy / (2 x wall). Busy is, for each worker, the time in which it trained or registered something: from a job's first training event to the end of its
  train step, overlaps counted once (a job is fetched while another trains). Wall is from the first such moment to the last, so the workers' own start is no part
  of it, and everything between two trainings is: polling, recording, curating, the gate, the promotion. It sees waiting, not slowing down.
- slower: 1 - plain / wall. Plain is the wall time of the same trainings, registered on the same Postgres server by two processes that loop over the advisors,
  without queue, board or gate: half of them before the wave and half after it, so that a busy machine slows both. It sees everything, also what the queue takes
  from the cores while they train.
Both train on the built-in base with a few steps, so that a job takes about a second: the shortest jobs, where a queue shows most.

    python scripts/bench_wave.py [--advisors 100] [--steps 12]
"""

import argparse
import datetime as dt
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests")]
GOAL = 0.10
WORKERS = 2
WAVE = "bench"
PAIRS = 12
Job = tuple[str, float, float]  # (worker, first training event, end of training and registering), seconds since the epoch


def run(advisors: int = 100, steps: int = 12) -> dict[str, Any]:
    """Half of the plain trainings, the wave, the other half, on one Postgres server."""
    from bench import _database, _postgres

    from trainer.bases import resolve_base

    with tempfile.TemporaryDirectory() as folder, _postgres() as url:
        bases = Path(os.environ.get("REGISTRY_TEST_BASES", folder))
        resolve_base("tiny", bases)  # built once, before any clock starts
        names = [f"advisor-{n:03}" for n in range(advisors)]
        homes = {name: _installation(Path(folder) / name, _database(url, name), bases, names) for name in ("plain", "queued")}
        half = len(names) // 2
        before = _plain(homes["plain"], names[:half], steps)
        jobs = _queued(homes["queued"], names, steps)
        after = _plain(homes["plain"], names[half:], steps)
    busy, wall = busy_of(jobs)
    plain = busy_of(before)[1] + busy_of(after)[1]
    return {
        "advisors": advisors,
        "steps": steps,
        "workers": WORKERS,
        "cores": os.cpu_count(),
        "train_step_s": round(sum(end - start for _, start, end in jobs) / len(jobs), 2),
        "plain_s": round(plain, 1),
        "wave_s": round(wall, 1),
        "idle": round(1 - busy / (WORKERS * wall), 3),
        "slower": round(1 - plain / wall, 3),
    }


def _installation(home: Path, url: str, bases: Path, names: Sequence[str]) -> dict[str, str]:
    """A migrated catalogue with the advisors and their pairs, and the environment that names it."""
    from factories import add_advisor, add_dataset

    from registry import schema
    from registry.db import Database
    from registry.job_queue import JobQueue

    home.mkdir()
    (home / "bases").symlink_to(bases / "bases")
    db = Database(url)
    schema.upgrade(db)
    rows = _rows()
    for number, name in enumerate(names):
        add_advisor(db, name)
        add_dataset(db, [rows[(number * 5 + n) % len(rows)] for n in range(PAIRS)], name, fraction=0.2)
    db.dispose()
    queue = JobQueue.open(home, url)
    queue.prepare()
    queue.dispose()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("REGISTRY_")}
    return kept | {"REGISTRY_HOME": str(home), "REGISTRY_DATABASE_URL": url, "REGISTRY_ACTOR": "bench", "OMP_NUM_THREADS": "1"}


def recipe_of(steps: int) -> dict[str, Any]:
    """A few steps with one thread: two workers share two cores."""
    return {"max_steps": steps, "threads": 1}


def _rows() -> list[dict[str, Any]]:
    from factories import line

    found = []
    for path in sorted((REPO / "examples").glob("*/pairs.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            turns = [m["content"] for m in json.loads(text)["messages"] if m["role"] != "system"]
            if len(turns) == 2:
                found.append(line(turns[0], turns[1]))
    return found


def _plain(environment: dict[str, str], names: Sequence[str], steps: int) -> list[Job]:
    """Two processes that each train and register half of these advisors."""
    commands = [[sys.executable, __file__, "--plain", json.dumps([names[n::WORKERS], steps])] for n in range(WORKERS)]
    told = _ended(commands, environment)
    return [(str(n), start, end) for n, text in enumerate(told) for start, end in map(json.loads, text.splitlines())]


def _queued(environment: dict[str, str], names: Sequence[str], steps: int) -> list[Job]:
    """Two workers that empty the queue."""
    from registry.job_queue import BuildOrder, JobQueue

    queue = JobQueue.open(Path(environment["REGISTRY_HOME"]), environment["REGISTRY_DATABASE_URL"])
    try:
        orders = [BuildOrder(advisor=name, actor="bench", base="tiny", recipe=recipe_of(steps), wave=WAVE) for name in names]
        jobs = [queue.enqueue(order) for order in orders]
        _ended([[sys.executable, "-m", "cli", "worker", "--queue", "gpu", "--once"]] * WORKERS, environment)
        states = [queue.status(job) for job in jobs]
        failed = [f"{s.job}: {s.state} {s.error}" for s in states if s.state != "succeeded"]
        if failed:
            raise SystemExit(f"{len(failed)} of {len(jobs)} jobs did not succeed; the first: {failed[0]}")
        return [_interval(queue, job) for job in jobs]
    finally:
        queue.dispose()


def _interval(queue: Any, job: str) -> Job:
    lines = list(_lines(queue, job))
    start = next(line.at for line in lines if line.kind == "train")
    done = next(line for line in lines if line.kind == "step" and (line.body["step"], line.body["state"]) == ("train", "done"))
    return done.body["executor"], _seconds(start), _seconds(done.at)


def _lines(queue: Any, job: str) -> Iterator[Any]:
    after = 0
    while found := queue.board.since(job, after):
        yield from found
        after = found[-1].seq


def _seconds(at: Any) -> float:
    return at.timestamp() if isinstance(at, dt.datetime) else float(at)


def busy_of(jobs: Sequence[Job]) -> tuple[float, float]:
    """(seconds in which workers trained or registered, overlaps of one worker counted once; seconds from the first beginning to the last end)."""
    busy, until = 0.0, {worker: 0.0 for worker, _, _ in jobs}
    for worker, start, end in sorted(jobs, key=lambda job: job[1]):
        busy += max(0.0, end - max(start, until[worker]))
        until[worker] = max(until[worker], end)
    return busy, max(end for _, _, end in jobs) - min(start for _, start, _ in jobs)


def _ended(commands: Sequence[Sequence[str]], environment: dict[str, str]) -> list[str]:
    """Run the commands at once and return what each printed; raises SystemExit with the last words of one that fails."""
    running = [
        subprocess.Popen(list(c), cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for c in commands
    ]
    try:
        with ThreadPoolExecutor(len(running)) as pool:
            told = list(pool.map(lambda process: process.communicate(), running))
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
    for process, (_, words) in zip(running, told, strict=True):
        if process.returncode:
            raise SystemExit(f"{list(process.args)[1:4]} ended with {process.returncode}: {words[-1500:]}")
    return [out for out, _ in told]


def plain_loop(names: Sequence[str], steps: int) -> None:
    """Train and register one advisor after the other with a warm trainer, without a queue; prints [first training event, end] of each."""
    from jobs.train import Request, train
    from registry.artifacts import open_store
    from registry.db import Database
    from registry.settings import get_settings
    from trainer.process import WarmTrainer

    settings = get_settings()
    db, store = Database(settings.database), open_store(settings.artifact_location)
    with WarmTrainer() as trainer:
        for name in names:
            events: list[float] = []
            request = Request(name, base="tiny", recipe=recipe_of(steps))
            train(
                db,
                store,
                settings.home,
                request,
                actor="bench",
                on_event=lambda _e, at=events: at.append(time.time()),
                trains=trainer.train,
            )
            print(json.dumps([events[0], time.time()]), flush=True)
    db.dispose()


def verdict(found: dict[str, Any]) -> str:
    """The figures beside the goal."""
    worst = max(found["idle"], found["slower"])
    word = "reached" if worst < GOAL else "MISSED"
    return (
        f"queue overhead of {found['advisors']} jobs of {found['train_step_s']} s through {found['workers']} workers on Postgres: idle {found['idle']:.1%}, "
        f"slower than without a queue {found['slower']:.1%}   (target under {GOAL:.0%}: {word})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--advisors", type=int, default=100)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--plain", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.plain:
        names, steps = json.loads(asked.plain)
        plain_loop(names, steps)
        return
    found = run(asked.advisors, asked.steps)
    print(json.dumps(found, indent=1))
    print(verdict(found))


if __name__ == "__main__":
    main()
