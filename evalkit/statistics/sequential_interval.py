"""An interval that may be read after every item: every mean that the betting process has not refuted.

In: paired differences in [-1, 1] in random order, and the length of the list they come from. Out: an `Interval`.
May not know: when one stopped, or why.

Estimand: the mean difference (candidate minus baseline) over exactly the N items of the list.
Assumption: as for `BettingProcess`. A mean m is refuted from below if the evidence against "the mean is at most m" ever
reached 2/(1 - level), and from above likewise. By Ville's inequality the true mean is ever refuted with probability
1 - level at most, whatever the stopping rule: an interval for a fixed number of items would be too short here.
Source: confidence sequences by betting (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical Society B 86:1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, checked_between, checked_vector
from evalkit.statistics.interval import Interval
from evalkit.statistics.sequential import GRID, log_e_path

_HALVINGS = 30
_EDGE = 1e-9


def betting_interval(
    low: ArrayLike,
    high: ArrayLike | None = None,
    *,
    population: int,
    level: float = 0.95,
    grid: Sequence[float] = GRID,
) -> Interval:
    """Return the interval of means after the differences seen so far, shape (T,).

    Args:
        low: differences, where an unknown one has the lowest value it may have; for the lower limit.
        high: the same with the highest value; None where all are known.
        population: length of the list.
        level: two-sided.
        grid: stakes.

    It closes on the mean itself when the whole list was seen:

    >>> interval = betting_interval([0, 0, -1, 0], population=4)
    >>> round(interval.lower, 6), round(interval.upper, 6)
    (-0.25, -0.25)

    Raises:
        EstimateError: nothing was seen, or as `log_e_path`.
    """
    lows = checked_vector("differences", low, minimum=1)
    highs = lows if high is None else checked_vector("differences", high, minimum=1)
    if lows.shape != highs.shape or (lows > highs).any():
        raise EstimateError("low and high must have one shape, and low must be at most high")
    threshold = math.log(2.0 / (1.0 - checked_between("level", level, 0.0, 1.0)))
    return Interval(
        lower=_lowest_open(lows, population, threshold, grid),
        upper=-_lowest_open(-highs, population, threshold, grid),
        level=level,
        method="betting",
    )


def _lowest_open(d: Floats, population: int, threshold: float, grid: Sequence[float]) -> float:
    """Return the smallest mean m for which "the mean is at most m" was never refuted; evidence falls as m rises."""
    seen, rest = float(d.sum()), population - d.size
    refuted, open_ = max(-1.0 + _EDGE, (seen - rest) / population - _EDGE), (seen + rest) / population
    if not _refutes(d, population, refuted, threshold, grid):
        return max(-1.0, refuted)
    for _ in range(_HALVINGS):
        middle = 0.5 * (refuted + open_)
        if _refutes(d, population, middle, threshold, grid):
            refuted = middle
        else:
            open_ = middle
    return open_


def _refutes(d: Floats, population: int, mean: float, threshold: float, grid: Sequence[float]) -> bool:
    if mean >= 1.0:
        return False
    path = log_e_path(d, population=population, null_mean=mean, grid=grid)
    return bool(np.max(path) >= threshold)
