"""Two accuracies on the same items: everything that is estimated from one fourfold table.

In: a `PairedTable`. Out: intervals of the difference of accuracies; this module also gathers the public names of
`paired_table`, `tango`, `mcnemar`, `proportions` and `recovery`, so that a reader has one place to look.
May not know: what the items are, which margin matters, or what is decided.

Tango's score method (module `tango`) is the one to decide from. Newcombe's is an independent check beside it. The Wald
intervals here are for contrast only: they reject too often, and have no width without discordant pairs.
"""

from __future__ import annotations

import math
from typing import Literal

from evalkit.errors import EstimateError
from evalkit.statistics.interval import Interval, two_sided_z
from evalkit.statistics.mcnemar import DiscordantRatio, McNemar, discordant_ratio, mcnemar
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.proportions import clopper_pearson_interval, wilson_interval
from evalkit.statistics.recovery import Recovery, recovery_ratio
from evalkit.statistics.tango import (
    NonInferiority,
    refuse_single_item,
    tango_interval,
    tango_limits,
    tango_noninferiority,
    tango_scores,
    tango_z,
    tost_p,
)

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
