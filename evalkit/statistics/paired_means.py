"""Paired tests of a mean difference against a margin.

In: one difference (candidate minus baseline) for each independent unit, such as a question. Out: t statistics,
one-sided p-values, intervals, power.
May not know: what is scored, or which margin is wanted.

Estimand: the mean difference over the population of units. Assumption: units are independent; several scores of one
unit are averaged before they come here. Plain t is exact for normal differences and slightly liberal when the whole
loss sits in rare large drops; `johnson_t` repairs most of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, stdtr, stdtrit

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    ROUNDING,
    Floats,
    checked_between,
    checked_count,
    checked_number,
    checked_positive,
    checked_vector,
)
from evalkit.statistics.interval import Interval

_CHUNK = 2_000_000


@dataclass(frozen=True, kw_only=True)
class PairedT:
    """Paired t test of a mean difference against -margin; all values in the unit of the differences.

    Attributes:
        n: units.
        mean: mean difference, candidate minus baseline.
        sd: standard deviation of the differences, divisor n - 1.
        se: sd / sqrt(n).
        margin: the tested mean difference is -margin.
        t: (mean + margin) / se.
        df: n - 1.
        p_certify: p-value of "mean difference <= -margin".
        p_reject: p-value of "mean difference >= -margin".
    """

    n: int
    mean: float
    sd: float
    se: float
    margin: float
    t: float
    df: int
    p_certify: float
    p_reject: float

    def interval(self, level: float) -> Interval:
        """Return the two-sided t interval of the mean difference.

        Raises:
            EstimateError: `level` is not inside (0, 1).
        """
        level = checked_between("level", level, 0.0, 1.0)
        half = float(stdtrit(self.df, (1.0 + level) / 2.0)) * self.se
        return Interval(lower=self.mean - half, upper=self.mean + half, level=level, method="paired-t")


def paired_t(differences: ArrayLike, margin: float = 0.0) -> PairedT:
    """Test the mean of `differences`, shape (n,), against -margin in both directions (Student 1908).

    >>> result = paired_t([0.0, -0.5, 0.5, 1.0, -1.0, 0.5], margin=0.3)
    >>> round(result.mean, 4), round(result.t, 4), result.df, round(result.p_certify, 4)
    (0.0833, 1.2758, 5, 0.129)

    Raises:
        EstimateError: fewer than two values, a non-finite value, or no variation among them.
    """
    values = _varying("differences", differences)
    margin = checked_number("margin", margin)
    n, mean, sd = values.size, float(values.mean()), float(values.std(ddof=1))
    t = float(t_statistics(values, margin))
    return PairedT(
        n=n,
        mean=mean,
        sd=sd,
        se=sd / math.sqrt(n),
        margin=margin,
        t=t,
        df=n - 1,
        p_certify=float(stdtr(n - 1, -t)),
        p_reject=float(stdtr(n - 1, t)),
    )


def t_statistics(differences: Floats, margin: float) -> Floats:
    """Return (mean + margin)/(sd/sqrt(n)) over the last axis of an unchecked array of shape (..., n)."""
    n = differences.shape[-1]
    scores: Floats = (differences.mean(axis=-1) + margin) / (differences.std(axis=-1, ddof=1) / math.sqrt(n))
    return scores


@dataclass(frozen=True, kw_only=True)
class JohnsonT:
    """Skewness-corrected t statistic of the mean difference against -margin.

    Attributes:
        t: corrected statistic, to be compared with Student's t on `df` degrees of freedom.
        df: n - 1.
        p_certify: p-value of "mean difference <= -margin".
    """

    t: float
    df: int
    p_certify: float


def johnson_t(differences: ArrayLike, margin: float) -> JohnsonT:
    """Test the mean of `differences`, shape (n,), against -margin with Johnson's correction for skewness.

    t = [E + k3/(6 s^2 n) + k3 E^2/(3 s^4)] / (s/sqrt(n)), with E = mean + margin and k3 the third central moment
    (Johnson 1978, Journal of the American Statistical Association 73:536). A long tail of losses makes k3 negative and
    lowers t, so it asks for more evidence just where plain t asks for too little.

    >>> rare_drops = [0.5] * 18 + [-4.0, -3.0]
    >>> round(paired_t(rare_drops, margin=0.5).t, 3), round(johnson_t(rare_drops, margin=0.5).t, 3)
    (2.161, 1.179)

    Raises:
        EstimateError: fewer than two values, a non-finite value, or no variation among them.
    """
    values = _varying("differences", differences)
    t = float(johnson_statistics(values, checked_number("margin", margin)))
    return JohnsonT(t=t, df=values.size - 1, p_certify=float(stdtr(values.size - 1, -t)))


def johnson_statistics(differences: Floats, margin: float) -> Floats:
    """Return the corrected statistic over the last axis of an unchecked array of shape (..., n)."""
    n = differences.shape[-1]
    mean = differences.mean(axis=-1)
    excess = mean + margin
    third = ((differences - mean[..., np.newaxis]) ** 3).mean(axis=-1)
    variance = differences.var(axis=-1, ddof=1)
    corrected = excess + third / (6.0 * variance * n) + third * excess**2 / (3.0 * variance**2)
    scores: Floats = corrected / np.sqrt(variance / n)
    return scores


def sign_flip_p(shifted: ArrayLike, rng: np.random.Generator, resamples: int = 9_999) -> float:
    """Return the one-sided sign-flip p-value of "mean <= 0" for `shifted` = differences + margin, shape (n,).

    Assumption: under the null the shifted differences are symmetric about zero. When all 2^n sign patterns are no more
    than `resamples` the p-value is exact; else it is (1 + hits)/(1 + resamples), which keeps the level at any number
    of resamples (Phipson and Smyth 2010).

    >>> sign_flip_p([1.0, 2.0, 3.0], np.random.default_rng(0))
    0.125

    Raises:
        EstimateError: fewer than two values, a non-finite value, all values zero, or fewer than 99 resamples.
    """
    values = checked_vector("shifted differences", shifted)
    resamples = checked_count("resamples", resamples, minimum=99)
    if not values.any():
        raise EstimateError("shifted differences are all zero; a sign-flip test needs at least one that is not")
    # Sums that are equal on paper may differ in the last bits; a tie counts as a hit.
    observed = values.sum() - ROUNDING * float(np.abs(values).sum())
    if 2**values.size <= resamples:
        patterns = np.arange(2**values.size)[:, np.newaxis] >> np.arange(values.size) & 1
        return float(np.mean((1 - 2 * patterns) @ values >= observed))
    hits, rows = 0, max(1, _CHUNK // values.size)
    for start in range(0, resamples, rows):
        signs = rng.integers(0, 2, size=(min(rows, resamples - start), values.size), dtype=np.int8)
        hits += int(np.count_nonzero((1 - 2 * signs) @ values >= observed))
    return (1 + hits) / (1 + resamples)


@dataclass(frozen=True, kw_only=True)
class PairedTost:
    """Two one-sided paired t tests: is the mean difference inside (-margin, margin)?

    Attributes:
        mean_difference: candidate minus baseline.
        se: its standard error.
        df: n - 1.
        p: the larger of the two one-sided p-values.
        interval: two-sided interval of level 1 - 2 alpha; inside (-margin, margin) exactly when p < alpha.
    """

    mean_difference: float
    se: float
    df: int
    p: float
    interval: Interval


def tost_paired(differences: ArrayLike, margin: float, alpha: float = 0.05) -> PairedTost:
    """Test equivalence of two means on the same units (Schuirmann 1987); `alpha` is one-sided.

    >>> result = tost_paired([0.1, -0.2, 0.3, 0.0, 0.1, -0.1], margin=0.5)
    >>> round(result.p, 5), round(result.interval.lower, 4), round(result.interval.upper, 4)
    (0.00063, -0.1107, 0.1774)

    Raises:
        EstimateError: as `paired_t`; also a `margin` not above zero or an `alpha` not inside (0, 0.5).
    """
    margin = checked_positive("margin", margin)
    alpha = checked_between("alpha", alpha, 0.0, 0.5)
    below, above = paired_t(differences, margin), paired_t(differences, -margin)
    return PairedTost(
        mean_difference=below.mean,
        se=below.se,
        df=below.df,
        p=max(below.p_certify, above.p_reject),
        interval=below.interval(1.0 - 2.0 * alpha),
    )


def noncentral_power_t(n: int, sd: float, margin: float, alpha: float = 0.05, *, true_difference: float = 0.0) -> float:
    """Return the probability that `paired_t` certifies: P(T' > t_{1-alpha}), T' noncentral t on n - 1 df.

    The noncentrality is (true_difference + margin) sqrt(n)/sd; `alpha` is one-sided; `sd` is of one unit's difference.

    >>> round(noncentral_power_t(80, 1.2, 0.3, 0.05), 2)
    0.72

    Raises:
        EstimateError: fewer than two units, `sd` or `margin` not above zero, `alpha` not inside (0, 1).
    """
    n, sd = checked_count("n", n, minimum=2), checked_positive("sd", sd)
    margin, alpha = checked_positive("margin", margin), checked_between("alpha", alpha, 0.0, 1.0)
    shift = (checked_number("true difference", true_difference) + margin) * math.sqrt(n) / sd
    critical = float(stdtrit(n - 1, 1.0 - alpha))
    power = checked_number("power (noncentral t)", 1.0 - nctdtr(n - 1, shift, critical))
    return min(1.0, max(0.0, power))


def _varying(name: str, values: ArrayLike) -> Floats:
    array = checked_vector(name, values)
    if float(np.ptp(array)) <= ROUNDING * max(1.0, float(np.abs(array).max())):
        raise EstimateError(
            f"{name}: all {array.size} values are {array[0]!r}; no test can rest on a standard error of zero"
        )
    return array
