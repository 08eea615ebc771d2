"""Two accuracies on the same items: everything that is estimated from one fourfold table.

In: a `PairedTable`. Out: intervals of the difference of accuracies; this module also gathers the public names of
`paired_table`, `tango`, `mcnemar`, `proportions` and `recovery`, so that a reader has one place to look.
Must not depend on: what the items are, which margin matters, or what is decided.

Tango's score method (module `tango`) is the one to decide from. Newcombe's is an independent check beside it. The Wald
intervals here are for contrast only: they reject too often, and have no width without discordant pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, Interval, checked_between, checked_positive, two_sided_z
from evalkit.statistics.clustered_tango import ClusteredPairs
from evalkit.statistics.proportions import (
    DiscordantRatio,
    McNemar,
    clopper_pearson_interval,
    discordant_ratio,
    mcnemar,
    wilson_interval,
)
from evalkit.statistics.tango import (
    NonInferiority,
    PairedTable,
    refuse_single_item,
    tango_interval,
    tango_limits,
    tango_noninferiority,
    tango_scores,
    tango_z,
    tost_p,
)

# The share of the baseline's accuracy that the candidate keeps: Tang's score test and interval.
#
# Estimand: p_c / p_b, candidate over baseline. Assumption: items are exchangeable (or clusters are); nothing is assumed
# about how the two sides agree. Source: Tang, Tang and Chan 2003, Statistics in Medicine 22:1217, the score statistic
# with the maximum-likelihood estimate of P(only the baseline right) restricted to p_c = r p_b, in closed form.


_HALVINGS = 60
_LARGEST = 1e6
"""Ratio above which an upper limit is no finding."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Candidate accuracy over baseline accuracy; 1 means equal.

    Attributes:
        ratio: p_c / p_b.
        interval: score limits of the ratio.
    """

    ratio: float
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class RecoveryTest:
    """One-sided tests of one ratio.

    Attributes:
        least: the tested ratio.
        z: the score statistic.
        p_certify: p-value of "the ratio is at most `least`"; small means more is kept.
        p_reject: p-value of "the ratio is at least `least`"; small means less is kept.
    """

    least: float
    z: float
    p_certify: float
    p_reject: float


def recovery_scores(n11: ArrayLike, n10: ArrayLike, n01: ArrayLike, n: ArrayLike, ratio: ArrayLike) -> Floats:
    """Return z(ratio) for broadcastable arrays of counts; it falls as `ratio` rises. Counts are not checked.

    >>> recovery_scores(446, 16, 5, 1157, [0.9581, 0.9923]).round(2).tolist()
    [1.64, -1.68]
    """
    both, loss, gain = (np.asarray(value, dtype=np.float64) for value in (n11, n10, n01))
    items, r = np.asarray(n, dtype=np.float64), np.asarray(ratio, dtype=np.float64)
    some = both + loss + gain
    a = items * (1.0 + r)
    b = (both + loss) * r**2 - (both + gain + 2.0 * loss)
    c = loss * (1.0 - r) * some / items
    root = np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(b <= 0.0, (root - b) / (2.0 * a), -2.0 * c / (b + root))
        q = np.maximum(np.where(np.isnan(q), 0.0, q), 0.0)
        numerator = both + gain - r * (both + loss)
        variance = np.maximum(items * (1.0 + r) * q + some * (r - 1.0), 0.0)
        z = numerator / np.sqrt(variance)
    return np.where(np.abs(numerator) <= 1e-12 * np.maximum(1.0, both), 0.0, z)


def recovery_test(pairs: PairedTable | ClusteredPairs, least: float) -> RecoveryTest:
    """Test the ratio of accuracies against `least`, in both directions.

    >>> result = recovery_test(PairedTable(n11=11845, n10=231, n01=190, n00=1776), 0.99)
    >>> round(result.z, 2), result.p_certify < 0.001
    (3.81, True)

    Raises:
        EstimateError: fewer than two items, `least` not above zero, or nothing right on either side.
    """
    least = checked_positive("ratio", least)
    table = _checked(pairs)
    z = _z(pairs, table, least)
    return RecoveryTest(least=least, z=z, p_certify=float(ndtr(-z)), p_reject=float(ndtr(z)))


def recovery_ratio(pairs: PairedTable | ClusteredPairs, level: float = 0.95) -> Recovery:
    """Return p_c / p_b with the ratios that Tang's test does not refute.

    It has a proper width even without a single discordant pair.

    >>> result = recovery_ratio(PairedTable(n11=446, n10=16, n01=5, n00=690), 0.90)
    >>> round(result.ratio, 4), round(result.interval.lower, 3), round(result.interval.upper, 3)
    (0.9762, 0.958, 0.992)

    Raises:
        EstimateError: fewer than two items; the baseline has nothing right; no finite upper limit.
    """
    level = checked_between("level", level, 0.0, 1.0)
    table, z = _checked(pairs), two_sided_z(level)
    ratio = table.candidate_accuracy / table.baseline_accuracy
    high = max(2.0 * ratio, 2.0)
    while _z(pairs, table, high) > -z:
        high *= 2.0
        if high > _LARGEST:
            raise EstimateError(
                f"recovery: baseline accuracy {table.baseline_accuracy:g} on {table.n} items cannot be told apart from "
                "0, so the ratio has no finite interval; more items are needed"
            )
    lower = 0.0 if ratio == 0.0 else _crossing(pairs, table, z, 0.0, ratio)
    interval = Interval(lower=lower, upper=_crossing(pairs, table, -z, ratio, high), level=level, method="tang")
    return Recovery(ratio=ratio, interval=interval)


def fewest_right(least: float, alpha: float) -> int:
    """Return the fewest right answers of the baseline with which a copy without a flip passes at `least`.

    Without a flip z^2 = n11 (1 - r)/r.

    >>> fewest_right(0.99, 0.025)
    381

    Raises:
        EstimateError: `least` is not inside (0, 1), or `alpha` not inside (0, 0.5).
    """
    least, alpha = checked_between("ratio", least, 0.0, 1.0), checked_between("alpha", alpha, 0.0, 0.5)
    return math.floor(two_sided_z(1.0 - 2.0 * alpha) ** 2 * least / (1.0 - least)) + 1


def _checked(pairs: PairedTable | ClusteredPairs) -> PairedTable:
    table = pairs if isinstance(pairs, PairedTable) else pairs.table
    refuse_single_item(table, "recovery")
    if table.n11 + table.n10 == 0:
        raise EstimateError(f"recovery: the baseline has none of {table.n} items right, so there is no ratio")
    return table


def _z(pairs: PairedTable | ClusteredPairs, table: PairedTable, ratio: float) -> float:
    z = float(recovery_scores(table.n11, table.n10, table.n01, table.n, ratio))
    return z if isinstance(pairs, PairedTable) else z / math.sqrt(pairs.ratio_design_effect(ratio))


def _crossing(pairs: PairedTable | ClusteredPairs, table: PairedTable, target: float, low: float, high: float) -> float:
    """Return the ratio in [low, high] where z falls through `target`, by bisection."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _z(pairs, table, middle) > target else (low, middle)
    return 0.5 * (low + high)


__all__ = [
    "DiscordantRatio",
    "Interval",
    "McNemar",
    "NonInferiority",
    "PairedTable",
    "Recovery",
    "clopper_pearson_interval",
    "discordant_ratio",
    "mcnemar",
    "newcombe_interval",
    "recovery_ratio",
    "tango_interval",
    "tango_limits",
    "tango_noninferiority",
    "tango_scores",
    "tango_z",
    "tost_p",
    "unpaired_interval",
    "wald_interval",
    "wilson_interval",
]


def newcombe_interval(table: PairedTable, level: float = 0.95, method: Literal[8, 10] = 10) -> Interval:
    """Return Newcombe's square-and-add interval for the difference of accuracies, candidate minus baseline.

    The two Wilson intervals are combined with the correlation phi of the table, corrected for continuity in method 10
    (Newcombe 1998, Statistics in Medicine 17:2635).

    >>> interval = newcombe_interval(PairedTable(n11=20, n10=2, n01=12, n00=16), 0.95, method=10)
    >>> round(interval.lower, 4), round(interval.upper, 4)
    (0.0562, 0.3292)

    Raises:
        EstimateError: fewer than two items, a bad `level`, or a method other than 8 and 10.
    """
    refuse_single_item(table, "Newcombe")
    if method not in (8, 10):
        raise EstimateError(f"Newcombe method is {method!r}; allowed: 8 or 10")
    p_b, p_c, n = table.baseline_accuracy, table.candidate_accuracy, table.n
    baseline = wilson_interval(table.n11 + table.n10, n, level)
    candidate = wilson_interval(table.n11 + table.n01, n, level)
    phi = _phi(table, corrected=method == 10)
    down = _square_and_add(p_c - candidate.lower, baseline.upper - p_b, phi)
    up = _square_and_add(candidate.upper - p_c, p_b - baseline.lower, phi)
    difference = table.difference
    return Interval(lower=difference - down, upper=difference + up, level=level, method=f"newcombe-{method}")


def _square_and_add(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(first**2 - 2.0 * phi * first * second + second**2, 0.0))


def _phi(table: PairedTable, *, corrected: bool) -> float:
    margins = (table.n11 + table.n10) * (table.n01 + table.n00) * (table.n11 + table.n01) * (table.n10 + table.n00)
    if margins == 0:
        return 0.0
    numerator = float(table.n11 * table.n00 - table.n10 * table.n01)
    if corrected and numerator > 0.0:
        numerator = max(numerator - table.n / 2.0, 0.0)
    return numerator / math.sqrt(margins)


def wald_interval(table: PairedTable, level: float = 0.95) -> Interval:
    """Return D -/+ z sqrt(n10 + n01 - (n01 - n10)^2/n) / n. Unfit to decide anything: too narrow on rare flips.

    >>> interval = wald_interval(PairedTable(n11=794, n10=150, n01=86, n00=570))
    >>> round(interval.lower, 4), round(interval.upper, 4)
    (-0.0587, -0.0213)

    Raises:
        EstimateError: fewer than two items, a bad `level`, or no variation (the interval would have no width).
    """
    refuse_single_item(table, "Wald")
    variance = table.discordant - (table.n01 - table.n10) ** 2 / table.n
    half = two_sided_z(level) * math.sqrt(max(variance, 0.0)) / table.n
    return _symmetric(table.difference, half, level, "wald")


def unpaired_interval(table: PairedTable, level: float = 0.95) -> Interval:
    """Return the Wald interval that ignores pairing, to show what pairing is worth; never to decide from.

    >>> interval = unpaired_interval(PairedTable(n11=11845, n10=231, n01=190, n00=1776))
    >>> round(100 * interval.lower, 3)
    -1.107

    Raises:
        EstimateError: fewer than two items, a bad `level`, or no variation on either side.
    """
    refuse_single_item(table, "unpaired")
    p_b, p_c = table.baseline_accuracy, table.candidate_accuracy
    half = two_sided_z(level) * math.sqrt((p_b * (1.0 - p_b) + p_c * (1.0 - p_c)) / table.n)
    return _symmetric(p_c - p_b, half, level, "unpaired")


def _symmetric(centre: float, half: float, level: float, method: str) -> Interval:
    if half <= 0.0:
        raise EstimateError(f"{method}: the outcomes do not vary, so the interval would have width zero; use Tango")
    return Interval(lower=centre - half, upper=centre + half, level=level, method=method)
