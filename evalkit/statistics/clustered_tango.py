"""Tango's score test and interval for paired proportions whose items come in clusters.

In: losses, gains and items of each cluster. Out: z, one-sided p-values, an `Interval`.
Must not depend on: what a cluster is (a passage, a question in several languages, one question asked twice).

Estimand: the difference of two accuracies over items (every item has the same weight), in the population the clusters
were drawn from. Assumption: clusters are independent; nothing is assumed about the items inside one.

The statistic is Tango's divided by the root of a design effect that is restricted at the hypothesis as his variance is:

    z(x) = z_Tango(x) / sqrt(max(1, A(x)/B(x))),   A = sum_g (S_g - n_g x)^2,   B = sum_i (d_i - x)^2,

S_g the gains minus losses of cluster g. If x is the true difference, A is unbiased for the variance of sum S_g under
any dependence inside clusters (Liang and Zeger 1986; Rao and Scott 1992 divide a score statistic by a design effect in
the same way), and B for what it would be under none. Restricting it matters where it is needed most: without any flip
A/B is n/G* with G* = (sum n_g)^2 / sum n_g^2, so nothing that was not seen is taken for independence. With clusters of
one item A = B, and if every cluster flips as a whole the items of a cluster count as one: both are Tango's own test.

A whole cluster that collapses is a rare large loss, which a symmetric test takes for too unlikely. So the p-value of
"the loss is within the margin" is the larger of that of z and that of a t statistic over clusters, corrected for
skewness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, stdtr

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    Floats,
    Integers,
    Interval,
    checked_between,
    checked_same_length,
    checked_vector,
    two_sided_z,
)
from evalkit.statistics.clusters import cluster_values, effective_clusters
from evalkit.statistics.tango import NonInferiority, PairedTable, tango_limits, tango_scores

_EDGE = 1e-12
_HALVINGS = 50

NEARLY_SINGLE = 1.2
"""Full-dependence design effect n/G* below which clusters are too small to carry a skewed loss."""


@dataclass(frozen=True, kw_only=True)
class ClusteredPairs:
    """Right-or-wrong pairs by cluster; losses are items only the baseline has right, gains only the candidate.

    Attributes:
        losses, gains, sizes: of each cluster, shape (G,).
        both: items that both have right, of each cluster; None: not known, and then there is no ratio of accuracies.
    """

    losses: Floats
    gains: Floats
    sizes: Floats
    both: Floats | None = None

    def __post_init__(self) -> None:
        for name in ("losses", "gains", "sizes", *(() if self.both is None else ("both",))):
            object.__setattr__(self, name, checked_vector(name, getattr(self, name), minimum=1))
        checked_same_length("losses", self.losses, "sizes", self.sizes)
        checked_same_length("gains", self.gains, "sizes", self.sizes)
        if (self.losses < 0).any() or (self.gains < 0).any() or (self.losses + self.gains > self.sizes).any():
            raise EstimateError("a cluster has a negative count, or more flips than items")

    @classmethod
    def from_outcomes(cls, baseline: ArrayLike, candidate: ArrayLike, codes: Integers) -> ClusteredPairs:
        """Count outcomes 0 and 1, each of shape (n,), by cluster code 0..G-1, shape (n,)."""
        left, right = np.asarray(baseline, dtype=np.float64), np.asarray(candidate, dtype=np.float64)
        losses, gains = left * (1.0 - right), right * (1.0 - left)
        counts: list[Floats] = [
            np.bincount(codes, weights=weights).astype(np.float64)
            for weights in (losses, gains, np.ones(left.size), left * right)
        ]
        losses, gains, sizes, both = (count[counts[2] > 0] for count in counts)
        return cls(losses=losses, gains=gains, sizes=sizes, both=both)

    @property
    def table(self) -> PairedTable:
        """The fourfold table of all items.

        Raises:
            EstimateError: `both` is not known.
        """
        if self.both is None:
            raise EstimateError("pairs by cluster without the items that both have right make no fourfold table")
        n11, n10, n01 = (round(float(part.sum())) for part in (self.both, self.losses, self.gains))
        return PairedTable(n11=n11, n10=n10, n01=n01, n00=self.n - n11 - n10 - n01)

    def ratio_design_effect(self, ratio: float) -> float:
        """Return the design effect of candidate - ratio baseline, whose mean is zero if the ratio is true; at least 1.

        Raises:
            EstimateError: `both` is not known.
        """
        if self.single:
            return 1.0
        table, both = self.table, self.both
        assert both is not None  # the table says so
        sums = both + self.gains - ratio * (both + self.losses)
        flat = table.n11 * (1.0 - ratio) ** 2 + table.n01 + table.n10 * ratio**2
        return max(1.0, float((sums**2).sum()) / flat) if flat > 0.0 else self.n / self.effective

    @property
    def n(self) -> int:
        """Items."""
        return int(self.sizes.sum())

    @property
    def clusters(self) -> int:
        """Clusters, G."""
        return int(self.sizes.size)

    @property
    def single(self) -> bool:
        """Whether every cluster is one item: then everything here is Tango's own."""
        return bool((self.sizes == 1.0).all())

    @property
    def effective(self) -> float:
        """Equal clusters that tell as much as these, G*."""
        return effective_clusters(self.sizes) if self.clusters > 1 else 1.0

    def design_effect(self, x: float | None = None) -> float:
        """Return A(x)/B(x), at the observed difference for None; the full-dependence value where nothing varies."""
        sums = self.gains - self.losses
        at = float(sums.sum()) / self.n if x is None else x
        flat = float((self.losses + self.gains).sum()) - 2.0 * at * float(sums.sum()) + self.n * at * at
        return float(((sums - self.sizes * at) ** 2).sum()) / flat if flat > 0.0 else self.n / self.effective


def clustered_tango_z(pairs: ClusteredPairs, x: float) -> float:
    """Return the score statistic for the hypothesis that the true difference is `x`, a proportion in (-1, 1).

    >>> twice = ClusteredPairs(losses=[2, 0, 0, 0], gains=[0, 0, 0, 0], sizes=[2, 2, 2, 2])
    >>> once = ClusteredPairs(losses=[1, 0, 0, 0], gains=[0, 0, 0, 0], sizes=[1, 1, 1, 1])
    >>> round(clustered_tango_z(twice, -0.5), 6), round(clustered_tango_z(once, -0.5), 6)
    (1.0, 1.0)

    Raises:
        EstimateError: `x` is not inside (-1, 1).
    """
    x = checked_between("hypothesised difference", x, -1.0, 1.0)
    plain = float(tango_scores(pairs.losses.sum(), pairs.gains.sum(), pairs.n, x))
    return plain if pairs.single else plain / math.sqrt(max(1.0, pairs.design_effect(x)))


def clustered_tango_noninferiority(pairs: ClusteredPairs, margin: float) -> NonInferiority:
    """Test the difference of accuracies against -margin, in both directions.

    `z` is that of the score test; `p_certify` is larger than its own where skewness asks for it. One cluster of many
    items refutes nothing.

    Raises:
        EstimateError: `margin` is not inside (0, 1).
    """
    margin = checked_between("margin", margin, 0.0, 1.0)
    z = clustered_tango_z(pairs, -margin)
    certify = max(float(ndtr(-z)), _skewed_p(pairs, -margin))
    return NonInferiority(margin=margin, z=z, p_certify=certify, p_reject=float(ndtr(z)))


def clustered_tango_interval(pairs: ClusteredPairs, level: float = 0.95) -> Interval:
    """Return the differences that neither of the two one-sided tests refutes.

    The lower limit lies above -margin exactly when `p_certify` at that margin is below (1 - level)/2.

    Raises:
        EstimateError: `level` is not inside (0, 1).
    """
    z, tail = two_sided_z(level), (1.0 - level) / 2.0
    losses, gains = float(pairs.losses.sum()), float(pairs.gains.sum())
    if pairs.single:
        lower, upper = (float(limit) for limit in tango_limits(losses, gains, pairs.n, level))
        return Interval(lower=lower, upper=upper, level=level, method="tango")
    difference = (gains - losses) / pairs.n

    def refuted_below(x: float) -> bool:
        return clustered_tango_z(pairs, x) > z and _skewed_p(pairs, x) < tail

    lower = _boundary(-1.0 + _EDGE, difference, refuted_below)
    upper = -_boundary(-1.0 + _EDGE, -difference, lambda x: clustered_tango_z(pairs, -x) < -z)
    return Interval(lower=lower, upper=upper, level=level, method="clustered-tango")


def _boundary(low: float, high: float, refuted: Callable[[float], bool]) -> float:
    """Return the end of [low, high] up to which values are refuted, by bisection."""
    if not refuted(low):
        return -1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _skewed_p(pairs: ClusteredPairs, x: float) -> float:
    """Return P of "the difference is at most x" from the skewness-corrected t over clusters; 0 where it has no say.

    t = sqrt(G) (S + k S^2/3 + k^2 S^3/27 + k/(6 G)), S = (D - x)/s, k the skewness: Johnson's statistic (1978) with the
    cubic term that makes it monotone (Hall 1992, Journal of the Royal Statistical Society B 54:221), on the values
    u_g = D + (G/n)(S_g - n_g D), whose mean is D and whose standard error is the cluster-robust one.
    """
    if pairs.n / pairs.effective < NEARLY_SINGLE:
        return 0.0
    if pairs.clusters < 2:
        return 1.0
    values = cluster_values(pairs.gains - pairs.losses, pairs.sizes)
    deviations = values - values.mean()
    variance = float((deviations**2).sum()) / (values.size - 1)
    if variance <= _EDGE**2:
        return 0.0
    sd = math.sqrt(variance)
    s, k = (float(values.mean()) - x) / sd, float((deviations**3).mean()) / sd**3
    t = math.sqrt(values.size) * (s + k * s**2 / 3.0 + k**2 * s**3 / 27.0 + k / (6.0 * values.size))
    return float(stdtr(values.size - 1, -t))
