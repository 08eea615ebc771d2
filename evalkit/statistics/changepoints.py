"""Where a series of estimates changes its mean.

In: estimates in the order of time, each with its sampling variance. Out: segments of constant mean.
Must not depend on: what was estimated, or what happened at a change.

Estimand: the places at which the mean of independent estimates changes.
Assumption: each value is roughly normal with the given variance around the mean of its segment. Values may share what
they were measured on as long as their errors are drawn anew each time; a segment's own standard error then still speaks
for that material alone, not for new one.
Method: the cheapest partition of the series, cost = weighted sum of squares about segment means plus a penalty for each
change, found exactly by dynamic programming (Jackson and others 2005, IEEE Signal Processing Letters 12:105). The
penalty is the square of the normal quantile that a single change at any of the n - 1 places exceeds by chance with
probability `alpha` at most (union bound).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtri

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, checked_between, checked_positive, checked_same_length, checked_vector


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Values between two changes.

    Attributes:
        start, stop: place of the first value, and of the first one after it.
        mean: weighted by the inverse variances.
        standard_error: of the mean, under the given variances.
    """

    start: int
    stop: int
    mean: float
    standard_error: float


def segments(values: Sequence[float], variances: Sequence[float], *, alpha: float = 0.01) -> tuple[Segment, ...]:
    """Cut a series where its mean changes; a series without a change is one segment.

    >>> [(s.start, s.stop, round(s.mean, 3)) for s in segments([0.0, 0.1, -0.1, 0.0, 2.0, 2.1], [0.01] * 6)]
    [(0, 4, 0.0), (4, 6, 2.05)]

    Args:
        values: shape (n,), n >= 1.
        variances: shape (n,), each above 0.
        alpha: chance that a series without a change is cut, at most about this.

    Raises:
        EstimateError: no value, another number of variances, or a variance that is not above 0.
    """
    x, variance = checked_vector("values", values, minimum=1), checked_vector("variances", variances, minimum=1)
    checked_same_length("values", x, "variances", variance)
    if (variance <= 0.0).any():
        raise EstimateError(f"variances holds {variance.min()!r}; allowed: numbers above 0")
    alpha = checked_between("alpha", alpha, 0.0, 1.0)
    sums, offset = _sums(x, variance)
    penalty = float(ndtri(alpha / (2.0 * max(1, x.size - 1)))) ** 2
    best, before = np.zeros(x.size + 1), np.zeros(x.size + 1, dtype=np.int64)
    for stop in range(1, x.size + 1):
        w, wx, wxx = (part[stop] - part[:stop] for part in sums)
        cost = best[:stop] + (wxx - wx * wx / w) + np.where(np.arange(stop) > 0, penalty, 0.0)
        before[stop] = int(cost.argmin())
        best[stop] = cost[before[stop]]
    cuts = [x.size]
    while cuts[-1] > 0:
        cuts.append(int(before[cuts[-1]]))
    cuts.reverse()
    return _segments(cuts, sums, offset)


def snapped(
    values: Sequence[float],
    variances: Sequence[float],
    found: Sequence[Segment],
    preferred: Collection[int],
    *,
    within: int = 2,
    odds: float = 20.0,
) -> tuple[Segment, ...]:
    """Move each change to a preferred place nearby that explains the series about as well.

    Where a change is, is less certain than that there is one. A place at which something is known to have happened is
    the better guess, unless the series speaks against it: the likelihood there may be smaller by the factor `odds`.

    >>> values, variances = [0.0, 0.1, 0.0, 0.1, 1.1, 1.9, 2.1, 2.0], [0.3] * 8
    >>> parts = segments(values, variances, alpha=0.05)
    >>> [part.start for part in parts], [part.start for part in snapped(values, variances, parts, [5])]
    ([0, 4], [0, 5])

    Args:
        values: the series.
        variances: as for `segments`.
        found: what `segments` returned.
        preferred: places of first values after something happened.
        within: largest distance.
        odds: see above.

    Raises:
        EstimateError: as `segments`.
    """
    x, variance = checked_vector("values", values, minimum=1), checked_vector("variances", variances, minimum=1)
    checked_same_length("values", x, "variances", variance)
    sums, offset = _sums(x, variance)
    slack = 2.0 * math.log(checked_positive("odds", odds))
    cuts = [part.start for part in found] + [x.size]
    for at in range(1, len(cuts) - 1):
        low, cut, high = cuts[at - 1 : at + 2]
        near = [place for place in preferred if low < place < high and abs(place - cut) <= within]
        if near:
            costs = {place: _cost(sums, low, place) + _cost(sums, place, high) for place in (cut, *near)}
            place = min(near, key=lambda one: (costs[one], one))
            if costs[place] - costs[cut] <= slack:
                cuts[at] = place
    return _segments(cuts, sums, offset)


def _sums(x: Floats, variance: Floats) -> tuple[list[Floats], float]:
    """Return running sums of w, wx and wxx about the weighted mean, and that mean."""
    weight = 1.0 / variance
    offset = float(np.average(x, weights=weight))
    x = x - offset  # sums of squares about a far origin would cancel
    return [np.concatenate([[0.0], np.cumsum(part)]) for part in (weight, weight * x, weight * x * x)], offset


def _cost(sums: Sequence[Floats], start: int, stop: int) -> float:
    w, wx, wxx = (float(part[stop] - part[start]) for part in sums)
    return wxx - wx * wx / w


def _segments(cuts: Sequence[int], sums: Sequence[Floats], offset: float) -> tuple[Segment, ...]:
    weight, weighted = sums[0], sums[1]
    return tuple(
        Segment(
            start=start,
            stop=stop,
            mean=offset + float((weighted[stop] - weighted[start]) / (weight[stop] - weight[start])),
            standard_error=float((weight[stop] - weight[start]) ** -0.5),
        )
        for start, stop in pairwise(cuts)
    )
