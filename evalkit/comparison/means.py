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
from evalkit.statistics.checks import Floats
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
        n: units with a score on both sides.
        planned: units of a complete comparison.
        baseline_mean, candidate_mean: over the n units; None without any.
        difference: mean difference, candidate minus baseline; None without any.
        sd: of a unit's difference; None below two units or without variation.
        interval: of the mean difference, at the level of one-sided tests both ways.
        wide_interval: the same at 99 %.
        higher, equal, lower: units the candidate scored higher, equally, lower.
        unavailable: what could not be estimated, and why.
        differences: for tests.
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
) -> MeanComparison:
    """Summarise paired scores, each (n,), NaN where missing; `level` is that of `interval`."""
    seen = ~np.isnan(baseline) & ~np.isnan(candidate)
    d, attempts = differences.observed, Attempts()
    test = attempts.make("interval", lambda: paired_t(d))
    some = d.size > 0
    return MeanComparison(
        name=name,
        scale=scale,
        n=int(d.size),
        planned=int(differences.unfavourable.size),
        baseline_mean=float(baseline[seen].mean()) if some else None,
        candidate_mean=float(candidate[seen].mean()) if some else None,
        difference=float(d.mean()) if some else None,
        sd=test.sd if test else None,
        interval=test.interval(level) if test else None,
        wide_interval=test.interval(0.99) if test else None,
        higher=int(np.count_nonzero(d > 0)),
        equal=int(np.count_nonzero(d == 0)),
        lower=int(np.count_nonzero(d < 0)),
        unavailable=attempts.unavailable,
        differences=differences,
    )
