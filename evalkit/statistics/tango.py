"""Tango's score test and interval for the difference of two paired proportions.

In: counts of discordant pairs and the number of items, as numbers or arrays. Out: z values, p-values, an `Interval`.
Must not depend on: what is decided from them.

Estimand: the difference of two accuracies (candidate minus baseline) in the population the items were drawn from.
Assumption: items are exchangeable; nothing is assumed about how the two sides agree. Only n10, n01 and n matter.
Source: Tango 1998, Statistics in Medicine 17:891; the restricted estimate in the closed form that avoids cancellation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    Floats,
    Interval,
    checked_between,
    checked_count,
    checked_outcomes,
    checked_same_length,
    two_sided_z,
)

# The fourfold table of two paired right/wrong outcomes.


@dataclass(frozen=True, kw_only=True)
class PairedTable:
    """Counts of items by who was right; the sufficient statistic of a paired accuracy comparison.

    Attributes:
        n11: both right.
        n10: only the baseline right (a loss).
        n01: only the candidate right (a gain).
        n00: neither right.

    >>> table = PairedTable(n11=11845, n10=231, n01=190, n00=1776)
    >>> table.n, round(100 * table.difference, 3), round(100 * table.discordance, 2)
    (14042, -0.292, 3.0)

    Raises:
        EstimateError: a count is negative or not an integer, or all four are zero.
    """

    n11: int
    n10: int
    n01: int
    n00: int

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, checked_count(field.name, getattr(self, field.name)))
        if self.n == 0:
            raise EstimateError("the paired table is empty; at least one item answered by both sides is needed")

    @classmethod
    def from_outcomes(cls, baseline: ArrayLike, candidate: ArrayLike) -> PairedTable:
        """Count two aligned arrays of 0/1 or boolean outcomes, each of shape (n,).

        >>> PairedTable.from_outcomes([1, 1, 0, 0, 0], [1, 0, 1, 0, 0])
        PairedTable(n11=1, n10=1, n01=1, n00=2)

        Raises:
            EstimateError: the lengths differ, an array is empty, or a value is neither 0 nor 1.
        """
        left, right = checked_outcomes("baseline", baseline), checked_outcomes("candidate", candidate)
        checked_same_length("baseline", left, "candidate", right)
        n11 = int(np.count_nonzero(left & right))
        n10, n01 = int(left.sum()) - n11, int(right.sum()) - n11
        return cls(n11=n11, n10=n10, n01=n01, n00=left.size - n11 - n10 - n01)

    @property
    def n(self) -> int:
        """Items."""
        return self.n11 + self.n10 + self.n01 + self.n00

    @property
    def discordant(self) -> int:
        """Items on which exactly one side is right."""
        return self.n10 + self.n01

    @property
    def difference(self) -> float:
        """Accuracy of the candidate minus accuracy of the baseline, a proportion in [-1, 1]."""
        return (self.n01 - self.n10) / self.n

    @property
    def discordance(self) -> float:
        """Share of items on which exactly one side is right (flip rate), in [0, 1]."""
        return self.discordant / self.n

    @property
    def baseline_accuracy(self) -> float:
        """Share of items the baseline has right."""
        return (self.n11 + self.n10) / self.n

    @property
    def candidate_accuracy(self) -> float:
        """Share of items the candidate has right."""
        return (self.n11 + self.n01) / self.n

    def swapped(self) -> PairedTable:
        """Return the table with the two sides exchanged; every difference changes its sign."""
        return PairedTable(n11=self.n11, n10=self.n01, n01=self.n10, n00=self.n00)


_EDGE = 1e-12
_HALVINGS = 60


def tango_scores(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, x: ArrayLike) -> Floats:
    """Return z(x) for broadcastable arrays of counts and hypothesised differences in (-1, 1).

    z falls as `x` rises, rises with `n01` and falls with `n10`. It is 0 when n10 = n01 = x = 0, where the formula is
    0/0. Counts are not checked: this is the inner loop of the enumerations.

    >>> tango_scores([231, 0], [190, 0], 14042, -0.010).round(3).tolist()
    [4.689, 11.91]
    """
    loss, gain = np.asarray(n10, dtype=np.float64), np.asarray(n01, dtype=np.float64)
    items, x = np.asarray(n, dtype=np.float64), np.asarray(x, dtype=np.float64)
    q = _restricted_loss_rate(loss, gain, items, x)
    numerator = gain - loss - items * x
    variance = np.maximum(items * (2.0 * q + x * (1.0 - x)), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = numerator / np.sqrt(variance)
    return np.where(numerator == 0.0, 0.0, z)


def _restricted_loss_rate(loss: Floats, gain: Floats, items: Floats, x: Floats) -> Floats:
    """Return the maximum-likelihood P(only the baseline right) given that the true difference is x."""
    a = 2.0 * items
    b = (a - gain + loss) * x - gain - loss
    c = -loss * x * (1.0 - x)
    root = np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        q = np.where(b <= 0.0, (root - b) / (2.0 * a), -2.0 * c / (b + root))
    q = np.where(np.isnan(q), 0.0, q)
    return np.minimum(np.maximum(np.maximum(q, 0.0), -x), (1.0 - x) / 2.0)


def tango_z(table: PairedTable, x: float) -> float:
    """Return the score statistic for the hypothesis that the true difference is `x`, a proportion in (-1, 1).

    >>> round(tango_z(PairedTable(n11=43, n10=1, n01=0, n00=0), -0.1), 6)
    1.708564

    Raises:
        EstimateError: `x` is not inside (-1, 1).
    """
    x = checked_between("hypothesised difference", x, -1.0, 1.0)
    return float(tango_scores(table.n10, table.n01, table.n, x))


def tango_limits(n10: ArrayLike, n01: ArrayLike, n: ArrayLike, level: float) -> tuple[Floats, Floats]:
    """Return lower and upper limits for arrays of tables; the vectorised form of `tango_interval`.

    Each limit is found by bisection to below 1e-15: z is monotone, so the bracket never fails.
    """
    z = two_sided_z(level)
    loss, gain, items = np.broadcast_arrays(
        np.asarray(n10, dtype=np.float64), np.asarray(n01, dtype=np.float64), np.asarray(n, dtype=np.float64)
    )
    difference = (gain - loss) / items
    low = np.stack([np.full(difference.shape, -1.0 + _EDGE), difference])
    high = np.stack([difference, np.full(difference.shape, 1.0 - _EDGE)])
    targets = np.array([z, -z]).reshape(2, *(1 for _ in difference.shape))
    lower, upper = _crossing(loss, gain, items, targets, low, high)
    return np.where(loss == items, -1.0, lower), np.where(gain == items, 1.0, upper)


def _crossing(loss: Floats, gain: Floats, items: Floats, target: Floats, low: Floats, high: Floats) -> Floats:
    """Return the x in [low, high] where z(x) falls through `target`; all of one shape, or broadcastable to it."""
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        above = tango_scores(loss, gain, items, middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return 0.5 * (low + high)


def tango_interval(table: PairedTable, level: float = 0.95) -> Interval:
    """Return Tango's score interval for the difference of accuracies, candidate minus baseline.

    It has a proper width even without a single discordant pair: no observed loss is not proof of no loss.

    >>> interval = tango_interval(PairedTable(n11=11845, n10=231, n01=190, n00=1776), 0.95)
    >>> round(interval.lower, 6), round(interval.upper, 6)
    (-0.005807, -5.6e-05)

    Raises:
        EstimateError: fewer than two items, or `level` is not inside (0, 1).
    """
    refuse_single_item(table, "Tango")
    lower, upper = tango_limits(table.n10, table.n01, table.n, level)
    return Interval(lower=float(lower), upper=float(upper), level=level, method="tango")


@dataclass(frozen=True, kw_only=True)
class NonInferiority:
    """One-sided tests of one margin.

    Attributes:
        margin: positive proportion; the tested difference is -margin.
        z: the score statistic at -margin.
        p_certify: p-value of "difference <= -margin"; small means the loss is smaller than the margin.
        p_reject: p-value of "difference >= -margin"; small means the loss is larger than the margin.
    """

    margin: float
    z: float
    p_certify: float
    p_reject: float


def tango_noninferiority(table: PairedTable, margin: float) -> NonInferiority:
    """Test the difference of accuracies against -margin, in both directions.

    >>> result = tango_noninferiority(PairedTable(n11=11845, n10=231, n01=190, n00=1776), margin=0.005)
    >>> round(result.z, 3), round(result.p_certify, 4)
    (1.416, 0.0783)

    Raises:
        EstimateError: fewer than two items, or `margin` is not inside (0, 1).
    """
    refuse_single_item(table, "Tango")
    margin = checked_between("margin", margin, 0.0, 1.0)
    z = tango_z(table, -margin)
    return NonInferiority(margin=margin, z=z, p_certify=float(ndtr(-z)), p_reject=float(ndtr(z)))


def tost_p(table: PairedTable, margin: float) -> float:
    """Return the p-value of two one-sided score tests: small means the difference lies inside (-margin, margin).

    >>> round(tost_p(PairedTable(n11=11845, n10=231, n01=190, n00=1776), 0.005), 4)
    0.0783

    Raises:
        EstimateError: fewer than two items, or `margin` is not inside (0, 1).
    """
    below = tango_noninferiority(table, margin).p_certify
    above = tango_noninferiority(table.swapped(), margin).p_certify
    return max(below, above)


def refuse_single_item(table: PairedTable, method: str) -> None:
    """Refuse a table of one item.

    Raises:
        EstimateError: the table has fewer than two items.
    """
    if table.n < 2:
        raise EstimateError(f"{method}: there is no interval from {table.n} item; at least 2 items are needed")
