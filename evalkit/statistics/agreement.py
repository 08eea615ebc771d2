"""How often two raters, or two runs, say the same.

In: two aligned arrays of outcomes, or several raters' ratings. Out: flip rate, Krippendorff's alpha.
Must not depend on: who the raters are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Interval, checked_outcomes, checked_same_length
from evalkit.statistics.proportions import wilson_interval

# How far several raters agree on a scale, beyond what chance would give.
#
# Estimand: 1 minus observed over expected disagreement; 1 is full agreement, 0 is what shuffled ratings would give,
# and a negative value is worse than that. Assumption: differences of ratings mean the same all over the scale
# (interval data).


def krippendorff_alpha(ratings: ArrayLike) -> float:
    """Return alpha for interval data of an array of shape (units, raters), NaN where there is no rating.

    Units with fewer than two ratings are left out. Krippendorff 2004, Content Analysis, chapter 11: disagreement is the
    mean squared difference of two ratings, within units (observed) and among all of them (expected).

    >>> nan = float("nan")
    >>> first = [nan, nan, nan, nan, nan, 3, 4, 1, 2, 1, 1, 3, 3, nan, 3]
    >>> second = [1, nan, 2, 1, 3, 3, 4, 3, nan, nan, nan, nan, nan, nan, nan]
    >>> third = [nan, nan, 2, 1, 3, 4, 4, nan, 2, 1, 1, 3, 3, nan, 4]
    >>> round(krippendorff_alpha(np.array([first, second, third]).T), 3)
    0.811

    Raises:
        EstimateError: fewer than two units with two ratings, an infinite rating, or all ratings equal.
    """
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2:
        raise EstimateError(f"ratings have shape {table.shape}; allowed: (units, raters)")
    if np.isinf(table).any():
        raise EstimateError("ratings hold an infinite value; allowed: numbers, and NaN for none")
    table = table[(~np.isnan(table)).sum(axis=1) >= 2]
    if table.shape[0] < 2:
        raise EstimateError(f"alpha: {table.shape[0]} unit(s) with two ratings; at least 2 are needed")
    counts = (~np.isnan(table)).sum(axis=1)
    total = int(counts.sum())
    within = 2.0 * counts * np.nanvar(table, axis=1)
    observed = float((within * counts / (counts - 1)).sum()) / total
    values = table[~np.isnan(table)]
    expected = 2.0 * float(values.var()) * total / (total - 1)
    if expected <= 0.0:
        raise EstimateError(f"alpha: all ratings are {values[0]!r}, so chance agreement is already 1")
    return 1.0 - observed / expected


@dataclass(frozen=True, kw_only=True)
class FlipRate:
    """Share of items whose outcome differs between two runs.

    Attributes:
        flips: items that differ.
        n: items.
        rate: flips / n.
        interval: Wilson interval of the rate.
    """

    flips: int
    n: int
    rate: float
    interval: Interval


def flip_rate(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> FlipRate:
    """Return the share of items on which two 0/1 outcome arrays, each of shape (n,), differ, with Wilson limits.

    >>> result = flip_rate([1, 1, 0, 0], [1, 0, 0, 0])
    >>> result.flips, result.rate, round(result.interval.upper, 3)
    (1, 0.25, 0.699)

    Raises:
        EstimateError: fewer than two items, unequal lengths, or a value that is neither 0 nor 1.
    """
    left, right = checked_outcomes("first", first), checked_outcomes("second", second)
    checked_same_length("first", left, "second", right)
    flips = int(np.count_nonzero(left != right))
    interval = wilson_interval(flips, left.size, level)
    return FlipRate(flips=flips, n=left.size, rate=flips / left.size, interval=interval)
