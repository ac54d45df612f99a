"""Intervals for small samples. Pure; no scipy, because the core must stay light.

The percentile bootstrap is too narrow under about 50 items (83.8% real coverage at n = 10 for a nominal 95%), so a t-interval is used; on paired
differences where two models answered the same items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Interval:
    """A mean with its two-sided interval; `low` and `high` are None where one item cannot carry an interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean. Raises ValueError for no values."""
    if not values:
        raise ValueError("an interval needs at least one value")
    mean = fmean(values)
    if len(values) == 1:
        return Interval(mean, None, None, 1)
    half = t_quantile((1 + confidence) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, len(values))


def paired_difference(after: Sequence[float], before: Sequence[float], confidence: float = 0.95) -> Interval:
    """T interval of the mean of after[i] - before[i]. Raises ValueError for different lengths."""
    return t_interval([a - b for a, b in zip(after, before, strict=True)], confidence)


@dataclass(frozen=True)
class Line:
    """y = intercept + slope * x by least squares through n points; `spread` is the residuals' standard deviation, None where n < 3 leaves none to see.

    `x_mean` and `x_squares` (the sum of (x - x_mean)^2) are what a prediction's interval needs besides.
    """

    intercept: float
    slope: float
    spread: float | None
    n: int
    x_mean: float
    x_squares: float


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """The least-squares line through (x, y) points; through the origin where they have one x only. Raises ValueError for no points, and for x = 0 alone."""
    if not points:
        raise ValueError("a line needs at least one point")
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_mean, y_mean = fmean(xs), fmean(ys)
    squares = sum((x - x_mean) ** 2 for x in xs)
    if squares == 0:
        if x_mean == 0:
            raise ValueError("a line through the origin needs a point elsewhere")
        return Line(0.0, y_mean / x_mean, None, len(points), x_mean, 0.0)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in points) / squares
    intercept = y_mean - slope * x_mean
    residuals = sum((y - intercept - slope * x) ** 2 for x, y in points)
    spread = math.sqrt(residuals / (len(points) - 2)) if len(points) > 2 else None
    return Line(intercept, slope, spread, len(points), x_mean, squares)


def predict(line: Line, x: float, confidence: float = 0.95) -> Interval:
    """The value at x and the two-sided interval for one new observation there (the usual prediction interval); no bounds where the line has no spread.

    It holds as far as the line does: that the points go on along it beyond the last one is assumed.
    """
    value = line.intercept + line.slope * x
    if line.spread is None:
        return Interval(value, None, None, line.n)
    error = line.spread * math.sqrt(1 + 1 / line.n + (x - line.x_mean) ** 2 / line.x_squares)
    half = t_quantile((1 + confidence) / 2, line.n - 2) * error
    return Interval(value, value - half, value + half, line.n)


def t_quantile(p: float, df: int) -> float:
    """The p-quantile of Student's t with `df` degrees of freedom, 0.5 <= p < 1, by bisection on its distribution function; good to 1e-10."""
    if not 0.5 <= p < 1 or df < 1:
        raise ValueError(f"expected 0.5 <= p < 1 and df >= 1; found p={p}, df={df}")
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2
    while high - low > 1e-10 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, df: int) -> float:
    """Student's t distribution function for t >= 0: 1 - I_x(df/2, 1/2)/2 with x = df/(df + t^2) (Abramowitz & Stegun 26.7.1)."""
    return 1 - _incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22), evaluated with Lentz's method."""
    if x in (0.0, 1.0):
        return x
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on this side only; the other follows by symmetry
        return 1 - front * _fraction(b, a, 1 - x) / b
    return front * _fraction(a, b, x) / a


def _fraction(a: float, b: float, x: float) -> float:
    tiny = 1e-300
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1), tiny)
    value = d
    for m in range(1, 500):
        for term in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)), -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 / _nonzero(1 + term * d, tiny)
            c = _nonzero(1 + term / c, tiny)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _nonzero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
