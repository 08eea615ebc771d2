"""The fourfold table of two paired right/wrong outcomes.

In: four counts, or two aligned outcome arrays. Out: `PairedTable`.
May not know: what the items are, or where the outcomes came from.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_count, checked_outcomes, checked_same_length


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
