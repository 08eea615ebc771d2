"""A published number in place of a baseline: unpaired, wide, and never silent about it."""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import PublishedAccuracy, compare_aggregate
from evalkit.comparison.means import independent_interval
from evalkit.errors import DataError, EstimateError

CARD = PublishedAccuracy(accuracy=0.86, items=14042, source="model card")


def wilson(k: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    p, centre = k / n, (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(n * p * (1 - p) + z * z / 4)
    return centre - half, centre + half


def test_the_interval_is_newcombes_from_two_wilson_intervals() -> None:
    (l_c, u_c), (l_b, u_b) = wilson(56, 70), wilson(48, 80)
    d = 56 / 70 - 48 / 80
    found = independent_interval(56, 70, 48, 80)
    assert found.lower == pytest.approx(d - math.hypot(56 / 70 - l_c, u_b - 48 / 80))
    assert found.upper == pytest.approx(d + math.hypot(u_c - 56 / 70, 48 / 80 - l_b))


def test_unpaired_the_worked_example_is_far_wider_than_paired(made: ModuleType) -> None:
    marks = np.repeat([1.0, 0.0], [12035, 2007])
    found = compare_aggregate(CARD, made.make_run("candidate", marks=marks), "mmlu")
    assert 100 * found.candidate_accuracy == pytest.approx(85.71, abs=0.005)
    assert 100 * found.difference == pytest.approx(-0.29, abs=0.01)
    assert 100 * found.interval.lower == pytest.approx(-1.107, abs=0.01)  # as the protocol says of the unpaired view
    assert found.warning.startswith("UNPAIRED")
    assert "model card" in found.warning
    assert "never certify" in found.warning


def test_missing_items_are_counted_and_not_estimated(made: ModuleType) -> None:
    found = compare_aggregate(CARD, made.make_run("candidate", marks=np.array([1.0, np.nan, 0.0, 1.0])), "mmlu")
    assert found.candidate_accuracy == pytest.approx(2 / 3)
    assert (found.coverage.planned, found.coverage.scored, found.coverage.failed) == (4, 3, {"transport": 1})
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("accuracy", [math.nan, math.inf, -0.1, 1.1, 86.0])
def test_a_published_accuracy_that_is_no_proportion_is_refused(accuracy: float) -> None:
    with pytest.raises(EstimateError, match="a proportion from 0 to 1"):
        PublishedAccuracy(accuracy=accuracy, items=100, source="card")


@pytest.mark.parametrize("missing", [{"items": 1}, {"source": " "}])
def test_a_published_accuracy_needs_items_and_a_source(missing: dict[str, Any]) -> None:
    with pytest.raises(EstimateError, match="needs its source"):
        PublishedAccuracy(**{"accuracy": 0.5, "items": 100, "source": "card", **missing})


@pytest.mark.parametrize("marks", [[1.0], [np.nan, np.nan, 1.0], [0.5, 1.0, 0.0]], ids=["one", "failed", "graded"])
def test_too_few_or_graded_marks_have_no_interval(made: ModuleType, marks: list[float]) -> None:
    with pytest.raises(EstimateError, match="at least 2 are needed"):
        compare_aggregate(CARD, made.make_run("candidate", marks=np.array(marks)), "mmlu")


def test_a_task_the_run_lacks_is_named(made: ModuleType) -> None:
    with pytest.raises(DataError, match="'gsm8k' is not in the run"):
        compare_aggregate(CARD, made.make_run("candidate", marks=np.ones(4)), "gsm8k")
