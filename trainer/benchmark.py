"""What a benchmark of trainings is made of: synthetic dialogues, one measured training, and the table of all sizes. Pure; loads no torch.

Rules: a figure that was not measured is marked 'extrapolated' and carries its error, or says that none is known; seconds are wall seconds; a price is
US dollars per GPU hour. Sizes of one benchmark are prefixes of one another, so that only the number of examples differs between them. What it does not know:
whether time goes on growing along the line beyond the largest measured size (it does for padding-free batches: every example is the same work).
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

FORMAT = "benchmark/1"
SIZES = (50, 150, 500, 1000, 5000, 10_000)  # the proof of concept's
TOKENS = 300  # of an example, question and answer together: what an advisor's pair has about
FLEET = 800  # advisors that are to be trained
QUESTION_SHARE = 0.2  # of an example's words; the answer has the rest
# What the proof of concept called a training's phases, and what the trainer's timings call them.
PHASES: Mapping[str, str] = {
    "Model loading": "model_load",
    "LoRA preparation": "adapter_preparation",
    "Data preparation": "data_preparation",
    "Training": "training",
    "Adapter save": "save",
}
START = "Start, libraries and the rest"
# One hour of a machine of one's own: an RTX 4090's 450 W (NVIDIA's board power) and 150 W for what is around it (assumed) at US$ 0.17 a kWh (about the US
# residential average of 2025, EIA Electric Power Monthly). The card itself is taken as paid.
LOCAL_PRICE = round((0.450 + 0.150) * 0.17, 3)
RUNPOD_A100_PRICE = 2.0  # the proof of concept's figure
PRICES: Mapping[str, float] = {"own machine, electricity": LOCAL_PRICE, "RunPod A100": RUNPOD_A100_PRICE}
# Short plain words: any tokenizer knows most of them, so an example's length in tokens hardly varies.
_WORDS = (
    "a about after again all also and any are as ask at away back be because been before begin best better between both but by call can care change clear come day "
    "do done each end even every feel few find first for friend from get give go good great hard have hear help here home hope how if in it just keep kind know "
    "last learn leave less let life like little long look make many may more morning most much must name need never new next no not now of off often old on one "
    "only open or other our out over own part people plan rest right said same say see short show side small so some start stay step still stop such take talk "
    "tell than that the their them then there these they thing think this time to today together too try turn two under up us use very voice want way we week "
    "well what when where which while who why will with without word work year yes you your"
)
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True)
class Measured:
    """One training that was run: its examples, epochs and optimizer steps, wall seconds by phase and in all, tokens of all epochs, peak memory in bytes.

    `tokens` are all that the model read, `trained_tokens` those the loss is computed on.
    """

    examples: int
    epochs: int
    steps: int
    phases: Mapping[str, float]
    total_s: float
    tokens: int
    trained_tokens: int
    peak_memory_bytes: int
    cold: bool

    @property
    def training_s(self) -> float:
        """Seconds of the training phase alone."""
        return self.phases["training"]

    @property
    def start_s(self) -> float:
        """Seconds of everything that is not training: start, libraries, loading, preparing, saving."""
        return self.total_s - self.training_s


@dataclass(frozen=True)
class Estimate:
    """A value that was not measured, with its 95% interval where one is known."""

    value: float
    low: float | None
    high: float | None


# (measured (x, y) points, x) -> the value there; evaluation.statistics has the arithmetic.
Predicts = Callable[[Sequence[tuple[float, float]], float], Estimate]


@dataclass(frozen=True)
class Row:
    """One line of the table. `total_cold_s` is a process of its own, as the proof of concept's was; `total_warm_s` a job of a worker that has the base loaded.

    `advisor_usd` is the cost of one cold training by price, `fleet_usd` that of 800 warm ones.
    """

    examples: int
    extrapolated: bool
    training_s: float
    training_low_s: float | None
    training_high_s: float | None
    error: str | None
    total_cold_s: float
    total_warm_s: float
    s_per_example_epoch: float
    tokens_per_s: float | None
    trained_tokens_per_s: float | None
    peak_memory_bytes: int | None
    advisor_usd: Mapping[str, float]
    fleet_usd: Mapping[str, float]


def dialogues(words: int, seed: int) -> Iterator[tuple[str, str]]:
    """Endless (question, answer) pairs of about `words` words together, drawn from WORDS; the same seed gives the same pairs."""
    random_words = random.Random(seed)  # noqa: S311 - filler, no secret
    asked = max(1, round(words * QUESTION_SHARE))
    while True:
        question = " ".join(random_words.choices(WORDS, k=asked)).capitalize() + "?"
        yield question, " ".join(random_words.choices(WORDS, k=max(1, words - asked))).capitalize() + "."


def conversations(count: int, words: int, seed: int) -> list[list[dict[str, str]]]:
    """The first `count` dialogues as messages."""
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in islice(dialogues(words, seed), count)
    ]


def sizes_to_measure(sizes: Sequence[int], seconds_per_example: float, limit_s: float, up_to: int | None) -> list[int]:
    """Which sizes to run: those up to `up_to`, or without it those whose training should take `limit_s` at this pace; the smallest always."""
    smallest = min(sizes)
    chosen = {n for n in sizes if (n <= up_to if up_to is not None else n * seconds_per_example <= limit_s)}
    return sorted(chosen | {smallest})


def table(
    measured: Sequence[Measured], sizes: Sequence[int], cold_start_s: float, predict: Predicts, prices: Mapping[str, float]
) -> list[Row]:
    """One row a size, measured where it was. `measured` are warm trainings of different sizes; raises ValueError for none."""
    if not measured:
        raise ValueError("a table needs at least one measured training")
    by_size = {m.examples: m for m in measured}
    return [_row(size, by_size.get(size), measured, cold_start_s, predict, prices) for size in sorted(set(sizes))]


def _row(
    size: int, own: Measured | None, measured: Sequence[Measured], cold_start_s: float, predict: Predicts, prices: Mapping[str, float]
) -> Row:
    seconds, rest = (Estimate(own.training_s, None, None), own.start_s) if own else _extrapolated(size, measured, predict)
    warm, cold = seconds.value + rest, seconds.value + cold_start_s
    return Row(
        examples=size,
        extrapolated=own is None,
        training_s=seconds.value,
        training_low_s=seconds.low,
        training_high_s=seconds.high,
        error=None if own else error_words(seconds, len(measured)),
        total_cold_s=cold,
        total_warm_s=warm,
        s_per_example_epoch=seconds.value / size / measured[0].epochs,
        tokens_per_s=_per_second(own.tokens, own.training_s) if own else None,
        trained_tokens_per_s=_per_second(own.trained_tokens, own.training_s) if own else None,
        peak_memory_bytes=own.peak_memory_bytes if own else None,
        advisor_usd={name: cost(cold, price) for name, price in prices.items()},
        fleet_usd={name: cost(warm * FLEET, price) for name, price in prices.items()},
    )


def _extrapolated(size: int, measured: Sequence[Measured], predict: Predicts) -> tuple[Estimate, float]:
    """Training seconds along the line through the measured sizes, never below zero, and the warm job's other seconds (tokenising grows with the size too)."""
    training = predict([(m.examples, m.training_s) for m in measured], size)
    # With one size the rest may not be scaled: most of it is a fixed cost.
    rest = predict([(m.examples, m.start_s) for m in measured], size).value if len(measured) > 1 else measured[0].start_s
    low = None if training.low is None else max(0.0, training.low)
    return Estimate(max(0.0, training.value), low, training.high), max(0.0, rest)


def error_words(estimate: Estimate, points: int) -> str:
    """An extrapolated figure's error, in words."""
    if estimate.low is None or estimate.high is None:
        return {1: "one point, no error known", 2: "two points, no error known"}.get(points, "no error known")
    return f"95% prediction interval {clock(estimate.low)} to {clock(estimate.high)}"


def _per_second(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds > 0 else None


def cost(seconds: float, price: float) -> float:
    """US dollars of so many seconds at a price per hour."""
    return seconds / 3600 * price


def phase_rows(cold: Measured, warm: Measured) -> list[tuple[str, float, float]]:
    """(phase, seconds cold, seconds warm) as the proof of concept lists them, with what remains before the total."""
    rows = [(words, cold.phases.get(name, 0.0), warm.phases.get(name, 0.0)) for words, name in PHASES.items()]
    rest = [max(0.0, m.total_s - sum(m.phases.get(n, 0.0) for n in PHASES.values())) for m in (cold, warm)]
    return [(START, rest[0], rest[1]), *rows, ("Total", cold.total_s, warm.total_s)]


def clock(seconds: float) -> str:
    """Seconds as people read them: 0.42s, 40.5s, 4.4 min, 2.1 h."""
    if seconds < 10:
        return f"{seconds:.2f}s"
    if seconds < 120:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for a JSON file."""
    return [asdict(row) for row in rows]


def measured_json(measured: Measured) -> dict[str, Any]:
    """One measured training for a JSON file."""
    return asdict(measured)
