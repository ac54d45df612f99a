"""Semantic deduplication against the proof of concept's loop, and against the bare matrix products it cannot do without.

1. 10,000 items (20% planted near-duplicates) against the loop "for each new, for each kept: cosine_similarity > threshold", one numpy call per pair. The whole
   loop would take minutes, so it is run on every `every`-th item against the kept items that it would meet, in their order and with its early exit; its time
   is scaled by the comparisons counted for all items. The kept set is compared in full with a plain reference (one product per item, same decisions).
2. 100,000 items of 384 numbers: the time against the products alone, with the same blocks, the same buffer and as many kept rows, nothing looked at.
Rounds (in 2: blocks) are interleaved, so that a busy machine slows both; of rounds the median is taken. The negation guard is off, as the proof of concept has none.
Run: python scripts/bench_dedupe.py [--quick]
"""

import argparse
import json
import resource
import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import dedupe
from pipeline.dedupe import BLOCK, CHUNK, Deduped

Floats = npt.NDArray[np.float32]
THRESHOLD, REVIEW, DIMENSION, PLANTED = 0.85, 0.65, 384, 0.2


def run(*, items: int = 10_000, many: int = 100_000, every: int = 50, rounds: int = 3) -> dict[str, Any]:
    """Measure both. `ratio_loop` is the loop's time by ours (higher is better), `ratio_products` ours by the bare products' (lower is better)."""
    return {**_against_loop(items, every, rounds), **_against_products(many)}


def made(count: int, seed: int = 7) -> Floats:
    """Unit vectors in random directions, of which a fifth are another one slightly turned (cosine about 0.95), at random places."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, DIMENSION), np.float32)
    copies = random.choice(np.arange(1, count), int(count * PLANTED), replace=False)
    for place in np.sort(copies):
        vectors[place] = vectors[random.integers(place)] + 0.33 * random.standard_normal(DIMENSION, np.float32)
        vectors[place] *= np.sqrt(DIMENSION) / np.linalg.norm(vectors[place])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _ours(vectors: Floats) -> Deduped:
    names = [(str(n), "") for n in range(len(vectors))]
    return dedupe.semantic(names, vectors, THRESHOLD, review=REVIEW, guard=False)


def _against_loop(count: int, every: int, rounds: int) -> dict[str, Any]:
    vectors = made(count)
    times, pairs = [], []
    kept, compared = _reference(vectors)
    found: tuple[str, ...] = ()
    for turn in range(rounds):
        began = time.perf_counter()
        found = _ours(vectors).kept
        times.append(time.perf_counter() - began)
        pairs.append(_loop(vectors, kept, compared, range(every - 1 - turn, count, every * rounds)))
    ours, loop = statistics.median(times), statistics.median(pairs) * sum(compared)
    return {
        "items": count,
        "kept": len(found),
        "kept_sets_equal": found == tuple(map(str, kept)),
        "seconds": round(ours, 3),
        "loop_seconds_extrapolated": round(loop, 1),
        "loop_comparisons": sum(compared),
        "loop_microseconds_per_comparison": round(1e6 * statistics.median(pairs), 2),
        "ratio_loop": round(loop / ours, 1),
    }


def cosine_similarity(one: Floats, other: Floats) -> float:
    """The proof of concept's comparison of one pair."""
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


def _reference(vectors: Floats) -> tuple[list[int], list[int]]:
    """The kept places by one product per item, and how many comparisons the loop makes for each item: it stops at the first one above."""
    kept: list[int] = []
    matrix = np.empty_like(vectors)
    compared = []
    for place, vector in enumerate(vectors):
        above = np.flatnonzero(matrix[: len(kept)] @ vector > THRESHOLD)
        compared.append(int(above[0]) + 1 if len(above) else len(kept))
        if not len(above):
            matrix[len(kept)] = vector
            kept.append(place)
    return kept, compared


def _loop(vectors: Floats, kept: list[int], compared: list[int], places: range) -> float:
    """Seconds per comparison of the proof of concept's loop, over some of the items."""
    rows = [vectors[place] for place in kept]
    before = np.searchsorted(kept, np.arange(len(vectors)))
    made_here, began = 0, time.perf_counter()
    for place in places:
        for existing in rows[: before[place]]:
            made_here += 1
            if cosine_similarity(vectors[place], existing) > THRESHOLD:
                break
    seconds = time.perf_counter() - began
    if made_here != sum(compared[place] for place in places):
        raise SystemExit("the loop made other comparisons than were counted for it")
    return seconds / made_here


def _against_products(count: int) -> dict[str, Any]:
    """Block by block: ours, then at once the products of the same rows with the same kept ones and with themselves."""
    vectors = made(count)
    run = dedupe.Pass([], vectors[:0], count, dedupe.Rules(THRESHOLD, REVIEW, guard=False, step="bench"), (BLOCK, CHUNK))
    out = np.empty(BLOCK * max(BLOCK, CHUNK), np.float32)
    ours = bare = 0.0
    for start in range(0, count, BLOCK):
        rows = vectors[start : start + BLOCK]
        names = [(str(start + n), "") for n in range(len(rows))]
        before = run.kept_vectors
        began = time.perf_counter()
        run.add(names, rows)
        middle = time.perf_counter()
        for others in [*(before[at : at + CHUNK] for at in range(0, len(before), CHUNK)), rows]:
            np.matmul(rows, others.T, out=out[: len(rows) * len(others)].reshape(len(rows), len(others)))
        bare += time.perf_counter() - middle
        ours += middle - began
    return {
        "many_items": count,
        "many_kept": len(run.result().kept),
        "many_seconds": round(ours, 2),
        "products_seconds": round(bare, 2),
        "ratio_products": round(ours / bare, 3),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 and 20,000 items, one round: the ratios are lower and rougher")
    found = run(items=2_000, many=20_000, every=20, rounds=1) if parser.parse_args().quick else run()
    print(json.dumps(found, indent=2))
    print(
        f"Deduplication of {found['items']} against the loop: {found['ratio_loop']}x   (target 100x, kept sets equal: {found['kept_sets_equal']})"
    )
    print(f"Deduplication of {found['many_items']} against bare products: {found['ratio_products']}x the time   (target under 1.5x)")


if __name__ == "__main__":
    main()
