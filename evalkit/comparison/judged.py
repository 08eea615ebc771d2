"""The parts of a comparison of judged conversations: ratings, answers, coverage of both.

In: two runs and their paired records. Out: fields of a `Comparison`, and faults.
May not know: margins, verdicts.
"""

from __future__ import annotations

from typing import Any

from evalkit.comparison.answers import compare_answers
from evalkit.comparison.conversations import RatingComparison, compare_ratings
from evalkit.comparison.coverage import Coverage, side_coverage
from evalkit.comparison.pairing import Pairs, samples
from evalkit.comparison.ratings import Scores, place_scores, score_grid
from evalkit.comparison.runs import Fault, RunView
from evalkit.comparison.settings import ComparisonSettings
from evalkit.records import JudgeRun


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
        "answers": compare_answers(pairs.baseline, pairs.candidate, truncation_counts=True),
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


def _ratings(
    baseline: RunView,
    candidate: RunView,
    judges: tuple[JudgeRun, JudgeRun],
    task: str,
    pairs: Pairs,
    planned: int,
    settings: ComparisonSettings,
) -> tuple[RatingComparison, tuple[Scores, Scores]]:
    left, right = baseline.judgments.get(task, ()), candidate.judgments.get(task, ())
    grid = score_grid(
        (pairs.baseline, pairs.candidate), judges[0], max(1, planned), samples(baseline.manifest.tasks[task])
    )
    before = place_scores("baseline", grid, pairs.baseline, left, judges[0])
    after = place_scores("candidate", grid, pairs.candidate, right, judges[1])
    rating = compare_ratings(
        grid,
        before,
        after,
        planned=planned,
        scale=(float(judges[0].scale[0]), float(judges[0].scale[1])),
        level=settings.level,
        drop=settings.drop,
        seed=settings.seed,
        judge=(judges[0].identity.model, judges[0].profile),
    )
    return rating, (before, after)
