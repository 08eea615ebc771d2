"""An interval for a share when trials come in clusters.

In: a share of all trials, the trials of each cluster. Out: an `Interval`.
May not know: what a trial or a cluster is.

Estimand: the success probability of a trial. Assumption: clusters are independent and their sizes say nothing about
success; nothing is assumed about the trials inside one.
"""

from __future__ import annotations

import math

from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_number
from evalkit.statistics.clusters import effective_clusters
from evalkit.statistics.interval import Interval, two_sided_z


def cluster_wilson(share: float, sizes: ArrayLike, level: float = 0.95) -> Interval:
    """Return Wilson's interval of a share with the effective number of clusters in place of the number of trials.

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
