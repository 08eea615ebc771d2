"""A straight line through points, and where it stands at zero.

In: two aligned arrays. Out: intercept and slope, with an interval of the intercept.
May not know: what the points are.

Estimand: the mean of y where x is 0. Assumption: y is linear in x with independent errors of equal variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from evalkit.errors import EstimateError
from evalkit.statistics.checks import ROUNDING, checked_between, checked_same_length, checked_vector
from evalkit.statistics.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Line:
    """A least-squares line.

    Attributes:
        intercept: y at x = 0.
        slope: change of y for each unit of x.
        interval: of the intercept.
        n: points.
    """

    intercept: float
    slope: float
    interval: Interval
    n: int


def fitted_line(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> Line:
    """Fit y = intercept + slope x by least squares; both of shape (n,).

    >>> line = fitted_line([-1.0, 0.0, 1.0, 2.0], [0.0, 1.1, 1.9, 3.0])
    >>> round(line.intercept, 3), round(line.slope, 3)
    (1.01, 0.98)

    Raises:
        EstimateError: fewer than three points, a non-finite value, no variation of x, or a perfect fit.
    """
    xs, ys = checked_vector("x", x), checked_vector("y", y)
    checked_same_length("x", xs, "y", ys)
    level, n = checked_between("level", level, 0.0, 1.0), xs.size
    if n < 3:
        raise EstimateError(f"a line needs at least 3 points, not {n}")
    centre = float(xs.mean())
    spread = float(((xs - centre) ** 2).sum())
    if spread <= ROUNDING * max(1.0, float(np.abs(xs).max())) ** 2:
        raise EstimateError(f"all {n} values of x are {xs[0]!r}; a line needs different ones")
    slope = float(((xs - centre) * (ys - ys.mean())).sum()) / spread
    intercept = float(ys.mean()) - slope * centre
    residuals = ys - intercept - slope * xs
    variance = float((residuals**2).sum()) / (n - 2)
    half = float(stdtrit(n - 2, (1.0 + level) / 2.0)) * math.sqrt(variance * (1.0 / n + centre**2 / spread))
    if half <= 0.0:
        raise EstimateError("all points lie on the line, so its interval would have no width")
    interval = Interval(lower=intercept - half, upper=intercept + half, level=level, method="least-squares")
    return Line(intercept=intercept, slope=slope, interval=interval, n=n)
