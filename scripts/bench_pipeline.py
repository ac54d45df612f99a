"""How fast the pipeline is against the sequential way and against the best schedule that its limits allow; part of `make bench`.

Stand-in servers answer with recorded-size responses after real latencies scaled 1:10 (a search 10 s, a batch 30 s, the two calls before research 2 s each).
The sequential time is computed: the sum of the latencies of the calls that were made. The best schedule is computed too: the same calls, the same order of
phases, the same number at a time, started the moment a place is free, with nothing in between. Each size runs in a process of its own; what is timed begins
when the program is loaded and ends when the files are written. Both the stand-ins and the run share this machine's cores.
"""

import argparse
import asyncio
import contextlib
import heapq
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "scripts"))
JITTER = 0.3  # a search takes 7 to 13 s, as calls do: with equal latencies everything would arrive at one instant and nothing could overlap
GOALS = {
    50: 5.3,
    200: 10.0,
    500: 13.0,
}  # times faster than the sequential way: the proof of concept's 4, 15 and 40 minutes in 45, 90 and 180 s
NEAR_BEST = 1.15


def schedule(latencies: list[float], places: int) -> float:
    """Seconds until calls of these latencies are done, `places` at a time, each started as soon as a place is free."""
    free = [0.0] * places
    for latency in latencies:
        heapq.heappush(free, heapq.heappop(free) + latency)
    return max(free)


def best(calls: list[dict[str, Any]], places: int) -> float:
    """Seconds of the best schedule: the calls before research one after the other, then all searches, then all batches."""
    kinds: dict[str, list[float]] = {}
    for call in calls:
        kinds.setdefault(call["kind"], []).append(call["latency"])
    return sum(kinds.get("other", [])) + schedule(kinds.get("search", []), places) + schedule(kinds.get("synthesis", []), places)


KINDS = ("search", "synthesis")


def calls_in(log: Path) -> list[dict[str, Any]]:
    """Answered calls with their kind and the latency that the stand-in gave them (seconds, scaled)."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    answers = [row for row in rows if row["event"] == "answer" and row["status"] == 200]
    return [{"kind": row["purpose"] if row["purpose"] in KINDS else "other", "latency": row["given"]} for row in answers]


def measure(examples: int, messages: str, papers: str, places: int) -> dict[str, Any]:
    """One run in this process: seconds of wall and processor time, peak memory, what came out."""
    from kill_pipeline import addresses

    from pipeline.config import Controls, Endpoints, Keys, PipelineConfig
    from pipeline.embedding import Embedder
    from pipeline.prices import Prices
    from pipeline.run import Sources, new_nonce, run
    from pipeline.steps import Order
    from pipeline.store import Workspace
    from pipeline.values import text_sha256

    urls = addresses(papers)
    endpoints = Endpoints(
        anthropic=messages,
        semantic_scholar=urls["REGISTRY_SEMANTIC_SCHOLAR_URL"],
        openalex=urls["REGISTRY_OPENALEX_URL"],
        arxiv=urls["REGISTRY_ARXIV_URL"],
    )
    text = (REPO / "examples" / "elena" / "prompt.md").read_text(encoding="utf-8")
    order = Order("bench", "elena", text, text_sha256(text), PipelineConfig(examples=examples), new_nonce())
    controls = Controls(concurrency=places, endpoints=endpoints, keys=Keys(anthropic="test"))
    import anthropic  # noqa: F401 - loaded before the clock starts
    import langgraph.graph  # noqa: F401

    from baml_client.sync_client import b  # noqa: F401
    from pipeline import graph  # noqa: F401

    with tempfile.TemporaryDirectory() as home:
        began, cpu = time.perf_counter(), time.process_time()
        outcome = asyncio.run(run(order, Workspace(Path(home)), controls, Sources(), Prices.read(), Embedder.open, lambda _: None))
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
        report = outcome.report.as_json()
        return {
            "wall": wall,
            "cpu": cpu,
            "pairs": len(outcome.draft.examples),
            "status": outcome.status,
            "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "seconds": report["seconds"],
        }


def run(sizes: tuple[int, ...] = (50, 200, 500), places: int = 20, scale: float = 0.1) -> list[dict[str, Any]]:
    """One row of figures per size."""
    return [_one(examples, places, scale) for examples in sizes]


def _one(examples: int, places: int, scale: float) -> dict[str, Any]:
    from kill_pipeline import stand_in

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        log = Path(folder) / "calls.jsonl"
        messages = stack.enter_context(stand_in("messages_api", "--scale", str(scale), "--jitter", str(JITTER), "--log", str(log)))
        papers = stack.enter_context(stand_in("papers_api"))
        command = [sys.executable, __file__, "--one", str(examples), messages, papers, "--places", str(places)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        calls = calls_in(log)
    sequential, ideal = sum(call["latency"] for call in calls), best(calls, places)
    return {
        "examples": examples,
        "pairs": found["pairs"],
        "calls": len(calls),
        "scale": scale,
        "sequential_s": round(sequential / scale, 1),
        "wall_s": round(found["wall"] / scale, 1),
        "faster": round(sequential / found["wall"], 1),
        "of_best_schedule": round(found["wall"] / ideal, 2),
        "overhead_ms_a_call": round((found["wall"] - ideal) / len(calls) * 1000, 1),
        "processor_ms_a_call": round(found["cpu"] / len(calls) * 1000, 1),
        "peak_mb": round(found["rss_mb"]),
    }


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The goals that were not reached, in words."""
    found = []
    for row in rows:
        goal = GOALS.get(row["examples"], 0.0)
        if row["faster"] < goal:
            found.append(f"{row['examples']} examples: {row['faster']}x faster, {goal}x was the goal")
        if row["of_best_schedule"] > NEAR_BEST:
            found.append(f"{row['examples']} examples: {row['of_best_schedule']} of the best schedule, {NEAR_BEST} was the goal")
        if row["peak_mb"] > 1000:
            found.append(f"{row['examples']} examples: {row['peak_mb']} MB at the peak, 1000 was the goal")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="50,200,500")
    parser.add_argument("--places", type=int, default=20)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--one", nargs=3, metavar=("EXAMPLES", "MESSAGES", "PAPERS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(int(asked.one[0]), asked.one[1], asked.one[2], asked.places)))
        return
    rows = []
    for size in asked.sizes.split(","):
        rows += run((int(size),), asked.places, asked.scale)
        print(json.dumps(rows[-1]), flush=True)
    for line in missed(rows):
        print(f"MISSED {line}")


if __name__ == "__main__":
    main()
