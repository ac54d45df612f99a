"""The order of a training: from lengths and a seed alone, the same on every machine."""

import random

import pytest

from trainer.bases import BaseSpec
from trainer.packing import Schedule, best_fit_decreasing, kept_steps, micro_batches, shuffled, total_steps
from trainer.recipe import Recipe, default_recipe

BASE = BaseSpec("hub", "org/model", "1" * 40, config={"model_type": "unheard-of"})


def recipe(**changes: object) -> Recipe:
    return default_recipe(BASE, None).with_changes(**changes)


def packed(length: int, **changes: object) -> Recipe:
    return recipe(batching="packed", pack_length=length, batch_size=1, **changes)


@pytest.fixture
def lengths():
    rng = random.Random(3)  # noqa: S311
    return [rng.randint(20, 300) for _ in range(157)]


def test_the_order_is_written_down_for_ever():
    assert shuffled(8, 42, 0) == [6, 3, 0, 7, 4, 1, 2, 5]
    assert len({tuple(shuffled(8, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("make", [lambda: recipe(batch_size=4), lambda: packed(512), lambda: packed(512, gradient_accumulation=3)])
def test_every_example_is_trained_once_an_epoch_and_never_cut(make, lengths):
    schedule = Schedule(make(), lengths, 7)
    first = [schedule.step(n) for n in range(1, schedule.per_epoch + 1)]
    assert sorted(i for step in first for batch in step.micro_batches for i in batch) == list(range(len(lengths)))
    assert first[-1].epoch == 1.0
    assert schedule.steps == schedule.per_epoch * 3
    assert schedule.step(schedule.per_epoch + 1).micro_batches != first[0].micro_batches


def test_any_step_can_be_asked_for_first(lengths):
    one, other = Schedule(packed(512), lengths, 7), Schedule(packed(512), lengths, 7)
    steps = [one.step(n) for n in range(1, one.steps + 1)]
    assert [other.step(n) for n in range(one.steps, 0, -1)] == steps[::-1]


def test_rows_are_full_and_no_longer_than_they_may_be(lengths):
    rows = best_fit_decreasing(lengths, range(len(lengths)), 512)
    sums = [sum(lengths[i] for i in row) for row in rows]
    assert max(sums) <= 512
    assert len(rows) <= -(-sum(lengths) // 512) * 11 / 9 + 1
    assert sum(lengths) / (512 * len(rows)) > 0.97


def test_the_fullest_row_that_fits_is_taken_and_a_long_example_stands_alone():
    assert best_fit_decreasing([60, 30, 50, 40, 10, 130], range(6), 100) == [(5,), (0, 3), (2, 1, 4)]


def test_neighbours_change_from_epoch_to_epoch_and_the_number_of_rows_does_not():
    same = [100] * 40
    epochs = [micro_batches(packed(512), same, 1, epoch) for epoch in range(4)]
    assert {len(rows) for rows in epochs} == {8}
    assert len({frozenset(map(frozenset, rows)) for rows in epochs}) == 4


def test_steps_count_epochs_accumulation_and_the_limit(lengths):
    assert total_steps(recipe(batch_size=4), lengths) == 3 * 40
    assert total_steps(recipe(batch_size=4, gradient_accumulation=4), lengths) == 3 * 10
    assert total_steps(recipe(batch_size=4, max_steps=7), lengths) == 7


@pytest.mark.parametrize(("kept", "steps", "wanted"), [(4, 100, (20, 40, 60, 80)), (3, 4, (1, 2, 3)), (4, 2, (1,)), (0, 9, ()), (4, 1, ())])
def test_kept_adapters_are_spread_evenly_before_the_last_step(kept, steps, wanted):
    assert kept_steps(recipe(kept_checkpoints=kept), steps) == wanted
