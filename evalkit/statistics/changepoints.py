"""Where a series of estimates changes its mean.

In: estimates in the order of time, each with its sampling variance. Out: segments of constant mean.
May not know: what was estimated, or what happened at a change.

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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtri

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_between, checked_same_length, checked_vector


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
    weight = 1.0 / variance
    x = x - np.average(x, weights=weight)  # sums of squares about a far origin would cancel
    offset = float(np.average(np.asarray(values, dtype=np.float64), weights=weight))
    sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in (weight, weight * x, weight * x * x)]
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
    return tuple(
        Segment(
            start=start,
            stop=stop,
            mean=offset + float((sums[1][stop] - sums[1][start]) / (sums[0][stop] - sums[0][start])),
            standard_error=float((sums[0][stop] - sums[0][start]) ** -0.5),
        )
        for start, stop in pairwise(cuts)
    )
