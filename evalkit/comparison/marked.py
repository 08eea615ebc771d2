"""The parts of a comparison of marked items: accuracy, other metrics, probabilities, answers.

In: paired records and a metric. Out: fields of a `Comparison`, and faults.
May not know: manifests, judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evalkit.comparison.answers import compare_answers
from evalkit.comparison.choices import compare_soft_accuracy, distribution_shift
from evalkit.comparison.coverage import Coverage, pair_exclusions, side_coverage
from evalkit.comparison.means import fill, mean_comparison
from evalkit.comparison.pairing import Pairs
from evalkit.comparison.proportions import compare_proportions
from evalkit.comparison.runs import Fault
from evalkit.comparison.settings import ComparisonSettings
from evalkit.comparison.units import UnitCodes
from evalkit.errors import EstimateError
from evalkit.records import Record, TaskRun
from evalkit.statistics.checks import Floats


def marked_parts(
    run: TaskRun,
    pairs: Pairs,
    codes: UnitCodes,
    settings: ComparisonSettings,
    faults: list[Fault],
    *,
    lower_is_better: bool,
) -> dict[str, Any]:
    """Return the parts of a `Comparison` that marked items have; adds to `faults` what forbids judging.

    Where less is better the marks are turned round first: every difference is then an improvement if it is positive.
    """
    metric = settings.metric or run.metric
    left, right = _marks(pairs.baseline, metric), _marks(pairs.candidate, metric)
    comparable = not any(fault.code == "not-comparable" for fault in faults)
    exclusions = {**pairs.excluded, **pair_exclusions(pairs.baseline, pairs.candidate, metric, pairs.unseen)}
    parts: dict[str, Any] = {
        "planned": pairs.planned,
        "coverage": Coverage(
            baseline=side_coverage(pairs.baseline, pairs.planned, metric),
            candidate=side_coverage(pairs.candidate, pairs.planned, metric),
            baseline_judgments=None,
            candidate_judgments=None,
            excluded=dict(sorted(exclusions.items())),
        ),
        "answers": compare_answers(pairs.baseline, pairs.candidate, metric=metric, unseen=pairs.unseen),
    }
    try:
        if comparable:
            parts["soft"] = compare_soft_accuracy(
                pairs.baseline, pairs.candidate, pairs.unseen, level=settings.level, codes=codes
            )
            parts["shift"] = distribution_shift(pairs.baseline, pairs.candidate)
        scale = run.score_range if metric == run.metric else None
        sides = (left, right)
        parts.update(_estimates(metric, sides, scale, pairs, codes, settings, lower_is_better=lower_is_better))
    except EstimateError as error:
        faults.append(Fault(code="estimate", message=f"metric '{metric}': {error}"))
    return parts


def _estimates(
    metric: str,
    sides: tuple[Floats, Floats],
    declared: tuple[float, float] | None,
    pairs: Pairs,
    codes: UnitCodes,
    settings: ComparisonSettings,
    *,
    lower_is_better: bool,
) -> dict[str, Any]:
    left, right = sides
    values = np.concatenate([left, right])
    values = values[~np.isnan(values)]
    if np.isin(values, (0.0, 1.0)).all():
        left, right = (1.0 - left, 1.0 - right) if lower_is_better else (left, right)
        found = compare_proportions(
            left,
            right,
            [key[0] for key in pairs.keys],
            pairs.unseen,
            margin=settings.margin,
            subjects_q=settings.subjects_q,
            seed=settings.seed,
            codes=codes,
        )
        return {"proportion": found}
    scale = declared or (0.0, 1.0)
    if declared is not None and (values.min() < scale[0] or values.max() > scale[1]):
        raise EstimateError(
            f"a value of {float(max(values, key=lambda value: abs(value - sum(scale) / 2))):g} lies outside the range "
            f"{scale[0]:g} to {scale[1]:g} that the task declares; next step: mend score_range in the task file"
        )
    if values.min() < scale[0] or values.max() > scale[1]:
        if values.size < 2 * pairs.planned:
            raise EstimateError("some values lie outside 0 to 1, so no bound is known to fill the missing ones with")
        scale = (float(values.min()), float(values.max()))
    if lower_is_better:
        left, right = scale[0] + scale[1] - left, scale[0] + scale[1] - right
    differences = fill(left, right, pairs.unseen, scale)
    return {"mean": mean_comparison(metric, left, right, differences, scale=scale, level=settings.level, codes=codes)}


def _marks(records: Sequence[Record | None], metric: str) -> Floats:
    found = [None if record is None else record.marks.get(metric) for record in records]
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)
