"""Judged conversations: one mean score for each question, compared question by question.

In: aligned records and the judgments of both sides. Out: `RatingComparison`.
Must not depend on: margins, verdicts.

A question is the unit: turns, generations and judgments of it are averaged first, never taken for independent data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evalkit.comparison.means import Attempts, FilledDifferences, GroupMean, MeanComparison, mean_comparison
from evalkit.comparison.panel import Panel
from evalkit.comparison.ratings import (
    Grid,
    RatingBounds,
    RuleEffect,
    Scores,
    filled_differences,
    mean_of_present,
    question_means,
    rating_bounds,
    rule_effect,
    spread_of_generations,
    spread_of_judgments,
)
from evalkit.comparison.units import UnitCodes
from evalkit.statistics.checks import ROUNDING, Floats, Interval
from evalkit.statistics.clusters import bootstrap_mean_interval

# Where does the noise of a rating come from, and what would buy most of it off?
#
# The variance of a question's difference is tau^2 + (2/G) sg^2 + (2/(T G J)) sj^2: what truly differs from question to
# question, what another generation would change, what another judgment would change (T turns, G generations, J
# judgments). Doubling questions, generations or judgments doubles the judge's work alike, so what each saves can be
# compared.


Effort = Literal["questions", "generations", "judgments"]


@dataclass(frozen=True, kw_only=True)
class VarianceParts:
    """Parts of the variance of a question's difference.

    Attributes:
        sd: standard deviation of a question's difference, as observed.
        question: share of the variance that no second generation or judgment would change; while the judge's or the
            model's own share is unknown, it is in here.
        generation: sampling variance of the model; None if unknown (one generation, or one judgment, of each answer).
        judge: share of the judge's noise; None if unknown (one judgment of each answer).
        factors: what the standard error is multiplied by if one effort is doubled; an unknown one is absent.
        advice: the effort, questions aside, whose doubling helps most; None if nothing is known of either.
    """

    sd: float
    question: float
    generation: float | None
    judge: float | None
    factors: dict[Effort, float]
    advice: Effort | None


def variance_parts(
    sd: float | None,
    *,
    turns: int,
    generations: int,
    repeats: int,
    generation_sd: float | None,
    judgment_sd: float | None,
) -> VarianceParts | None:
    """Split a variance; None where the differences do not vary.

    A part that is estimated larger than the whole (both are noisy) takes all of it.

    >>> parts = variance_parts(1.0, turns=2, generations=1, repeats=2, generation_sd=None, judgment_sd=0.6)
    >>> round(parts.judge, 2), round(parts.factors["judgments"], 3), parts.advice
    (0.18, 0.954, 'judgments')
    """
    if sd is None or sd <= 0.0:
        return None
    total = sd**2
    judging = None if judgment_sd is None else 2.0 * judgment_sd**2 / (turns * generations * repeats)
    dice = None if generation_sd is None else 2.0 * generation_sd**2 / generations
    judge = None if judging is None else min(1.0, judging / total)
    generation = None if dice is None else min(1.0 - (judge or 0.0), dice / total)
    question = max(0.0, 1.0 - (judge or 0.0) - (generation or 0.0))
    factors: dict[Effort, float] = {"questions": math.sqrt(0.5)}
    if generation is not None:
        factors["generations"] = math.sqrt(question + (generation + (judge or 0.0)) / 2.0)
    if judge is not None:
        factors["judgments"] = math.sqrt(question + (generation or 0.0) + judge / 2.0)
    return VarianceParts(
        sd=sd,
        question=question,
        generation=generation,
        judge=judge,
        factors=factors,
        advice=_best(factors),
    )


def _best(factors: dict[Effort, float]) -> Effort | None:
    others = sorted((factor, name) for name, factor in factors.items() if name != "questions")
    return others[0][1] if others else None


@dataclass(frozen=True, kw_only=True)
class QuestionScore:
    """One question's mean scores.

    Attributes:
        subject, item_sha256, occurrence: the question.
        baseline, candidate: mean score of each side; None where it has no judgment.
        difference: candidate minus baseline; None where a side is None.
    """

    subject: str
    item_sha256: str
    occurrence: int
    baseline: float | None
    candidate: float | None
    difference: float | None


@dataclass(frozen=True, kw_only=True)
class RatingComparison:
    """A paired comparison of judge ratings.

    Attributes:
        mean: the comparison of question means, in rating points.
        turns, categories: mean scores of parts, for reading; parts are not separate data.
        questions: every question, worst difference first.
        drop: loss that counts as catastrophic.
        drops, gains: questions with a difference of at most -drop, of at least +drop.
        generations, repeats: effort: answers to each question, judgments of each answer.
        judgment_sd: spread of repeated judgments of one answer; None without repeats.
        generation_sd: spread of a question's mean over generations; None without several generations and repeats.
        bootstrap: interval of the mean difference from resampled questions (sensitivity), at the level of `mean`.
        unavailable: what could not be estimated, and why.
        judge, judge_profile: judge model and profile, which the numbers depend on.
        bounds: how far missing judgments could move the means; None without a planned question.
        rule: what scoring unreadable answers by rule does; None where none was.
        variance: where the noise comes from; None without variation.
        panel: each judge of a panel by itself; None for one judge.
    """

    mean: MeanComparison
    turns: tuple[GroupMean, ...]
    categories: tuple[GroupMean, ...]
    questions: tuple[QuestionScore, ...]
    drop: float
    drops: int
    gains: int
    generations: int
    repeats: int
    judgment_sd: float | None
    generation_sd: float | None
    bootstrap: Interval | None
    unavailable: Mapping[str, str]
    judge: str
    judge_profile: str
    bounds: RatingBounds | None = None
    rule: RuleEffect | None = None
    variance: VarianceParts | None = None
    panel: Panel | None = None


def compare_ratings(  # noqa: PLR0913 (two sides and how to read them)
    grid: Grid,
    baseline: Scores,
    candidate: Scores,
    *,
    planned: int,
    scale: tuple[float, float],
    level: float,
    drop: float,
    seed: int,
    judge: tuple[str, str],
    means: tuple[Floats, Floats, FilledDifferences] | None = None,
    codes: UnitCodes | None = None,
) -> RatingComparison:
    """Compare two sides' scores on one grid.

    Args:
        grid: questions, turns, generations, repeats.
        baseline: scores.
        candidate: scores.
        planned: questions of a complete comparison.
        scale: lowest and highest score.
        level: of the interval of the mean difference.
        drop: loss that counts as catastrophic.
        seed: of the bootstrap.
        judge: model and profile.
        means: of the questions, baseline and candidate, with their filled differences, where they are not simply the
            means of all scores (a panel); None otherwise.
        codes: what the planned questions share, those of the grid first; None where each is a unit of its own.
    """
    attempts = Attempts()
    left, right = question_means(baseline.values), question_means(candidate.values)
    if means is None:
        unseen = max(0, planned - len(grid.questions))
        differences = filled_differences(grid, baseline.values, candidate.values, unseen, scale)
    else:
        left, right, differences = means
    mean = mean_comparison("rating", left, right, differences, scale=scale, level=level, codes=codes)
    observed = differences.observed
    both = np.stack([baseline.values, candidate.values])
    spread = spread_of_judgments(both.reshape(-1, both.shape[-1]))
    dice = spread_of_generations(np.concatenate(both), spread)
    return RatingComparison(
        mean=mean,
        turns=_turns(baseline.values, candidate.values),
        categories=_categories([question[0] for question in grid.questions], left, right),
        questions=_questions(grid, left, right),
        drop=drop,
        drops=count_drops(observed, drop),
        gains=count_drops(-observed, drop),
        generations=grid.generations,
        repeats=grid.repeats,
        judgment_sd=spread,
        generation_sd=dice,
        bootstrap=attempts.make(
            "bootstrap",
            lambda: bootstrap_mean_interval(observed, np.random.default_rng(seed), level=level, method="percentile"),
        ),
        unavailable=attempts.unavailable,
        judge=judge[0],
        judge_profile=judge[1],
        bounds=rating_bounds(grid, baseline.values, candidate.values, differences, scale),
        rule=rule_effect(baseline, candidate),
        variance=variance_parts(
            mean.sd,
            turns=grid.shape[1],
            generations=grid.generations,
            repeats=grid.repeats,
            generation_sd=dice,
            judgment_sd=spread,
        ),
    )


def count_drops(differences: Floats, drop: float) -> int:
    """Count differences of at most -drop; a mean of thirds that is exactly -4 on paper counts.

    >>> count_drops(np.array([6 / 6 - 30 / 6, -3.9]), 4.0), count_drops(np.array([20 / 6 - 44 / 6]), 4.0)
    (1, 1)
    """
    return int(np.count_nonzero(differences <= -drop * (1.0 - ROUNDING)))


def _turns(left: Floats, right: Floats) -> tuple[GroupMean, ...]:
    rows = []
    for turn in range(left.shape[1]):
        b, c = mean_of_present(left[:, turn], axis=(1, 2)), mean_of_present(right[:, turn], axis=(1, 2))
        rows += _group(f"turn {turn + 1}", b, c)
    return tuple(rows)


def _categories(subjects: Sequence[str], left: Floats, right: Floats) -> tuple[GroupMean, ...]:
    names = np.array(subjects, dtype=str)
    rows: list[GroupMean] = []
    for name in sorted(set(subjects)):
        rows += _group(name, left[names == name], right[names == name])
    return tuple(rows)


def _group(name: str, left: Floats, right: Floats) -> list[GroupMean]:
    both = ~np.isnan(left) & ~np.isnan(right)
    if not both.any():
        return []
    return [
        GroupMean(name=name, n=int(both.sum()), baseline=float(left[both].mean()), candidate=float(right[both].mean()))
    ]


def _questions(grid: Grid, left: Floats, right: Floats) -> tuple[QuestionScore, ...]:
    rows = []
    for question, b, c in zip(grid.questions, left.tolist(), right.tolist(), strict=True):
        known_b, known_c = (None if np.isnan(value) else value for value in (b, c))
        rows.append(
            QuestionScore(
                subject=question[0],
                item_sha256=question[1],
                occurrence=question[2],
                baseline=known_b,
                candidate=known_c,
                difference=None if known_b is None or known_c is None else known_c - known_b,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.difference is None, row.difference or 0.0)))
