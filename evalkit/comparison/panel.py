"""Several judges of the same answers: each averaged by itself, then all together, then all but one.

In: the scores of each judge for both sides, on one grid but for the repeats. Out: `Panel`, and the combined scores.
Must not depend on: margins, verdicts.

A judge counts for a question only where it has judged both sides: one judge's severity must not stand in for another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalkit.comparison.means import Attempts, FilledDifferences
from evalkit.comparison.pairing import SideCoverage
from evalkit.comparison.ratings import Grid, Scores, filled_differences, mean_of_present, question_means
from evalkit.records.manifest import JudgeRun
from evalkit.statistics.agreement import krippendorff_alpha
from evalkit.statistics.checks import Floats, Interval
from evalkit.statistics.paired_means import paired_t


@dataclass(frozen=True, kw_only=True)
class JudgeMean:
    """What one judge says, or all but one.

    Attributes:
        name: name of the judging; of a row that leaves one out, the one left out.
        judge, judge_profile: who, by model and profile; "" for a row that leaves one out.
        judge_sha256, profile_sha256: digests of both; "" likewise.
        n: questions with a score on both sides.
        baseline, candidate, difference: mean scores; None without any.
        interval: of the mean difference; None where it cannot be made.
    """

    name: str
    judge: str
    judge_profile: str
    judge_sha256: str
    profile_sha256: str
    n: int
    baseline: float | None
    candidate: float | None
    difference: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel of judges.

    Attributes:
        judges: each by itself.
        without: the panel without each of them: a verdict that hangs on one judge shows here.
        alpha: Krippendorff's alpha of their scores of all answers; None where it cannot be made.
    """

    judges: tuple[JudgeMean, ...]
    without: tuple[JudgeMean, ...]
    alpha: float | None


@dataclass(frozen=True, kw_only=True)
class PanelSide:
    """One judge's view of both sides.

    Attributes:
        name: name of the judging.
        run: who judged.
        grid: with this judge's repeats.
        baseline, candidate: scores.
    """

    name: str
    run: JudgeRun
    grid: Grid
    baseline: Scores
    candidate: Scores


def combine(sides: Sequence[PanelSide]) -> tuple[Grid, Scores, Scores]:
    """Return one grid with a place for each judge instead of repeats, and both sides' scores on it."""
    shape = sides[0].grid
    grid = Grid(questions=shape.questions, turns=shape.turns, generations=shape.generations, repeats=len(sides))
    pairs = [_matched(side) for side in sides]
    baseline, candidate = (
        Scores(
            values=np.concatenate([pair[at] for pair in pairs], axis=3),
            coverage=_coverage([(side.baseline, side.candidate)[at].coverage for side in sides]),
            faults=tuple(fault for side in sides for fault in (side.baseline, side.candidate)[at].faults),
            ruled=np.concatenate([_ruled((side.baseline, side.candidate)[at]) for side in sides], axis=3),
        )
        for at in (0, 1)
    )
    return grid, baseline, candidate


def _matched(side: PanelSide) -> tuple[Floats, Floats]:
    """Average a judge's repeats, and drop questions that it has not judged on both sides."""
    left, right = (
        mean_of_present(scores.values, axis=(3,))[..., np.newaxis] for scores in (side.baseline, side.candidate)
    )
    lacking = np.isnan(question_means(left)) | np.isnan(question_means(right))
    for values in (left, right):
        values[lacking] = np.nan
    return left, right


def _ruled(scores: Scores) -> np.ndarray:
    ruled = scores.ruled if scores.ruled is not None else np.zeros(scores.values.shape, dtype=bool)
    return np.asarray(ruled.all(axis=3, keepdims=True))


def _coverage(parts: Sequence[SideCoverage]) -> SideCoverage:
    failed: dict[str, int] = {}
    for part in parts:
        for kind, count in part.failed.items():
            failed[kind] = failed.get(kind, 0) + count
    return SideCoverage(
        planned=sum(part.planned for part in parts),
        scored=sum(part.scored for part in parts),
        failed=dict(sorted(failed.items())),
        absent=sum(part.absent for part in parts),
    )


def panel_means(
    sides: Sequence[PanelSide], planned: int, scale: tuple[float, float]
) -> tuple[Floats, Floats, FilledDifferences]:
    """Return both sides' question means, each judge averaged by itself and then all, with their filled differences."""
    means, parts = [], []
    for side in sides:
        left, right = question_means(side.baseline.values), question_means(side.candidate.values)
        lacking = np.isnan(left) | np.isnan(right)
        means.append([np.where(lacking, np.nan, values) for values in (left, right)])
        unseen = max(0, planned - len(side.grid.questions))
        parts.append(filled_differences(side.grid, side.baseline.values, side.candidate.values, unseen, scale))
    b, c = (mean_of_present(np.stack([pair[at] for pair in means]), axis=(0,)) for at in (0, 1))
    differences = FilledDifferences(
        observed=(c - b)[~np.isnan(b)],
        unfavourable=np.mean([part.unfavourable for part in parts], axis=0),
        favourable=np.mean([part.favourable for part in parts], axis=0),
    )
    return b, c, differences


def panel_of(sides: Sequence[PanelSide], baseline: Scores, candidate: Scores, level: float) -> Panel:
    """Return each judge, and the panel without each; the scores are those of `combine`."""
    pairs = [(question_means(side.baseline.values), question_means(side.candidate.values)) for side in sides]
    judges = [
        replace(
            _mean(side.name, [pairs[at]], level),
            judge=side.run.identity.model,
            judge_profile=side.run.profile,
            judge_sha256=side.run.identity.sha256,
            profile_sha256=side.run.profile_sha256,
        )
        for at, side in enumerate(sides)
    ]
    rest = [[other for other in range(len(sides)) if other != at] for at in range(len(sides))]
    without = [
        _mean(side.name, [pairs[other] for other in kept], level) for side, kept in zip(sides, rest, strict=True)
    ]
    both = np.concatenate([side.reshape(-1, len(sides)) for side in (baseline.values, candidate.values)])
    return Panel(
        judges=tuple(judges),
        without=tuple(without),
        alpha=Attempts().make("alpha", lambda: krippendorff_alpha(both)),
    )


def _mean(name: str, judges: Sequence[tuple[Floats, Floats]], level: float) -> JudgeMean:
    """Average question means of some judges, each where it has judged both sides."""
    stacked = np.stack([np.stack(pair) for pair in judges])
    stacked[np.isnan(stacked).any(axis=1, keepdims=True).repeat(2, axis=1)] = np.nan
    b, c = mean_of_present(stacked, axis=(0,))
    seen = ~np.isnan(b)
    differences = (c - b)[seen]
    some = differences.size > 0
    return JudgeMean(
        name=name,
        judge="",
        judge_profile="",
        judge_sha256="",
        profile_sha256="",
        n=int(differences.size),
        baseline=float(b[seen].mean()) if some else None,
        candidate=float(c[seen].mean()) if some else None,
        difference=float(differences.mean()) if some else None,
        interval=Attempts().make("interval", lambda: paired_t(differences).interval(level)),
    )
