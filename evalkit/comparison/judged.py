"""The parts of a comparison of judged conversations: ratings, answers, coverage of both.

In: two runs and their paired records. Out: fields of a `Comparison`, and faults.
Must not depend on: margins, verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from evalkit.comparison.answers import compare_answers, compare_gates
from evalkit.comparison.conversations import RatingComparison, compare_ratings, variance_parts
from evalkit.comparison.pairing import Coverage, Pairs, samples, side_coverage
from evalkit.comparison.pairwise import PairwiseComparison, compare_pairs
from evalkit.comparison.panel import PanelSide, combine, panel_means, panel_of
from evalkit.comparison.ratings import (
    Grid,
    RatingBounds,
    Scores,
    filled_differences,
    panel_bounds,
    place_scores,
    rating_bounds,
    score_grid,
    spread_of_judgments,
)
from evalkit.comparison.runs import ComparisonSettings, Fault, RunView
from evalkit.comparison.units import UnitCodes, unit_codes
from evalkit.records.manifest import JudgeRun
from evalkit.records.record import Item, judged_task
from evalkit.statistics.checks import Floats


def judged_parts(
    baseline: RunView, candidate: RunView, task: str, pairs: Pairs, settings: ComparisonSettings
) -> tuple[dict[str, Any], list[Fault]]:
    """Return the parts of a `Comparison` that conversations have, and what forbids judging them."""
    judges = baseline.manifest.judges.get(task), candidate.manifest.judges.get(task)
    planned = pairs.planned // samples(baseline.manifest.tasks[task])
    left = side_coverage(pairs.baseline, pairs.planned, None)
    right = side_coverage(pairs.candidate, pairs.planned, None)
    faults: list[Fault] = []
    scores: tuple[Scores, Scores] | None = None
    rating: RatingComparison | None = None
    if judges[0] is None or judges[1] is None:
        faults.append(Fault(code="coverage", message=f"task '{task}' is not judged; next step: evalkit judge"))
    else:
        rating, scores = _ratings(baseline, candidate, (judges[0], judges[1]), task, pairs, planned, settings)
        faults += [*scores[0].faults, *scores[1].faults]
    parts = {
        "planned": planned,
        "answers": compare_answers(
            pairs.baseline,
            pairs.candidate,
            metric=None,
            unseen=pairs.unseen,
            samples=samples(baseline.manifest.tasks[task]),
        ),
        "gates": compare_gates(
            pairs.baseline,
            pairs.candidate,
            _items(baseline, candidate, task),
            unseen=max(0, planned - len({key[:3] for key in pairs.keys})),
        ),
        "pairwise": _pairwise(baseline, candidate, task, pairs, planned, settings),
        "rating": rating,
        "coverage": Coverage(
            baseline=left,
            candidate=right,
            baseline_judgments=scores[0].coverage if scores else None,
            candidate_judgments=scores[1].coverage if scores else None,
            excluded=dict(sorted({**pairs.excluded, **_unrated(rating, planned)}.items())),
        ),
    }
    return parts, faults


def _unrated(rating: RatingComparison | None, planned: int) -> dict[str, int]:
    """Count the planned questions without any rating on a side: they are in no estimate."""
    questions = rating.questions if rating is not None else ()
    rated = {
        "baseline": sum(question.baseline is not None for question in questions),
        "candidate": sum(question.candidate is not None for question in questions),
    }
    return {f"{side}-unrated": planned - count for side, count in rated.items() if count < planned}


def _items(baseline: RunView, candidate: RunView, task: str) -> dict[tuple[str, str, int], Item]:
    """Return the items of either run by what pairs them; a run made of records alone has none."""
    found: dict[tuple[str, str, int], Item] = {}
    for run in (candidate, baseline):
        items: Mapping[str, Sequence[Item]] = getattr(run, "items", {})
        found |= {(item.subject, item.item_sha256, item.occurrence): item for item in items.get(task, ())}
    return found


def _ratings(
    baseline: RunView,
    candidate: RunView,
    judges: tuple[JudgeRun, JudgeRun],
    task: str,
    pairs: Pairs,
    planned: int,
    settings: ComparisonSettings,
) -> tuple[RatingComparison, tuple[Scores, Scores]]:
    generations = samples(baseline.manifest.tasks[task])
    sides = [
        _side(baseline, candidate, name, pairs, planned, generations) for name in _panel(baseline, candidate, task)
    ]
    first = sides[0]
    scores = (first.baseline, first.candidate)
    options: dict[str, Any] = {
        "planned": planned,
        "scale": (float(judges[0].scale[0]), float(judges[0].scale[1])),
        "level": settings.level,
        "drop": settings.drop,
        "seed": settings.seed,
        "judge": (judges[0].identity.model, judges[0].profile),
    }
    facts = baseline.facts(task) or candidate.facts(task)

    def codes(grid: Grid) -> UnitCodes:
        unseen = max(0, planned - len(grid.questions))
        return unit_codes(task, grid.questions, unseen, facts, cluster=settings.cluster, strata=settings.strata)

    rating = compare_ratings(first.grid, *scores, codes=codes(first.grid), **options)
    if len(sides) == 1:
        return rating, scores
    grid, left, right = combine(sides)
    means = panel_means(sides, planned, options["scale"])
    together = compare_ratings(grid, left, right, means=means, codes=codes(grid), **options)
    spreads = [spread_of_judgments(_both(side)) for side in sides]
    bounds = [_bounds(side, planned, options["scale"]) for side in sides]
    return (
        replace(
            together,
            repeats=rating.repeats,
            judgment_sd=rating.judgment_sd,
            generation_sd=rating.generation_sd,
            variance=variance_parts(
                together.mean.sd,
                turns=grid.shape[1],
                generations=grid.generations,
                repeats=sum(side.grid.repeats for side in sides),
                generation_sd=rating.generation_sd,
                judgment_sd=_pooled(spreads),
            ),
            panel=panel_of(sides, left, right, settings.level),
            bounds=panel_bounds([one for one in bounds if one is not None]) if all(bounds) else None,
        ),
        (left, right),
    )


def _bounds(side: PanelSide, planned: int, scale: tuple[float, float]) -> RatingBounds | None:
    unseen = max(0, planned - len(side.grid.questions))
    filled = filled_differences(side.grid, side.baseline.values, side.candidate.values, unseen, scale)
    return rating_bounds(side.grid, side.baseline.values, side.candidate.values, filled, scale)


def _panel(baseline: RunView, candidate: RunView, task: str) -> list[str]:
    """Return the names of the ratings both sides have: the task's own first."""
    sides = (baseline.manifest.judges, candidate.manifest.judges)
    shared = {
        name
        for name in set(sides[0]) & set(sides[1])
        if judged_task(name) == task and all(side[name].mode == "single" for side in sides)
    }
    return sorted(shared, key=lambda name: (name != task, name))


def _side(baseline: RunView, candidate: RunView, name: str, pairs: Pairs, planned: int, generations: int) -> PanelSide:
    runs = (baseline.manifest.judges[name], candidate.manifest.judges[name])
    grid = score_grid((pairs.baseline, pairs.candidate), runs[0], max(1, planned), generations)
    return PanelSide(
        name=name,
        run=runs[0],
        grid=grid,
        baseline=place_scores("baseline", grid, pairs.baseline, baseline.judgments.get(name, ()), runs[0]),
        candidate=place_scores("candidate", grid, pairs.candidate, candidate.judgments.get(name, ()), runs[1]),
    )


def _both(side: PanelSide) -> Floats:
    values = np.stack([side.baseline.values, side.candidate.values])
    return values.reshape(-1, values.shape[-1])


def _pooled(spreads: Sequence[float | None]) -> float | None:
    known = [spread**2 for spread in spreads if spread is not None]
    return math.sqrt(sum(known) / len(known)) if len(known) == len(spreads) else None


def _pairwise(
    baseline: RunView, candidate: RunView, task: str, pairs: Pairs, planned: int, settings: ComparisonSettings
) -> tuple[PairwiseComparison, ...]:
    """Return the pairwise judgings in which the candidate was compared with this baseline."""
    against = baseline.manifest.engine.sha256
    return tuple(
        compare_pairs(
            name,
            judge,
            candidate.judgments.get(name, ()),
            pairs.baseline,
            pairs.candidate,
            planned=planned,
            generations=samples(baseline.manifest.tasks[task]),
            level=settings.level,
        )
        for name, judge in sorted(candidate.manifest.judges.items())
        if judged_task(name) == task and judge.mode == "pairwise" and judge.opponent_sha256 == against
    )
