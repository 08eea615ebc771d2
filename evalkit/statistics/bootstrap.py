"""Bootstrap intervals of a mean, over units or over whole clusters.

In: values, optional cluster labels, a numpy Generator. Out: an `Interval`.
May not know: where the seed comes from; the same Generator state gives the same limits.

Estimand: the mean over the population of units, or of clusters. Assumption: they are independent. Sensitivity only: no
decision rests on it. Limits follow Efron and Tibshirani 1993, chapters 12 to 14. The acceleration is the closed-form
jackknife of a (ratio) mean, so memory grows with n and never with its square.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from evalkit.errors import EstimateError
from evalkit.statistics.checks import ROUNDING, Floats, checked_between, checked_count, checked_vector
from evalkit.statistics.clusters import cluster_codes, cluster_totals
from evalkit.statistics.interval import Interval

BootstrapMethod = Literal["basic", "percentile", "bca"]
_CHUNK = 2_000_000


def bootstrap_mean_interval(
    values: ArrayLike,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    method: BootstrapMethod = "bca",
    clusters: ArrayLike | None = None,
    resamples: int = 10_000,
) -> Interval:
    """Return a bootstrap interval of the mean of `values`, shape (n,).

    With `clusters`, shape (n,), whole clusters are drawn, and each resampled mean is the drawn sum over the drawn size.

    >>> x = [10, 12, 12.5, 12.5, 13.9, 15, 21, 22, 23, 34, 50, 81, 89, 121, 134, 213]
    >>> interval = bootstrap_mean_interval(x, np.random.default_rng(1), method="percentile")
    >>> 28 < interval.lower < 30, 83 < interval.upper < 86
    (True, True)

    Raises:
        EstimateError: fewer than two values or clusters, a non-finite value, no variation, fewer than 100 resamples, or
            an unknown method.
    """
    array = checked_vector("values", values)
    level = checked_between("level", level, 0.0, 1.0)
    resamples = checked_count("resamples", resamples, minimum=100)
    if method not in ("basic", "percentile", "bca"):
        raise EstimateError(f"bootstrap method is {method!r}; allowed: basic, percentile, bca")
    sums, sizes = array, np.ones(array.size)
    if clusters is not None:
        sums, sizes = cluster_totals(array, *cluster_codes(clusters, array.size))
    _refuse_constant(sums, sizes)
    means = np.sort(_resampled_means(sums, sizes, rng, resamples))
    estimate = float(sums.sum() / sizes.sum())
    tails = np.array([(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    if method == "bca":
        tails = _corrected_tails(tails, means, estimate, _acceleration(sums, sizes))
    lower, upper = (float(limit) for limit in np.quantile(means, tails))
    if method == "basic":
        lower, upper = 2.0 * estimate - upper, 2.0 * estimate - lower
    prefix = "cluster-bootstrap" if clusters is not None else "bootstrap"
    return Interval(lower=lower, upper=upper, level=level, method=f"{prefix}-{method}")


def _refuse_constant(sums: Floats, sizes: Floats) -> None:
    if sums.size < 2:
        raise EstimateError(f"bootstrap: {sums.size} cluster; at least 2 are needed")
    means = sums / sizes
    if float(np.ptp(means)) <= ROUNDING * max(1.0, float(np.abs(means).max())):
        raise EstimateError(f"bootstrap: all {sums.size} resampled units have mean {means[0]!r}, so nothing varies")


def _resampled_means(sums: Floats, sizes: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    means, rows = np.empty(resamples), max(1, _CHUNK // sums.size)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, sums.size, size=(stop - start, sums.size))
        means[start:stop] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _acceleration(sums: Floats, sizes: Floats) -> float:
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    deviations = without.mean() - without
    return float((deviations**3).sum() / (6.0 * (deviations**2).sum() ** 1.5))


def _corrected_tails(tails: Floats, sorted_means: Floats, estimate: float, acceleration: float) -> Floats:
    """Return the BCa percentiles; a resampled mean that equals the estimate counts half on either side."""
    below = np.searchsorted(sorted_means, estimate, side="left")
    at_most = np.searchsorted(sorted_means, estimate, side="right")
    share = (below + at_most) / (2.0 * sorted_means.size)
    if not 0.0 < share < 1.0:
        raise EstimateError("bootstrap: every resampled mean lies on one side of the estimate; use more resamples")
    bias = float(ndtri(share))
    shifted = bias + ndtri(tails)
    corrected: Floats = ndtr(bias + shifted / (1.0 - acceleration * shifted))
    return corrected
