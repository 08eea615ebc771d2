"""The standard error of a mean when units come in clusters.

In: one value for each unit and a cluster label for each. Out: mean, clustered standard error, design effect, interval.
Must not depend on: what a cluster is (a subject, a passage, a template).

Estimand: the mean over the population of clusters. Assumption: clusters are independent, units inside one are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr, ndtri, stdtrit

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    ROUNDING,
    Floats,
    Integers,
    Interval,
    checked_between,
    checked_count,
    checked_number,
    checked_vector,
    two_sided_z,
)


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


def effective_clusters(sizes: ArrayLike) -> float:
    """Return (sum n_g)^2 / sum n_g^2: how many equal clusters tell as much as clusters of `sizes`, shape (G,).

    >>> effective_clusters([4, 4, 4]), round(effective_clusters([90, 1, 1, 1]), 3)
    (3.0, 1.067)

    Raises:
        EstimateError: fewer than two clusters, or a size below 1.
    """
    counts = checked_vector("cluster sizes", sizes)
    if (counts < 1.0).any():
        raise EstimateError(f"cluster sizes hold {counts.min():g}; allowed: at least one trial in every cluster")
    return float(counts.sum() ** 2 / (counts**2).sum())


def cluster_values(sums: Floats, sizes: Floats) -> Floats:
    """Return one value for each cluster, shape (G,), whose plain mean and standard error are those of all items.

    u_g = D + (G/n)(S_g - n_g D), D = sum S_g / n. Their mean is D, and sd(u)/sqrt(G) is the cluster-robust standard
    error of `clustered_mean`, so every test of independent units applies to them. With equal sizes they are the means
    of the clusters; with one item each, the items.

    >>> cluster_values(np.array([1.0, 0.0, 2.0]), np.array([2.0, 2.0, 2.0])).tolist()
    [0.5, 0.0, 1.0]
    """
    total = float(sizes.sum())
    if (sizes == sizes[0]).all():
        return sums / sizes  # exact, where the general form would round
    mean = float(sums.sum()) / total
    values: Floats = mean + (sums.size / total) * (sums - sizes * mean)
    return values


@dataclass(frozen=True, kw_only=True)
class ExcessDesignEffect:
    """How much more the mean varies when groups are taken for the units, instead of clusters.

    Attributes:
        groups: groups.
        excess: variance of the mean by group over that by cluster; 1 if groups explain nothing.
        p: one-sided p-value of "items of one group, but of different clusters, are not alike".
    """

    groups: int
    excess: float
    p: float


def excess_design_effect(residuals: Floats, clusters: Integers, groups: Integers) -> ExcessDesignEffect:
    """Compare groups with clusters, which may cross; `residuals` have mean zero; all of shape (n,), codes from 0.

    With r_cg the sum of the residuals of cluster c in group g, excess = 1 + U/V. U = sum_g [(sum_c r_cg)^2 - sum_c
    r_cg^2] adds the products of different clusters of a group, V = sum_c (sum_g r_cg)^2. If the cells were dealt to
    groups by chance U has mean zero and variance 2 (S2^2 - S4) sum_g m_g (m_g - 1)/(M (M - 1)): m_g of the M cells are
    in group g, S2 and S4 are the sums of r_cg^2 and r_cg^4. p is that of a chi-squared distribution of this variance on
    as many degrees of freedom as there are groups of equal size: with few large groups U is as skewed as that.

    >>> excess_design_effect(np.array([1.0, 1, -1, -1]), np.array([0, 1, 2, 3]), np.array([0, 0, 1, 1])).excess
    2.0
    """
    count = int(groups.max()) + 1
    cells, at = np.unique(clusters * count + groups, return_inverse=True)
    sums = np.bincount(at, weights=residuals)
    of_group = (cells % count).astype(np.int64)
    squares = sums**2
    inside = np.bincount(of_group, weights=squares, minlength=count)
    between = float((np.bincount(of_group, weights=sums, minlength=count) ** 2 - inside).sum())
    own = float((np.bincount(clusters, weights=residuals) ** 2).sum())
    held = np.bincount(of_group, minlength=count).astype(np.float64)
    pairs, cell_count = held * (held - 1.0), float(sums.size)
    spread = float(squares.sum()) ** 2 - float((squares**2).sum())
    if own <= 0.0 or pairs.sum() == 0.0 or spread <= ROUNDING * own**2:
        return ExcessDesignEffect(groups=count, excess=1.0, p=1.0)
    z = between / math.sqrt(2.0 * spread * float(pairs.sum()) / (cell_count * (cell_count - 1.0)))
    df = float(pairs.sum()) ** 2 / float((pairs**2).sum())
    p = float(chdtrc(df, max(0.0, df + z * math.sqrt(2.0 * df))))
    return ExcessDesignEffect(groups=count, excess=1.0 + between / own, p=p)


# An interval for a share when trials come in clusters.
#
# Estimand: the success probability of a trial. Assumption: clusters are independent and their sizes say nothing about
# success; nothing is assumed about the trials inside one.


def cluster_wilson(share: float, sizes: ArrayLike, level: float = 0.95) -> Interval:
    """Return Wilson's interval of a share with the effective number of clusters instead of the number of trials.

    It is what full dependence inside each cluster would give (intraclass correlation 1): then the variance of the share
    is p(1 - p) sum n_g^2/(sum n_g)^2, whatever the sizes. Less dependence makes it wider than needed, also where a
    share of 0 or 1 leaves nothing to estimate the dependence from. With few effective clusters it is Wilson's
    approximation for as few trials. `sizes` are the trials of each cluster, shape (G,).

    >>> interval = cluster_wilson(1.0, [6] * 30)
    >>> round(interval.lower, 3), interval.upper
    (0.886, 1.0)

    Raises:
        EstimateError: fewer than two clusters, an empty one, a share outside [0, 1], or `level` not inside (0, 1).
    """
    n, share = effective_clusters(sizes), checked_number("share", share)
    if not 0.0 <= share <= 1.0:
        raise EstimateError(f"share is {share!r}; allowed: 0 to 1")
    z = two_sided_z(level)
    centre = (2.0 * n * share + z * z) / (2.0 * (n + z * z))
    half = z * math.sqrt(z * z + 4.0 * n * share * (1.0 - share)) / (2.0 * (n + z * z))
    lower = 0.0 if share == 0.0 else max(0.0, centre - half)
    upper = 1.0 if share == 1.0 else min(1.0, centre + half)
    return Interval(lower=lower, upper=upper, level=level, method="wilson-by-cluster")


# Bootstrap intervals of a mean, over units or over whole clusters.
#
# Estimand: the mean over the population of units, or of clusters. Assumption: they are independent. Sensitivity only:
# no decision rests on it. Limits follow Efron and Tibshirani 1993, chapters 12 to 14. The acceleration is the closed-
# form jackknife of a (ratio) mean, so memory grows with n and never with its square.


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
