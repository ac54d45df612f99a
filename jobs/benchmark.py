"""`registry benchmark`: the proof of concept's measurement, for any base and sizes.

1. The smallest size in a process of its own: what a cold start costs, and the pace by which the sizes to be measured are chosen.
2. The same size once in a warm worker, which loads the base there; then every chosen size in that worker.
3. Sizes beyond are extrapolated along a line through the measured ones, and marked so, with their error.
4. A JSON file in <home>/benchmarks, whole or not at all. Of an advisor's pairs the same JSON becomes a run of that advisor (kind evaluation) as well; without an
   advisor there is no run to put it in. No version is registered.
"""

import datetime as dt
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock

from evaluation.statistics import fit_line, predict
from jobs.train import Progress, Trains, export_dataset
from registry import advisors, datasets, runs
from registry.db import Database
from registry.errors import Invalid
from registry.manifest import digest
from trainer import benchmark as tables
from trainer import borrowed
from trainer.benchmark import Measured, Row
from trainer.examples import seal
from trainer.output import write_whole
from trainer.recipe import Recipe, make_recipe
from trainer.spec import Drive, TrainedAdapter, TrainSpec

if TYPE_CHECKING:
    from trainer.bases import BaseSpec

FOLDER = "benchmarks"
EXTRAPOLATION = (
    "ordinary least squares of the training seconds over the measured sizes; the error is the 95% prediction interval of that line (Student's t, n - 2 degrees "
    "of freedom), which takes for granted that time goes on growing along the line"
)
TOKENS_PER_WORD = (
    1.3  # of short English words, where the base's tokenizer cannot be asked beforehand; what they really were is in the result
)
MOST_EXAMPLES = 1_000_000


class Warm(Protocol):
    """A trainer that keeps the base loaded between trainings."""

    def train(self, spec: TrainSpec, on_event: Progress) -> TrainedAdapter:
        """Train one spec."""


@dataclass(frozen=True)
class Order:
    """What to measure. `dataset` is (advisor, digest or None for its latest) instead of synthetic dialogues; `settings` are recipe settings besides."""

    base: str | None = None
    sizes: tuple[int, ...] = tables.SIZES
    tokens: int = tables.TOKENS
    dataset: tuple[str, str | None] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 1
    prices: Mapping[str, float] = field(default_factory=lambda: dict(tables.PRICES))
    measure_up_to: int | None = None
    limit_s: float = 300.0
    seed: int = 42


@dataclass(frozen=True)
class Benchmarked:
    """The figures, and the file they were written to."""

    cold: Measured
    warm: Measured
    rows: tuple[Row, ...]
    facts: Mapping[str, Any]
    path: Path


def benchmark(
    home: Path,
    order: Order,
    on_event: Progress,
    *,
    db: Database | None = None,
    actor: str = "benchmark",
    trains: Trains | None = None,
    warm: Callable[[], AbstractContextManager[Warm]] | None = None,
) -> Benchmarked:
    """Measure, extrapolate and write the file. Raises Invalid for sizes that cannot be, and what a training raises; then nothing is written."""
    check(order)
    with borrowed.in_use(home):  # no cleanup meanwhile
        return _benchmark(home, order, on_event, db, actor, trains, warm)


def _benchmark(
    home: Path,
    order: Order,
    on_event: Progress,
    db: Database | None,
    actor: str,
    trains: Trains | None,
    warm: Callable[[], AbstractContextManager[Warm]] | None,
) -> Benchmarked:
    base, recipe, device = _decide(home, order, on_event)
    try:
        (home / "work").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="benchmark-", dir=home / "work") as folder, _locked(folder):
            pairs, per_word = _pairs(order, base, db, Path(folder), home)
            bench = _Bench(order, base, recipe, pairs, Path(folder), on_event)
            cold, adapter, measured = bench.run(trains, warm)
    except OSError as error:
        raise Invalid(
            f"The work folder under {home} cannot be written: {error.strerror}.", hint="Free some space, then run it again."
        ) from error
    rows = tuple(tables.table(measured, order.sizes, cold.start_s, _predict, order.prices))
    facts = _facts(order, base, recipe, device, adapter, per_word)
    value = _record(cold, measured, rows, facts)
    path = _write(home, base.repo, value)
    if order.dataset is not None and db is not None:
        _record_run(db, order, adapter, value, actor)
    return Benchmarked(cold, measured[0], rows, facts, path)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Hold the lock of a work folder, as trainings do; only this process knows the name, so the lock's file goes with it."""
    path = Path(f"{folder}.lock")
    with FileLock(path):
        yield
        path.unlink(missing_ok=True)


def check(order: Order) -> None:
    """Raises Invalid for sizes, tokens, epochs or prices that make no sense."""
    if not order.sizes or not all(2 <= n <= MOST_EXAMPLES for n in order.sizes):
        raise Invalid(f"Sizes are numbers of examples from 2 to {MOST_EXAMPLES:,}; found {', '.join(map(str, order.sizes)) or 'none'}.")
    if not 8 <= order.tokens <= 100_000:
        raise Invalid(f"An example of a benchmark has 8 to 100,000 tokens; found {order.tokens}.")
    if order.epochs < 1 or not all(0 <= price < 1e6 for price in order.prices.values()):
        raise Invalid("A benchmark has at least one epoch, and prices of 0 or more US dollars an hour.")


def _decide(home: Path, order: Order, on_event: Progress) -> tuple["BaseSpec", Recipe, str]:
    from trainer.bases import resolve_base
    from trainer.preflight import choose_default_base, detect_device

    device = detect_device()
    base = resolve_base(order.base or choose_default_base(device), home, on_event)
    fixed = {"epochs": order.epochs, "max_steps": None, "heldout_max_examples": 0}
    return base, make_recipe(base, device, {**order.settings, **fixed}), device.name if device else "CPU"


# --- the data


def _pairs(
    order: Order, base: "BaseSpec", db: Database | None, folder: Path, home: Path
) -> tuple[list[list[dict[str, str]]], float | None]:
    """As many conversations as the largest size could need to be measured, and the tokens per word they were made for (None: an advisor's own)."""
    if order.dataset is not None:
        return _advisors_pairs(order.dataset, db, folder), None
    with borrowed.fetching(home, base.repo, base.revision) if base.kind == "hub" else nullcontext():
        per_word = tokens_per_word(base)
    # The chat template's own tokens are the example's too; some ten of them.
    words = max(2, round((order.tokens - 10) / per_word)) if order.tokens > 20 else 2
    return tables.conversations(max(order.sizes), words, order.seed), per_word


def _advisors_pairs(wanted: tuple[str, str | None], db: Database | None, folder: Path) -> list[list[dict[str, str]]]:
    if db is None:
        raise Invalid("An advisor's data is in the catalogue, and none is open.")
    name, ref = wanted
    with db.read() as session:
        advisor = advisors.get(session, name)
        sha256 = (datasets.get(session, advisor, ref) if ref else datasets.latest(session, advisor)).sha256
    export_dataset(db, advisor.slug, sha256, folder / "exported")
    lines = (folder / "exported" / "train.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line)["messages"] for line in lines if line.strip()]


def tokens_per_word(base: "BaseSpec") -> float:
    """Tokens that the base's tokenizer makes of one of the benchmark's words, from its tokenizer.json; 1.3 where that cannot be read beforehand."""
    path = _tokenizer_file(base)
    if path is None:
        return TOKENS_PER_WORD
    from tokenizers import Tokenizer

    words = 400
    (turns,) = tables.conversations(1, words, seed=0)
    tokenizer = Tokenizer.from_file(str(path))
    return sum(len(tokenizer.encode(turn["content"], add_special_tokens=False).ids) for turn in turns) / words


def _tokenizer_file(base: "BaseSpec") -> Path | None:
    if base.path is not None:
        return base.path / "tokenizer.json" if (base.path / "tokenizer.json").is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        return Path(hf_hub_download(base.repo, "tokenizer.json", revision=base.revision))
    except (EntryNotFoundError, HfHubHTTPError, OSError, ValueError):
        return None


def write_dataset(folder: Path, pairs: Sequence[list[dict[str, str]]], count: int) -> Path:
    """The first `count` conversations as a dataset folder, from the beginning again where there are fewer; nothing is held out. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"sha256": digest(messages), "messages": messages} for messages in islice(cycle(pairs), count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "heldout.jsonl").write_text("", encoding="utf-8")
    sha256 = digest([row["sha256"] for row in rows])
    seal(folder, sha256)
    return folder


# --- the trainings


class _Bench:
    """Runs the trainings of one benchmark, one after the other."""

    def __init__(
        self, order: Order, base: "BaseSpec", recipe: Recipe, pairs: list[list[dict[str, str]]], folder: Path, on_event: Progress
    ) -> None:
        self.order, self.base, self.recipe, self.pairs, self.folder, self.on_event = order, base, recipe, pairs, folder, on_event

    def run(
        self, trains: Trains | None, warm: Callable[[], AbstractContextManager[Warm]] | None
    ) -> tuple[Measured, TrainedAdapter, list[Measured]]:
        """The cold training of the smallest size with its record, and the warm ones of every size that is measured."""
        from trainer.process import WarmTrainer, run_training

        sizes = sorted(set(self.order.sizes))
        cold, adapter = self.measure(sizes[0], trains or run_training, "cold")
        chosen = tables.sizes_to_measure(sizes, cold.training_s / sizes[0], self.order.limit_s, self.order.measure_up_to)
        with (warm or WarmTrainer)() as worker:
            self.measure(sizes[0], worker.train, "warming")  # loads the libraries and the base; its time is a cold one's
            measured = [self.measure(size, worker.train, "warm")[0] for size in chosen]
        return cold, adapter, measured

    def measure(self, size: int, trains: Trains, name: str) -> tuple[Measured, TrainedAdapter]:
        """One training of `size` examples; the seconds of writing its data are not counted."""
        self.on_event({"event": "phase", "name": f"{size}_examples_{name}"})
        data = write_dataset(self.folder / f"data-{size}", self.pairs, size)
        spec = TrainSpec(self.recipe, self.base, self.order.seed, data, self.folder / f"{name}-{size}", Drive(save_state_every=0))
        began = time.monotonic()
        adapter = trains(spec, self._told)
        return measured_of(adapter, size, self.recipe.epochs, time.monotonic() - began, cold=name == "cold"), adapter

    def _told(self, event: Mapping[str, Any]) -> None:
        if event.get("event") != "warning":  # that nothing is held out, which is meant
            self.on_event(event)


def measured_of(adapter: TrainedAdapter, size: int, epochs: int, seconds: float, *, cold: bool) -> Measured:
    """What a finished training says of itself, with its wall seconds."""
    metrics = adapter.metrics
    return Measured(
        examples=size,
        epochs=epochs,
        steps=metrics["steps"],
        phases=dict(adapter.timings),
        total_s=seconds,
        tokens=metrics["tokens"] * epochs,
        trained_tokens=metrics["trained_tokens"] * epochs,
        peak_memory_bytes=metrics["peak_memory_bytes"],
        cold=cold,
    )


def _predict(points: Sequence[tuple[float, float]], x: float) -> tables.Estimate:
    interval = predict(fit_line(points), x)
    return tables.Estimate(interval.mean, interval.low, interval.high)


# --- the record


def _facts(order: Order, base: "BaseSpec", recipe: Recipe, device: str, adapter: TrainedAdapter, per_word: float | None) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": "synthetic dialogues", "tokens_wanted": order.tokens, "tokens_per_word": per_word}
    if order.dataset is not None:
        data = {"kind": "an advisor's pairs, repeated where there are fewer", "advisor": order.dataset[0], "dataset": order.dataset[1]}
    return {
        "base": {"repo": base.repo, "revision": base.revision},
        "device": device,
        "epochs": order.epochs,
        "data": data,
        "prices_usd_per_hour": dict(order.prices),
        "extrapolation": EXTRAPOLATION,
        "trainable_parameters": adapter.metrics["trainable_parameters"],
        "total_parameters": adapter.metrics["total_parameters"],
        "recipe": recipe.as_json(),
        "environment": dict(adapter.environment),
    }


def _record(cold: Measured, measured: Sequence[Measured], rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": tables.FORMAT,
        "at": dt.datetime.now(dt.UTC).isoformat(),
        **facts,
        "phases": [{"phase": p, "cold_s": c, "warm_s": w} for p, c, w in tables.phase_rows(cold, measured[0])],
        "start_s": {"cold": cold.start_s, "warm": measured[0].start_s},
        "measured": [tables.measured_json(m) for m in (cold, *measured)],
        "rows": tables.as_json(rows),
    }


def _write(home: Path, repo: str, value: Mapping[str, Any]) -> Path:
    moment = dt.datetime.fromisoformat(value["at"])
    name = re.sub(r"[^\w.-]+", "-", repo, flags=re.ASCII)
    path = home / FOLDER / f"{moment:%Y%m%dT%H%M%S}Z-{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise Invalid(
            f"The benchmark's file {path} cannot be written: {error.strerror}.", hint="Free some space, then run it again."
        ) from error
    return path


def _record_run(db: Database, order: Order, adapter: TrainedAdapter, value: dict[str, Any], actor: str) -> None:
    """The same record as a run of the advisor whose pairs were trained on."""
    assert order.dataset is not None  # noqa: S101 - the caller asked
    spec = {"format": tables.FORMAT, "base": value["base"], "recipe": value["recipe"], "sizes": list(order.sizes), "seed": order.seed}
    with db.transaction() as session:
        advisor = advisors.get(session, order.dataset[0])
        runs.record(session, advisor, "evaluation", spec, actor=actor, environment=dict(adapter.environment), metrics=value)


def read(path: Path) -> dict[str, Any]:
    """A benchmark's file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value
