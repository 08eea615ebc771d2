"""Intervals for one binomial proportion.

In: successes and trials. Out: an `Interval` for the probability of success.
May not know: what a success is.

Estimand: the success probability. Assumption: independent trials with one common probability.
"""

from __future__ import annotations

import math

from scipy.special import betaincinv

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_between, checked_count
from evalkit.statistics.interval import Interval, two_sided_z


def wilson_interval(k: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval (Wilson 1927; Newcombe 1998, Statistics in Medicine 17:857, method 3).

    >>> interval = wilson_interval(421, 14042, 0.95)
    >>> round(100 * interval.lower, 2), round(100 * interval.upper, 2)
    (2.73, 3.29)

    Raises:
        EstimateError: fewer than two trials, `k` outside 0..n, or `level` not inside (0, 1).
    """
    k, n = _checked_trials(k, n)
    z = two_sided_z(level)
    centre = (2.0 * k + z * z) / (2.0 * (n + z * z))
    half = z * math.sqrt(z * z + 4.0 * k * (n - k) / n) / (2.0 * (n + z * z))
    # At the ends the limit is exactly 0 or 1; rounding must not push it past.
    lower = 0.0 if k == 0 else centre - half
    upper = 1.0 if k == n else centre + half
    return Interval(lower=lower, upper=upper, level=level, method="wilson")


def clopper_pearson_interval(k: int, n: int, level: float = 0.95) -> Interval:
    """Return the exact interval of Clopper and Pearson (Biometrika 1934): coverage is never below `level`.

    >>> interval = clopper_pearson_interval(0, 10, 0.95)
    >>> interval.lower, round(interval.upper, 4)
    (0.0, 0.3085)

    Raises:
        EstimateError: fewer than two trials, `k` outside 0..n, or `level` not inside (0, 1).
    """
    k, n = _checked_trials(k, n)
    tail = (1.0 - checked_between("level", level, 0.0, 1.0)) / 2.0
    lower = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    upper = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return Interval(lower=lower, upper=upper, level=level, method="clopper-pearson")


def _checked_trials(k: int, n: int) -> tuple[int, int]:
    k, n = checked_count("successes", k), checked_count("trials", n, minimum=2)
    if k > n:
        raise EstimateError(f"successes is {k} of {n} trials; allowed: at most {n}")
    return k, n
