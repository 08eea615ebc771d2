"""Paired mean scores: what was seen, and both fills of what was not.

In: one score per unit on either side, NaN where it is missing. Out: `MeanComparison`.
May not know: margins, verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from evalkit.comparison.attempts import Attempts
from evalkit.comparison.plain import NOT_JSON
from evalkit.comparison.units import UnitCodes, Units, view_units
from evalkit.statistics.checks import Floats, Integers
from evalkit.statistics.clusters import cluster_totals
from evalkit.statistics.interval import Interval
from evalkit.statistics.paired_means import paired_t


@dataclass(frozen=True, kw_only=True)
class FilledDifferences:
    """Differences (candidate minus baseline) of every unit, in the unit of the score.

    Attributes:
        observed: units with a score on both sides, shape (m,).
        unfavourable: all planned units, a missing candidate at worst, a missing baseline at best, shape (n,).
        favourable: the reverse, shape (n,).
    """

    observed: Floats
    unfavourable: Floats
    favourable: Floats


@dataclass(frozen=True, kw_only=True)
class MeanComparison:
    """A paired comparison of mean scores.

    Attributes:
        name: what is averaged ("rating", "soft accuracy", a metric).
        scale: lowest and highest score.
        n: units with a score on both sides; where items share a cluster the means give each cluster the same weight.
        planned: units of a complete comparison.
        baseline_mean, candidate_mean: over the n units; None without any.
        difference: mean difference, candidate minus baseline; None without any.
        sd: of a unit's difference, or a cluster's; None below two units or without variation.
        interval: of the mean difference, at the level of one-sided tests both ways.
        wide_interval: the same at 99 %.
        higher, equal, lower: units the candidate scored higher, equally, lower.
        unavailable: what could not be estimated, and why.
        differences: for tests: one of each unit, or the mean of each cluster where items share one.
        units: what counts as one; None where nobody looked.
    """

    name: str
    scale: tuple[float, float]
    n: int
    planned: int
    baseline_mean: float | None
    candidate_mean: float | None
    difference: float | None
    sd: float | None
    interval: Interval | None
    wide_interval: Interval | None
    higher: int
    equal: int
    lower: int
    unavailable: Mapping[str, str]
    differences: FilledDifferences = field(repr=False, compare=False, metadata=NOT_JSON)
    units: Units | None = None


def fill(baseline: Floats, candidate: Floats, unseen: int, scale: tuple[float, float]) -> FilledDifferences:
    """Return observed and filled differences of two score arrays, each (n,), NaN where missing.

    `unseen` units without any score on either side are filled like the rest.
    """
    low, high = scale
    seen = ~np.isnan(baseline) & ~np.isnan(candidate)
    worst = np.nan_to_num(candidate, nan=low) - np.nan_to_num(baseline, nan=high)
    best = np.nan_to_num(candidate, nan=high) - np.nan_to_num(baseline, nan=low)
    return FilledDifferences(
        observed=(candidate - baseline)[seen],
        unfavourable=np.concatenate([worst, np.full(unseen, low - high)]),
        favourable=np.concatenate([best, np.full(unseen, high - low)]),
    )


def mean_comparison(
    name: str,
    baseline: Floats,
    candidate: Floats,
    differences: FilledDifferences,
    *,
    scale: tuple[float, float],
    level: float,
    codes: UnitCodes | None = None,
) -> MeanComparison:
    """Summarise paired scores, each (n,), NaN where missing; `level` is that of `interval`.

    `codes` say what the planned units share; None where each is a unit of its own. Clusters are averaged before
    anything is tested: their means lie on the scale, so that whatever holds for units holds for them.
    """
    seen = ~np.isnan(baseline) & ~np.isnan(candidate)
    d, attempts, some = differences.observed, Attempts(), bool(seen.any())
    planned, sides = int(differences.unfavourable.size), (baseline[seen], candidate[seen])
    view = view_units(codes, seen, d) if codes is not None and some else None
    if view is not None and view.units.clusters < view.units.items:
        differences = FilledDifferences(
            observed=_cluster_means(d, view.observed),
            unfavourable=_cluster_means(differences.unfavourable, view.planned),
            favourable=_cluster_means(differences.favourable, view.planned),
        )
        sides = (_cluster_means(sides[0], view.observed), _cluster_means(sides[1], view.observed))
    test = attempts.make("interval", lambda: paired_t(differences.observed))
    return MeanComparison(
        name=name,
        scale=scale,
        n=int(d.size),
        planned=planned,
        baseline_mean=float(sides[0].mean()) if some else None,
        candidate_mean=float(sides[1].mean()) if some else None,
        difference=float(differences.observed.mean()) if some else None,
        sd=test.sd if test else None,
        interval=test.interval(level) if test else None,
        wide_interval=test.interval(0.99) if test else None,
        higher=int(np.count_nonzero(d > 0)),
        equal=int(np.count_nonzero(d == 0)),
        lower=int(np.count_nonzero(d < 0)),
        unavailable=attempts.unavailable,
        differences=differences,
        units=view.units if view else None,
    )


def _cluster_means(values: Floats, codes: Integers) -> Floats:
    sums, sizes = cluster_totals(values, codes, int(codes.max()) + 1)
    return sums / sizes
