"""Intervals against published tables."""

import math
import random

import pytest

from evaluation.statistics import fit_line, paired_difference, predict, t_cdf, t_interval, t_quantile

# Abramowitz & Stegun, table 26.10: two-sided 95% (p = 0.975) and 99% (p = 0.995).
TABLE = [
    (0.975, 1, 12.706),
    (0.975, 2, 4.303),
    (0.975, 5, 2.571),
    (0.975, 10, 2.228),
    (0.975, 30, 2.042),
    (0.975, 120, 1.980),
    (0.995, 4, 4.604),
    (0.95, 9, 1.833),
]


@pytest.mark.parametrize(("p", "df", "expected"), TABLE)
def test_t_quantiles_agree_with_the_printed_table(p, df, expected):
    assert t_quantile(p, df) == pytest.approx(expected, abs=6e-4)


def test_one_degree_of_freedom_is_the_cauchy_distribution():
    for t in (0.1, 1.0, 7.5):
        assert t_cdf(t, 1) == pytest.approx(0.5 + math.atan(t) / math.pi, abs=1e-12)


def test_two_degrees_of_freedom_have_a_closed_form():
    for t in (0.3, 2.0, 40.0):
        assert t_cdf(t, 2) == pytest.approx(0.5 + t / (2 * math.sqrt(2 + t * t)), abs=1e-12)


def test_interval_of_a_textbook_sample():
    found = t_interval([4.0, 5.0, 6.0, 7.0, 8.0])
    assert (found.mean, found.n) == (6.0, 5)
    assert found.high - found.mean == pytest.approx(2.776 * math.sqrt(2.5) / math.sqrt(5), abs=1e-3)


def test_pairing_removes_what_both_share():
    before = [1.0, 5.0, 9.0, 13.0]
    found = paired_difference([b - 0.5 for b in before], before)
    assert found.mean == pytest.approx(-0.5)
    assert found.high < 0


def test_one_value_carries_no_interval_and_none_is_refused():
    assert t_interval([3.0]).low is None
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        paired_difference([1.0], [1.0, 2.0])


def test_a_line_through_exact_points_has_no_error_and_goes_on():
    line = fit_line([(50, 15.0), (150, 35.0), (500, 105.0)])
    assert (line.intercept, line.slope) == (pytest.approx(5.0), pytest.approx(0.2))
    ahead = predict(line, 10_000)
    assert (ahead.mean, ahead.low, ahead.high) == (pytest.approx(2005.0),) * 3


def test_the_prediction_interval_is_that_of_the_text_book():
    # By hand: x 1..4, y 2, 4, 5, 8: slope 1.9, intercept 0, residual squares 0.7, so spread sqrt(0.35) with 2 degrees of freedom; at x = 5 the factor is
    # sqrt(1 + 1/4 + 2.5^2/5) = sqrt(2.5) and t(0.975, 2) = 4.3027.
    line = fit_line([(1, 2.0), (2, 4.0), (3, 5.0), (4, 8.0)])
    found = predict(line, 5)
    assert (found.mean, found.n) == (pytest.approx(9.5), 4)
    assert found.high - found.mean == pytest.approx(4.302653 * math.sqrt(0.35) * math.sqrt(2.5), rel=1e-6)


def test_with_fewer_than_three_points_no_error_is_known():
    one, two = predict(fit_line([(50, 10.0)]), 100), predict(fit_line([(50, 10.0), (100, 15.0)]), 200)
    assert (one.mean, one.low, one.high) == (20.0, None, None)  # in proportion
    assert (two.mean, two.low, two.high) == (pytest.approx(25.0), None, None)
    with pytest.raises(ValueError, match="at least one point"):
        fit_line([])
    with pytest.raises(ValueError, match="elsewhere"):
        fit_line([(0, 1.0)])


def test_the_interval_holds_95_of_100_new_observations():
    draw = random.Random(7)  # noqa: S311 - a simulation
    inside, rounds = 0, 600
    for _ in range(rounds):
        points = [(x, 3 + 0.3 * x + draw.gauss(0, 5)) for x in (50, 150, 500, 1000)]
        found = predict(fit_line(points), 2000)
        inside += found.low <= 3 + 0.3 * 2000 + draw.gauss(0, 5) <= found.high
    assert 0.92 < inside / rounds < 0.98
