"""The aggregate numbers of a run, as Every Eval Ever 0.3 writes them.

In: a run, a task. Out: one entry of `evaluation_results`; the mean score of each judged question.
May not know: files.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from evalkit.errors import DataError
from evalkit.records import JudgeRun, TaskRun
from evalkit.statistics.proportions import wilson_interval
from evalkit.store import Run

_LEVEL = 0.95

Place = tuple[str, str, int]
"""Subject, digest, occurrence of a question."""


def result_of(run: Run, task: str) -> dict[str, Any]:
    """Return the entry of one task: its score, its interval, how it was measured."""
    asked, judge = run.manifest.tasks[task], run.manifest.judges.get(task)
    scores = list(question_scores(run, task).values()) if judge is not None else _marks(run, task)
    return {
        "evaluation_result_id": result_id(run, task),
        "evaluation_name": task,
        "source_data": _source(task, asked),
        "metric_config": _metric(asked, judge),
        "score_details": _score(scores, binary=set(scores) <= {0.0, 1.0}),
        "generation_config": {"additional_details": _settings(asked)},
    }


def result_id(run: Run, task: str) -> str:
    """Return the name by which rows are joined to their aggregate."""
    return f"{task}:{run.manifest.tasks[task].metric}"


def question_scores(run: Run, task: str) -> dict[Place, float]:
    """Return the mean rating of each judged question over turns, generations and repeats; unrated ones are left out."""
    found: dict[Place, list[float]] = defaultdict(list)
    for judgment in run.judgments.get(task, ()):
        if judgment.score is not None:
            found[judgment.subject, judgment.item_sha256, judgment.occurrence].append(judgment.score)
    return {place: math.fsum(scores) / len(scores) for place, scores in found.items()}


def _marks(run: Run, task: str) -> list[float]:
    metric = run.manifest.tasks[task].metric
    return [record.marks[metric] for record in run.records[task] if metric in record.marks]


def _source(task: str, asked: TaskRun) -> dict[str, Any]:
    details = {str(key): str(value) for key, value in asked.dataset.items() if not str(value).startswith("local ")}
    return {
        "source_type": "other",
        "dataset_name": str(asked.dataset.get("asset") or task),
        "additional_details": details,
    }


def _metric(asked: TaskRun, judge: JudgeRun | None) -> dict[str, Any]:
    common = {
        "evaluation_description": f"protocol {asked.protocol}, {asked.shots} shots",
        "metric_id": asked.metric,
        "metric_name": asked.metric,
        "lower_is_better": False,
        "score_type": "continuous",
    }
    if judge is None:
        return {**common, "metric_kind": "accuracy", "metric_unit": "proportion", "min_score": 0, "max_score": 1}
    return {
        **common,
        "metric_kind": "rating",
        "metric_unit": "points",
        "min_score": judge.scale[0],
        "max_score": judge.scale[1],
        "llm_scoring": {
            "judges": [
                {
                    "model_info": {
                        "name": judge.identity.model,
                        "id": judge.identity.model,
                        "additional_details": {
                            "deployment_type": "unknown",
                            "model_availability": "unknown",
                            "identity_sha256": judge.identity.sha256,
                        },
                    }
                }
            ],
            "input_prompt": f"profile {judge.profile}, sha256 {judge.profile_sha256}",
            "aggregation_method": "average",
            "additional_details": {"judgments of each answer": str(judge.repeats)},
        },
    }


def _score(scores: list[float], *, binary: bool) -> dict[str, Any]:
    if not scores:
        raise DataError("no item has a score, and this format demands one")
    mean = math.fsum(scores) / len(scores)
    uncertainty: dict[str, Any] = {"num_samples": len(scores)}
    if binary:
        interval = wilson_interval(round(math.fsum(scores)), len(scores), level=_LEVEL)
        limits = {"lower": interval.lower, "upper": interval.upper, "confidence_level": _LEVEL, "method": "wilson"}
        uncertainty["confidence_interval"] = limits
    elif len(scores) > 1:
        deviation = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))
        uncertainty["standard_deviation"] = deviation
        uncertainty["standard_error"] = {"value": deviation / math.sqrt(len(scores)), "method": "analytic"}
    return {"score": mean, "uncertainty": uncertainty}


def _settings(asked: TaskRun) -> dict[str, str]:
    told: Mapping[str, Any] = {**asked.settings, "protocol": asked.protocol, "shots": asked.shots}
    return {str(key): value if isinstance(value, str) else repr(value) for key, value in sorted(told.items())}
