"""Intervals against published tables."""

import math

import pytest

from evaluation.statistics import paired_difference, t_cdf, t_interval, t_quantile

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
