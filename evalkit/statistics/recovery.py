"""The share of the baseline's accuracy that the candidate keeps.

In: a `PairedTable`. Out: the ratio of accuracies with the set of ratios the data do not contradict.
May not know: any margin; a ratio decides nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalkit.errors import EstimateError
from evalkit.statistics.interval import Interval, two_sided_z
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.tango import refuse_single_item


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """Candidate accuracy over baseline accuracy; 1 means equal.

    Attributes:
        ratio: p_c / p_b.
        interval: Fieller-type limits of the ratio.
    """

    ratio: float
    interval: Interval


def recovery_ratio(table: PairedTable, level: float = 0.95) -> Recovery:
    """Return p_c / p_b with all r for which |p_c - r p_b| <= z sqrt(v(r)/n).

    v(r) = p_c(1-p_c) - 2r(n11/n - p_c p_b) + r^2 p_b(1-p_b) is the variance of (candidate - r baseline) on one item,
    so pairing is used (Fieller 1954). The set is found from the quadratic inequality a r^2 - 2 b r + c <= 0.

    >>> result = recovery_ratio(PairedTable(n11=11845, n10=231, n01=190, n00=1776))
    >>> round(result.ratio, 5), round(result.interval.lower, 5), round(result.interval.upper, 5)
    (0.9966, 0.99329, 0.99993)

    Raises:
        EstimateError: fewer than two items; a baseline accuracy not told apart from 0 (the set is unbounded); no
            variation, as when no pair is discordant (the set would have width zero).
    """
    refuse_single_item(table, "recovery")
    n, p_b, p_c = table.n, table.baseline_accuracy, table.candidate_accuracy
    k = two_sided_z(level) ** 2 / n
    a = p_b**2 - k * p_b * (1.0 - p_b)
    if a <= 0.0:
        raise EstimateError(
            f"recovery: baseline accuracy {p_b:g} on {n} items cannot be told apart from 0, so the ratio has no finite "
            "interval; more items are needed"
        )
    if table.discordant == 0 or table.candidate_accuracy == 0.0:
        raise EstimateError(
            f"recovery: the ratio does not vary (losses {table.n10}, gains {table.n01}, candidate right on "
            f"{table.n11 + table.n01} of {n}), so its interval would have width zero; read the Tango interval of the "
            "difference instead"
        )
    b = p_c * p_b - k * (table.n11 / n - p_c * p_b)
    c = p_c**2 - k * p_c * (1.0 - p_c)
    lower, upper = _roots(a, b, c)
    interval = Interval(lower=max(0.0, lower), upper=upper, level=level, method="fieller")
    return Recovery(ratio=p_c / p_b, interval=interval)


def _roots(a: float, b: float, c: float) -> tuple[float, float]:
    """Return the roots of a r^2 - 2 b r + c for a > 0, without subtracting nearly equal numbers.

    The estimate itself satisfies the inequality, so the discriminant is never truly negative.
    """
    reach = math.sqrt(max(b * b - a * c, 0.0))
    if b >= 0.0:
        upper = (b + reach) / a
        return (c / (b + reach) if b + reach > 0.0 else 0.0), upper
    lower = (b - reach) / a
    return lower, c / (b - reach)
