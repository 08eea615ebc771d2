"""The standard error of a mean when units come in clusters.

In: one value for each unit and a cluster label for each. Out: mean, clustered standard error, design effect, interval.
May not know: what a cluster is (a subject, a passage, a template).

Estimand: the mean over the population of clusters. Assumption: clusters are independent, units inside one are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from evalkit.errors import EstimateError
from evalkit.statistics.checks import ROUNDING, Floats, Integers, checked_between, checked_count, checked_vector
from evalkit.statistics.interval import Interval


@dataclass(frozen=True, kw_only=True)
class ClusteredMean:
    """Mean with a standard error that allows for clusters.

    Attributes:
        n: units.
        clusters: clusters, G.
        mean: mean of all units.
        se: clustered standard error with the factor G/(G-1).
        naive_se: s/sqrt(n), as if all units were independent.
        deff: design effect, (se/naive_se)^2.
        df: G - 1.
    """

    n: int
    clusters: int
    mean: float
    se: float
    naive_se: float
    deff: float
    df: int

    def interval(self, level: float = 0.95) -> Interval:
        """Return the two-sided t interval on G - 1 degrees of freedom.

        Raises:
            EstimateError: `level` is not inside (0, 1).
        """
        level = checked_between("level", level, 0.0, 1.0)
        half = float(stdtrit(self.df, (1.0 + level) / 2.0)) * self.se
        return Interval(lower=self.mean - half, upper=self.mean + half, level=level, method="clustered-t")


def clustered_mean(values: ArrayLike, clusters: ArrayLike, *, min_clusters: int = 10) -> ClusteredMean:
    """Return the mean of `values`, shape (n,), with its SE over `clusters`, shape (n,), of any sortable label type.

    se = sqrt(sum_g (sum_{i in g} (d_i - D))^2)/n * sqrt(G/(G-1)) (Liang and Zeger 1986). With few clusters this is far
    too small, hence `min_clusters`.

    >>> values, labels = [1, 0, 0, -1, -1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    >>> round(clustered_mean(values, labels, min_clusters=3).se, 12)
    0.3

    Raises:
        EstimateError: fewer clusters than `min_clusters` (never below 2), a non-finite value, unequal lengths, or a
            standard error of zero.
    """
    array = checked_vector("values", values)
    minimum = checked_count("min_clusters", min_clusters, minimum=2)
    codes, count = cluster_codes(clusters, array.size)
    if count < minimum:
        raise EstimateError(f"clustered standard error: {count} cluster(s); at least {minimum} are needed")
    mean = float(array.mean())
    residuals = array - mean
    sums = np.bincount(codes, weights=residuals, minlength=count)
    spread = math.sqrt(float(sums @ sums))
    if spread <= ROUNDING * max(1.0, float(np.abs(array).sum())):
        raise EstimateError(
            f"clustered standard error: all {count} clusters add up to what the mean predicts, so the standard error "
            "would be zero"
        )
    se = spread / array.size * math.sqrt(count / (count - 1))
    naive = float(array.std(ddof=1)) / math.sqrt(array.size)
    return ClusteredMean(
        n=array.size, clusters=count, mean=mean, se=se, naive_se=naive, deff=(se / naive) ** 2, df=count - 1
    )


def cluster_codes(clusters: ArrayLike, n: int) -> tuple[Integers, int]:
    """Return integer codes 0..G-1, shape (n,), and G, for labels of any sortable type.

    Raises:
        EstimateError: not one label for each of the n units, or a label that is NaN.
    """
    labels: NDArray[np.generic] = np.asarray(clusters)
    if labels.shape != (n,):
        raise EstimateError(f"clusters has shape {labels.shape}; allowed: ({n},), one label for each value")
    if labels.dtype.kind == "f" and np.isnan(labels.astype(np.float64)).any():
        raise EstimateError("clusters holds NaN; allowed: a label for every value")
    names, codes = np.unique(labels, return_inverse=True)
    return codes.astype(np.int64), int(names.size)


def cluster_totals(values: Floats, codes: Integers, count: int) -> tuple[Floats, Floats]:
    """Return the sum of values and the number of units of every cluster, each of shape (G,)."""
    sums: Floats = np.bincount(codes, weights=values, minlength=count).astype(np.float64)
    sizes: Floats = np.bincount(codes, minlength=count).astype(np.float64)
    return sums, sizes
