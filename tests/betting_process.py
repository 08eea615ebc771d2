"""The betting process item by item, written as the paper has it: what the vectorised path must agree with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_between, checked_count, checked_number
from evalkit.statistics.sequential import _SLACK, GRID, _checked_grid, _log_mean_exp, relative_gain


class BettingProcess:
    """E-process against "the mean of the list is at most `null_mean`", fed one value at a time.

    With S the sum so far and t the number of the coming value, m = (null_mean*N - S)/(N - t + 1) is the mean of what is
    left if the null mean holds exactly, and every stake g multiplies its wealth by 1 + g (d - m)/(1 + m). The e-value
    is the mean wealth over the grid; its expectation under the null is at most 1 at every stopping time.

    Edges: at m = -1 the bet is 0; below it no remainder fits the null and e is infinite; above m = 1 every remainder
    fits it and e is 0. While m stays inside [-1, 1], e is positive and finite.

    >>> process = BettingProcess(population=1000, null_mean=-0.01)
    >>> [round(process.update(d), 4) for d in (0, 0, -1)]
    [1.0032, 1.0064, 0.6854]

    Raises:
        EstimateError: no population, a null mean outside (-1, 1), or a stake outside (0, 1).
    """

    def __init__(self, *, population: int, null_mean: float, grid: Sequence[float] = GRID) -> None:
        self.population = checked_count("population", population, minimum=1)
        self._null_sum = checked_between("null mean", null_mean, -1.0, 1.0) * self.population
        self._grid = _checked_grid(grid)
        self._log_wealth = np.zeros(self._grid.size)
        self._sum = 0.0
        self.seen = 0
        self.log_e = 0.0

    @property
    def e(self) -> float:
        """The current e-value; 1 before the first item, infinite where the null has become impossible."""
        return float(np.exp(self.log_e))

    def update(self, d: float) -> float:
        """Take the next difference and return the e-value.

        Raises:
            EstimateError: `d` is not a number in [-1, 1], or all N items were already seen.
        """
        d = _checked_difference(d)
        if self.seen >= self.population:
            raise EstimateError(f"all {self.population} items were seen; the process has ended")
        left, needed = float(self.population - self.seen), self._null_sum - self._sum
        if left + needed > _SLACK:
            self._log_wealth = self._log_wealth + np.log1p(self._grid * relative_gain(d, left, needed))
        self.log_e = self._log_e(left, needed)
        self._sum += d
        self.seen += 1
        return self.e

    def _log_e(self, left: float, needed: float) -> float:
        if left + needed < -_SLACK:
            return math.inf
        if left - needed < -_SLACK:
            return -math.inf
        return float(_log_mean_exp(self._log_wealth))


@dataclass(frozen=True, kw_only=True)
class MarginEvidence:
    """E-values for both sides of a margin after some items.

    Attributes:
        seen: items so far.
        e_above: evidence against "mean difference <= -margin"; large means the loss is smaller than the margin.
        e_below: evidence against "mean difference >= -margin"; large means the loss is larger than the margin.
    """

    seen: int
    e_above: float
    e_below: float


class MarginProcess:
    """Both betting processes around -margin, fed together.

    >>> process = MarginProcess(population=1000, margin=0.01)
    >>> for d in (0, 0, 0, -1, 0, 1):
    ...     evidence = process.update(d)
    >>> round(evidence.e_above, 9), round(evidence.e_below, 9)
    (0.817055295, 0.798640551)

    Raises:
        EstimateError: no population, a margin outside (0, 1), or a stake outside (0, 1).
    """

    def __init__(self, *, population: int, margin: float, grid: Sequence[float] = GRID) -> None:
        margin = checked_between("margin", margin, 0.0, 1.0)
        self._above = BettingProcess(population=population, null_mean=-margin, grid=grid)
        # The mirror image: -d has a mean of at most +margin exactly when d has a mean of at least -margin.
        self._below = BettingProcess(population=population, null_mean=margin, grid=grid)

    def update(self, low: float, high: float | None = None) -> MarginEvidence:
        """Take the next difference and return the evidence on both sides.

        An item that is not known on one side enters twice: as the lowest value it may have (`low`) in the evidence for
        a small loss, and as the highest (`high`) in the evidence for a large one. A known item needs only `low`.

        Raises:
            EstimateError: a value outside [-1, 1], `high` below `low`, or more than N items.
        """
        low = _checked_difference(low)
        high = low if high is None else _checked_difference(high)
        if low > high:
            raise EstimateError(f"an item enters with low {low!r} and high {high!r}; allowed: low at most high")
        e_above, e_below = self._above.update(low), self._below.update(-high)
        return MarginEvidence(seen=self._above.seen, e_above=e_above, e_below=e_below)


def _checked_difference(d: float) -> float:
    number = checked_number("difference", d)
    if not -1.0 <= number <= 1.0:
        raise EstimateError(f"difference is {d!r}; allowed: -1 to 1")
    return number
