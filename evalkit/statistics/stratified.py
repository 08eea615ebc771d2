"""A weighted mean of several tasks' mean differences, tested against a margin.

In: one value for each independent unit of every task (stratum), and the weights. Out: t statistics, intervals.
Must not depend on: what is scored, or which margin is wanted.

Estimand: D = sum_k w_k mu_k for fixed weights that sum to one, mu_k the mean of task k over all units like its own.
Assumption: units are independent, within and between tasks; nothing is pooled, so tasks may spread differently.

    D = sum_k w_k mean_k,   V = sum_k w_k^2 s_k^2 / n_k,   t = (D + margin) / sqrt(V)

(Cochran 1977, Sampling Techniques, section 5.4). It is compared with Student's t on n_min - 1 degrees of freedom, n_min
the units of the smallest task: Satterthwaite's number is never below it, and this one depends on no outcome, so a
missing answer cannot move it. Three things keep small tasks from being taken for exact:

* `corrected_t`, with the skewness of D, sum_k w_k^3 m3_k / n_k^2 / V^1.5: the covariance of the mean and of its
  estimated variance is that sum, as it is for one sample, so the expansion is the same;
* s_k^2 is raised by step_k^2 / n_k, step_k the change of one unit when one mark changes, as if one more unit had
  changed than was seen: a task without any flip may still lose an answer, as Tango's interval of it has a width;
* the number of units: a loss of the margin that sits in one task alone is a loss of margin / w_k there, and must not
  stay unseen on its n_k units (`fewest_of_part`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, Interval, checked_between, checked_vector
from evalkit.statistics.paired_means import corrected_t, fewest_units


@dataclass(frozen=True, kw_only=True)
class Stratum:
    """One task of a weighted mean.

    Attributes:
        values: one for each unit, shape (..., n).
        weight: of the task's mean.
        step: change of one unit's value when one mark changes; 0 where marks are continuous.
    """

    values: Floats
    weight: float
    step: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StratifiedMean:
    """Moments of a weighted mean, each of shape (...).

    Attributes:
        mean: D.
        variance: V.
        skewness: of D, estimated; 0 where V is 0.
        df: n_min - 1.
    """

    mean: Floats
    variance: Floats
    skewness: Floats
    df: int

    def statistics(self, margin: float) -> tuple[Floats, Floats]:
        """Return t against -margin, and t corrected for a tail of losses."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t: Floats = np.asarray((self.mean + margin) / np.sqrt(self.variance))
        return t, corrected_t(t, self.skewness, 1)

    def rejecting(self, margin: float) -> Floats:
        """Return the statistic that decides on FAIL: t against -margin, corrected for a tail of gains."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t: Floats = np.asarray((self.mean + margin) / np.sqrt(self.variance))
        mirrored: Floats = -corrected_t(-t, -self.skewness, 1)
        return mirrored

    def interval(self, level: float) -> Interval:
        """Return the two-sided interval of D; for one data set."""
        half = float(stdtrit(self.df, (1.0 + checked_between("level", level, 0.0, 1.0)) / 2.0))
        half *= math.sqrt(float(self.variance))
        return Interval(
            lower=float(self.mean) - half, upper=float(self.mean) + half, level=level, method="stratified-t"
        )


def stratum_variance(values: Floats, step: float) -> Floats:
    """Return the variance of one task's mean, (s^2 + step^2/n)/n; (..., n) to (...)."""
    n = values.shape[-1]
    spread: Floats = (np.asarray(values.var(axis=-1, ddof=1)) + step**2 / n) / n
    return spread


def stratified_mean(strata: Sequence[Stratum]) -> StratifiedMean:
    """Return the moments of a weighted mean of at least two tasks.

    >>> found = stratified_mean([
    ...     Stratum(values=np.array([0.0, -1.0, 1.0, 0.0]), weight=0.5, step=1.0),
    ...     Stratum(values=np.array([0.0, 0.0, 0.0, 0.0, 1.0]), weight=0.5, step=1.0),
    ... ])
    >>> round(float(found.mean), 3), round(float(found.variance), 5), found.df
    (0.1, 0.07729, 3)

    Raises:
        EstimateError: fewer than two tasks, or fewer than two units of one.
    """
    if len(strata) < 2 or min(one.values.shape[-1] for one in strata) < 2:
        raise EstimateError("a weighted mean needs at least two tasks of at least two units each")
    total, variance, third = (np.zeros(strata[0].values.shape[:-1]) for _ in range(3))
    for one in strata:
        mean = one.values.mean(axis=-1)
        centred = one.values - mean[..., np.newaxis]
        total = total + one.weight * mean
        variance = variance + one.weight**2 * stratum_variance(one.values, one.step)
        third = third + one.weight**3 * (centred**3).mean(axis=-1) / one.values.shape[-1] ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        skewness = np.nan_to_num(np.asarray(third) / np.asarray(variance) ** 1.5)
    return StratifiedMean(
        mean=np.asarray(total),
        variance=np.asarray(variance),
        skewness=np.asarray(skewness),
        df=min(one.values.shape[-1] for one in strata) - 1,
    )


def stratified_ratio(
    numerator: Sequence[Stratum], denominator: Sequence[Stratum], level: float
) -> tuple[float, Interval]:
    """Return the ratio of two weighted means of the same units with Fieller's interval (1954).

    The limits are the ratios r at which the contrast (numerator - r denominator) is as far from zero as t allows.

    Raises:
        EstimateError: the denominator is not surely above zero, so the ratio has no bounded interval.
    """
    top, bottom = stratified_mean(numerator), stratified_mean(denominator)
    sums = [Stratum(values=a.values + b.values, weight=a.weight) for a, b in zip(numerator, denominator, strict=True)]
    covariance = (float(stratified_mean(sums).variance) - float(top.variance) - float(bottom.variance)) / 2.0
    critical = float(stdtrit(top.df, (1.0 + checked_between("level", level, 0.0, 1.0)) / 2.0)) ** 2
    x, y = float(top.mean), float(bottom.mean)
    a = y * y - critical * float(bottom.variance)
    if y <= 0.0 or a <= 0.0:
        raise EstimateError("the baseline's weighted mean is not surely above zero, so no share of it can be bounded")
    b, c = x * y - critical * covariance, x * x - critical * float(top.variance)
    root = math.sqrt(max(b * b - a * c, 0.0))
    return x / y, Interval(lower=(b - root) / a, upper=(b + root) / a, level=level, method="stratified-fieller")


def fewest_of_part(weight: float, margin: float, alpha: float) -> int:
    """Return the fewest units of one task on which the whole margin, lost in this task alone, cannot stay unseen.

    Marks lie between 0 and 1, so a loss of `margin` in the weighted mean is a share of at least margin/weight of this
    task's units that lost everything; n units show none of them with probability (1 - margin/weight)^n.

    >>> [fewest_of_part(weight, 0.01, 0.025) for weight in (1 / 6, 0.08, 0.01)]
    [60, 28, 0]
    """
    return fewest_units(margin / weight, 1.0, alpha) if margin < weight else 0


def copy_statistic(sizes: Sequence[int], weights: Sequence[float], steps: Sequence[float], margin: float) -> float:
    """Return the statistic of a perfect copy: the margin over the error that unseen changes leave."""
    least = checked_vector("steps", steps)
    error = math.sqrt(sum((w * step / n) ** 2 for w, n, step in zip(weights, sizes, least.tolist(), strict=True)))
    return margin / error if error > 0.0 else math.inf
