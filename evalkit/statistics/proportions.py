"""Intervals for one binomial proportion.

In: successes and trials. Out: an `Interval` for the probability of success.
Must not depend on: what a success is.

Estimand: the success probability. Assumption: independent trials with one common probability.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import bdtr, betaincinv, chdtrc

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Interval, checked_between, checked_count, two_sided_z


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


# Tests on the discordant pairs alone.
#
# Estimand: the share of gains among the discordant pairs; 1/2 when both sides are equally often right alone.
# Direction: the p-values are two-sided and do not change when the sides are exchanged; the ratio is gains over losses.


@dataclass(frozen=True, kw_only=True)
class McNemar:
    """Two-sided McNemar tests (Fagerland, Lydersen and Laake 2013, BMC Medical Research Methodology 13:91).

    Attributes:
        exact_p: binomial test.
        midp_p: mid-p version of the binomial test, the one to read.
        chi2: (n10 - n01)^2 / (n10 + n01), asymptotic.
        chi2_p: its p-value, on one degree of freedom.
        chi2_cc: the statistic with continuity correction.
        chi2_cc_p: its p-value.
    """

    exact_p: float
    midp_p: float
    chi2: float
    chi2_p: float
    chi2_cc: float
    chi2_cc_p: float


def mcnemar(n10: int, n01: int) -> McNemar:
    """Test whether losses and gains are equally likely.

    Without a discordant pair there is nothing to tell the sides apart: every p-value is 1. The corrected distance
    |n10 - n01| - 1 is not let below zero, so equal counts give p = 1.

    >>> result = mcnemar(n10=1, n01=7)
    >>> result.exact_p, result.midp_p, result.chi2, result.chi2_cc
    (0.0703125, 0.0390625, 4.5, 3.125)

    Raises:
        EstimateError: a count is negative or not an integer.
    """
    n10, n01 = checked_count("n10", n10), checked_count("n01", n01)
    total, gap = n10 + n01, abs(n10 - n01)
    if total == 0:
        return McNemar(exact_p=1.0, midp_p=1.0, chi2=0.0, chi2_p=1.0, chi2_cc=0.0, chi2_cc_p=1.0)
    chi2, chi2_cc = gap**2 / total, max(gap - 1, 0) ** 2 / total
    exact, midp = _binomial_p(min(n10, n01), total)
    return McNemar(
        exact_p=exact,
        midp_p=midp,
        chi2=chi2,
        chi2_p=float(chdtrc(1, chi2)),
        chi2_cc=chi2_cc,
        chi2_cc_p=float(chdtrc(1, chi2_cc)),
    )


def _binomial_p(smaller: int, total: int) -> tuple[float, float]:
    """Return the exact and the mid-p two-sided p-value of `smaller` out of `total` fair coin tosses."""
    at_most = float(bdtr(smaller, total, 0.5))
    fewer = float(bdtr(smaller - 1, total, 0.5)) if smaller > 0 else 0.0
    if 2 * smaller == total:
        return 1.0, 1.0 - (at_most - fewer) / 2.0
    return min(1.0, 2.0 * at_most), at_most + fewer


@dataclass(frozen=True, kw_only=True)
class DiscordantRatio:
    """Gains for each loss, with an exact interval.

    Attributes:
        ratio: n01 / n10; 1 means as many gains as losses.
        interval: exact limits of the ratio.
    """

    ratio: float
    interval: Interval


def discordant_ratio(n10: int, n01: int, level: float = 0.95) -> DiscordantRatio:
    """Return n01 / n10 with the Clopper-Pearson limits of n01 out of n10 + n01, turned into odds.

    >>> result = discordant_ratio(n10=231, n01=190)
    >>> round(result.ratio, 4), round(result.interval.lower, 3), round(result.interval.upper, 3)
    (0.8225, 0.675, 1.001)

    Raises:
        EstimateError: no loss (the ratio is not finite), fewer than two discordant pairs, or a bad `level`.
    """
    n10, n01 = checked_count("n10", n10), checked_count("n01", n01)
    if n10 == 0:
        raise EstimateError(f"n01/n10 is {n01}/0, which is no finite ratio; at least one loss (n10) is needed")
    share = clopper_pearson_interval(n01, n10 + n01, level)
    lower, upper = share.lower / (1.0 - share.lower), share.upper / (1.0 - share.upper)
    interval = Interval(lower=lower, upper=upper, level=level, method="clopper-pearson odds")
    return DiscordantRatio(ratio=n01 / n10, interval=interval)
