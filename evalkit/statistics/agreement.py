"""How often two raters, or two runs, say the same.

In: two aligned arrays of outcomes or labels, or counts. Out: flip rate, Cohen's kappa, prevalence corrected for an
imperfect rater.
Must not depend on: who the raters are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Interval, checked_between, checked_outcomes, checked_same_length, two_sided_z
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


@dataclass(frozen=True, kw_only=True)
class Kappa:
    """Agreement of two raters beyond chance.

    Attributes:
        kappa: (observed - expected)/(1 - expected); 1 is full agreement, 0 is chance.
        observed: share of items with the same label.
        expected: share expected if the raters were independent with their own label shares.
        n: items.
    """

    kappa: float
    observed: float
    expected: float
    n: int


def cohen_kappa(first: ArrayLike, second: ArrayLike) -> Kappa:
    """Return Cohen's kappa of two label arrays, each of shape (n,) (Cohen 1960).

    >>> first = ["yes"] * 25 + ["no"] * 25
    >>> second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    >>> round(cohen_kappa(first, second).kappa, 12)
    0.4

    Raises:
        EstimateError: fewer than two items, unequal lengths, a NaN label, or both raters using one and the same label.
    """
    left, right = _labels("first", first), _labels("second", second)
    checked_same_length("first", left, "second", right)
    if left.size < 2:
        raise EstimateError(f"kappa: {left.size} item(s); at least 2 are needed")
    names, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
    ours, theirs = codes[: left.size], codes[left.size :]
    observed = float(np.mean(ours == theirs))
    shares = [np.bincount(side, minlength=names.size) / left.size for side in (ours, theirs)]
    expected = float(shares[0] @ shares[1])
    if names.size < 2:
        raise EstimateError(f"kappa: both raters say {names[0]!r} for every item, so chance agreement is already 1")
    return Kappa(kappa=(observed - expected) / (1.0 - expected), observed=observed, expected=expected, n=left.size)


def _labels(name: str, values: ArrayLike) -> NDArray[np.generic]:
    array: NDArray[np.generic] = np.asarray(values)
    if array.ndim != 1:
        raise EstimateError(f"{name} has shape {array.shape}; allowed: one label for each item")
    if array.dtype.kind == "f" and np.isnan(array.astype(np.float64)).any():
        raise EstimateError(f"{name} holds NaN; allowed: a label for every item")
    return array


@dataclass(frozen=True, kw_only=True)
class RoganGladen:
    """Prevalence corrected for the known errors of the rater who counted it.

    Attributes:
        estimate: corrected share; not cut to [0, 1], because a value outside tells that the error rates do not fit.
        wilson: Wilson limits of the raw share, each passed through the correction.
        normal: estimate -/+ z sqrt(p(1-p)/n)/(sensitivity + specificity - 1); None when the raw share is 0 or 1 and
            this interval would have no width.
    """

    estimate: float
    wilson: Interval
    normal: Interval | None


def rogan_gladen(positives: int, n: int, sensitivity: float, specificity: float, level: float = 0.95) -> RoganGladen:
    """Return (positives/n + specificity - 1)/(sensitivity + specificity - 1) (Rogan and Gladen 1978).

    Sensitivity and specificity are taken as known; their own uncertainty is not in the intervals.

    >>> result = rogan_gladen(20, 120, sensitivity=0.9, specificity=0.99)
    >>> round(result.estimate, 5), round(result.wilson.lower, 5), round(result.wilson.upper, 5)
    (0.17603, 0.11299, 0.26231)

    Raises:
        EstimateError: fewer than two items, `positives` outside 0..n, rates outside (0, 1], or a rater no better than
            chance (sensitivity + specificity <= 1).
    """
    youden = _rate("sensitivity", sensitivity) + _rate("specificity", specificity) - 1.0
    if youden <= 0.0:
        raise EstimateError(
            f"sensitivity {sensitivity:g} plus specificity {specificity:g} is not above 1: the rater is no better than "
            "chance and nothing can be corrected"
        )
    raw = wilson_interval(positives, n, level)
    share = positives / n
    estimate = (share + specificity - 1.0) / youden
    lower, upper = ((limit + specificity - 1.0) / youden for limit in (raw.lower, raw.upper))
    half = two_sided_z(level) * math.sqrt(share * (1.0 - share) / n) / youden
    normal = Interval(lower=estimate - half, upper=estimate + half, level=level, method="rogan-gladen-normal")
    return RoganGladen(
        estimate=estimate,
        wilson=Interval(lower=lower, upper=upper, level=level, method="rogan-gladen-wilson"),
        normal=normal if half > 0.0 else None,
    )


def _rate(name: str, value: float) -> float:
    return 1.0 if value == 1.0 else checked_between(name, value, 0.0, 1.0)
