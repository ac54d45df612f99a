"""Which examples are trained in which step: the whole order of a training, from lengths and a seed alone. Loads no torch.

Rules: the order depends on the seed, the epoch and the lengths, never on the machine, the clock or the hash seed; every example is used exactly once in
an epoch and none is ever cut; a micro-batch is a list of examples that are laid end to end; nothing is drawn from the random numbers of the training, so that
going on in the middle needs no replay.
"""

import math
import random
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.recipe import Recipe

MicroBatch = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One optimizer step: its number from 1, the epochs that are done after it, and the indexes of the examples of each of its micro-batches."""

    number: int
    epoch: float
    micro_batches: tuple[MicroBatch, ...]


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """0 to count - 1 in the order of an epoch. Python's own generator, seeded by text, is the same on every machine (docs of `random.seed`)."""
    order = list(range(count))
    random.Random(f"order/{seed}/{epoch}").shuffle(order)  # noqa: S311 - an order, no secret
    return order


def best_fit_decreasing(lengths: Sequence[int], order: Sequence[int], capacity: int) -> list[MicroBatch]:
    """Rows of at most `capacity` tokens: the longest example first, each into the fullest row where it fits.

    Equal lengths go in the order of `order`; a longer example than the capacity has a row to itself. The number of rows depends on the lengths alone. Best fit
    decreasing uses at most 11/9 of the best possible number of rows, plus a constant (Johnson et al., 1974).
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens that are free, row), sorted
    for index in sorted(order, key=lambda i: -lengths[i]):  # stable, so ties keep the given order
        need = lengths[index]
        place = bisect_left(free, (need, -1))
        if place < len(free):
            room, row = free.pop(place)
            rows[row].append(index)
        else:
            room, row = max(capacity, need), len(rows)
            rows.append([index])
        insort(free, (room - need, row))
    return [tuple(row) for row in rows]


def micro_batches(recipe: Recipe, lengths: Sequence[int], seed: int, epoch: int) -> list[MicroBatch]:
    """The micro-batches of one epoch: `batch_size` examples each, or `batch_size` packed rows each. The last may hold fewer."""
    order = shuffled(len(lengths), seed, epoch)
    if recipe.batching == "packed":
        rows = best_fit_decreasing(lengths, order, recipe.pack_length or recipe.max_length)
        rows = [rows[i] for i in shuffled(len(rows), seed, epoch)]
    else:
        rows = [(index,) for index in order]
    size = recipe.batch_size
    return [tuple(i for row in rows[start : start + size] for i in row) for start in range(0, len(rows), size)]


def steps_per_epoch(recipe: Recipe, lengths: Sequence[int]) -> int:
    """Optimizer steps of one pass over examples of these lengths (tokens)."""
    batches = len(micro_batches(recipe, lengths, 0, 0))
    return math.ceil(batches / (recipe.gradient_accumulation * recipe.processes))


def total_steps(recipe: Recipe, lengths: Sequence[int]) -> int:
    """Optimizer steps of the whole training: all epochs, but at most max_steps."""
    steps = steps_per_epoch(recipe, lengths) * recipe.epochs
    return min(steps, recipe.max_steps or steps)


def kept_steps(recipe: Recipe, steps: int) -> tuple[int, ...]:
    """After which steps an adapter is kept: `kept_checkpoints` of them, evenly spaced, before the last step; fewer where there are not so many steps."""
    parts = recipe.kept_checkpoints + 1
    return tuple(sorted({round(i * steps / parts) for i in range(1, parts)} - {0, steps}))


class Schedule:
    """The steps of a training, each computed when it is asked for."""

    def __init__(self, recipe: Recipe, lengths: Sequence[int], seed: int) -> None:
        """Count the steps. `lengths` are the tokens of each example, in the order of the dataset."""
        self.recipe, self.lengths, self.seed = recipe, tuple(lengths), seed
        self.per_epoch = steps_per_epoch(recipe, lengths)
        self.steps = total_steps(recipe, lengths)
        self._epoch: tuple[int, list[MicroBatch]] = (-1, [])

    def step(self, number: int) -> Step:
        """Step `number`, from 1 to `steps`."""
        epoch, place = divmod(number - 1, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, micro_batches(self.recipe, self.lengths, self.seed, epoch))
        size = self.recipe.gradient_accumulation * self.recipe.processes
        batches = self._epoch[1][place * size : (place + 1) * size]
        return Step(number, epoch + (place + 1) / self.per_epoch, tuple(batches))
