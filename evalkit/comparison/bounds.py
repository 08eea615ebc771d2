"""How far missing judgments, and answers scored by rule, could move a mean rating.

In: the scores of both sides. Out: `RatingBounds`, `RuleEffect`.
May not know: margins, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.comparison.means import FilledDifferences, fill
from evalkit.comparison.ratings import Grid, Scores, question_means
from evalkit.statistics.checks import Floats


@dataclass(frozen=True, kw_only=True)
class RatingBounds:
    """Limits that no missing judgment could push a mean past.

    Attributes:
        baseline, candidate: lowest and highest mean rating: everything missing at the end of the scale.
        difference: lowest and highest mean difference: everything missing against the candidate, and for it.
        missing: judgments missing on either side.
    """

    baseline: tuple[float, float]
    candidate: tuple[float, float]
    difference: tuple[float, float]
    missing: int


@dataclass(frozen=True, kw_only=True)
class RuleEffect:
    """What scoring unreadable answers by rule does to the difference.

    Attributes:
        baseline, candidate: answers (turns and repeats) scored by rule.
        without: mean difference if every place where either side was scored by rule is left out; None if none is left.
    """

    baseline: int
    candidate: int
    without: float | None


def filled_differences(
    grid: Grid, left: Floats, right: Floats, unseen: int, scale: tuple[float, float]
) -> FilledDifferences:
    """Fill judgment by judgment, then average: one missing judgment is not a missing question."""
    low, high = scale
    seen = fill(question_means(left), question_means(right), unseen, scale)

    def filled(values: Floats, value: float) -> Floats:
        return question_means(np.where(grid.places & np.isnan(values), value, values))

    worst, best = filled(right, low) - filled(left, high), filled(right, high) - filled(left, low)
    return FilledDifferences(
        observed=seen.observed,
        unfavourable=np.concatenate([worst, np.full(unseen, low - high)]),
        favourable=np.concatenate([best, np.full(unseen, high - low)]),
    )


def rating_bounds(
    grid: Grid, baseline: Floats, candidate: Floats, filled: FilledDifferences, scale: tuple[float, float]
) -> RatingBounds | None:
    """Return the bounds; None without any planned question."""
    if filled.unfavourable.size == 0:
        return None
    unseen = filled.unfavourable.size - len(grid.questions)
    missing = sum(int((grid.places & np.isnan(values)).sum()) for values in (baseline, candidate))
    return RatingBounds(
        baseline=_limits(grid, baseline, unseen, scale),
        candidate=_limits(grid, candidate, unseen, scale),
        difference=(float(filled.unfavourable.mean()), float(filled.favourable.mean())),
        missing=missing,
    )


def panel_bounds(judges: Sequence[RatingBounds]) -> RatingBounds:
    """Return the bounds of a panel, in which each judge has the same weight; none of its repeats is averaged away."""
    count = len(judges)

    def middle(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
        return math.fsum(low for low, _ in limits) / count, math.fsum(high for _, high in limits) / count

    return RatingBounds(
        baseline=middle([one.baseline for one in judges]),
        candidate=middle([one.candidate for one in judges]),
        difference=middle([one.difference for one in judges]),
        missing=sum(one.missing for one in judges),
    )


def _limits(grid: Grid, values: Floats, unseen: int, scale: tuple[float, float]) -> tuple[float, float]:
    means = []
    for end in scale:
        questions = question_means(np.where(grid.places & np.isnan(values), end, values))
        means.append(float(np.concatenate([questions, np.full(unseen, end)]).mean()))
    return means[0], means[1]


def rule_effect(baseline: Scores, candidate: Scores) -> RuleEffect | None:
    """Return what the rule does; None where no answer was scored by rule."""
    left, right = baseline.ruled, candidate.ruled
    if left is None or right is None or not (left.any() or right.any()):
        return None
    either = left | right
    means = [question_means(np.where(either, np.nan, side.values)) for side in (baseline, candidate)]
    differences = means[1] - means[0]
    kept = differences[~np.isnan(differences)]
    return RuleEffect(
        baseline=int(left.sum()),
        candidate=int(right.sum()),
        without=float(kept.mean()) if kept.size else None,
    )
