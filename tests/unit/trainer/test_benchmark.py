"""The benchmark's tables: what is measured and what is extrapolated, and what each row says of its error."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.benchmark import _predict
from trainer import benchmark
from trainer.benchmark import Measured

SIZES = (50, 150, 500, 1000, 5000, 10_000)


def measured(examples, training, *, rest=2.0, epochs=1):
    phases = {"training": training, "model_load": rest / 2}
    return Measured(
        examples, epochs, examples, phases, training + rest, examples * 300 * epochs, examples * 200 * epochs, 2**30, cold=False
    )


def table(points, sizes=SIZES, cold=30.0, **more):
    return benchmark.table([measured(n, s, **more) for n, s in points], sizes, cold, _predict, {"a": 2.0})


def test_the_proof_of_concepts_own_figures_give_its_own_extrapolations():
    # 0.27 s an example: 50 examples 13.5 s, 1,000 in 266.5 s (its table); 5,000 in 22 minutes and 10,000 in 44, "time per example consistent".
    rows = {r.examples: r for r in table([(50, 13.5), (500, 133.0), (1000, 266.5)])}
    assert not any(rows[n].extrapolated for n in (50, 500, 1000))
    assert rows[1000].s_per_example_epoch == pytest.approx(0.27, abs=0.005)
    assert rows[5000].training_s / 60 == pytest.approx(22, abs=0.3)
    assert rows[10_000].training_s / 60 == pytest.approx(44, abs=0.5)
    assert rows[10_000].extrapolated
    assert rows[10_000].error.startswith("95% prediction interval ")
    assert rows[1000].advisor_usd["a"] == pytest.approx((266.5 + 30) / 3600 * 2)
    assert rows[1000].fleet_usd["a"] == pytest.approx((266.5 + 2) * 800 / 3600 * 2)


@pytest.mark.parametrize(("points", "words"), [([(50, 10.0)], "one point"), ([(50, 10.0), (150, 30.0)], "two points")])
def test_too_few_points_say_that_no_error_is_known(points, words):
    row = table(points)[-1]
    assert row.error == f"{words}, no error known"
    assert (row.training_low_s, row.training_high_s) == (None, None)
    assert row.training_s == pytest.approx(10.0 / 50 * 10_000)


@given(
    st.lists(st.tuples(st.integers(2, 2000), st.floats(0.01, 5000)), min_size=1, max_size=5, unique_by=lambda p: p[0]),
    st.lists(st.integers(2, 100_000), min_size=1, max_size=6),
)
def test_every_row_is_measured_or_marked_and_never_negative(points, sizes):
    rows = table(points, sizes)
    seconds = dict(points)
    assert [r.examples for r in rows] == sorted(set(sizes))
    for row in rows:
        assert row.extrapolated == (row.examples not in seconds) == (row.error is not None)
        assert row.training_s == seconds.get(row.examples, row.training_s) >= 0
        assert row.total_warm_s >= row.training_s
        assert row.total_cold_s >= row.training_s
        if row.training_low_s is not None:
            assert 0 <= row.training_low_s <= row.training_s <= row.training_high_s + 1e-6
        assert (row.tokens_per_s is None) == row.extrapolated


@given(st.floats(0.001, 10), st.floats(0.1, 5000))
def test_the_smallest_size_is_always_measured_and_the_pace_chooses_the_others(pace, limit):
    chosen = benchmark.sizes_to_measure(SIZES, pace, limit, None)
    assert chosen == [n for n in SIZES if n == 50 or n * pace <= limit]
    assert benchmark.sizes_to_measure(SIZES, pace, limit, 500) == [50, 150, 500]


def test_dialogues_are_the_same_for_a_seed_and_a_size_is_a_prefix_of_a_larger_one():
    few, many = benchmark.conversations(5, 100, 1), benchmark.conversations(9, 100, 1)
    assert many[:5] == few != benchmark.conversations(5, 100, 2)
    assert len({str(c) for c in many}) == 9
    assert {len(q.split()) + len(a.split()) for q, a in itertools.islice(benchmark.dialogues(100, 1), 20)} == {100}


def test_phases_add_up_to_the_total():
    rows = benchmark.phase_rows(measured(50, 10.0, rest=3.0), measured(50, 10.0))
    assert [name for name, _, _ in rows] == [benchmark.START, *benchmark.PHASES, "Total"]
    for column in (1, 2):
        assert sum(row[column] for row in rows[:-1]) == pytest.approx(rows[-1][column])
    assert benchmark.LOCAL_PRICE == 0.102  # the help of `registry benchmark` says so


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0.40s"), (40.5, "40.5s"), (266.5, "4.4 min"), (8000, "2.2 h")])
def test_times_are_told_as_people_read_them(seconds, words):
    assert benchmark.clock(seconds) == words
