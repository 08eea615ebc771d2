"""What is missing is counted by side and by reason, and filled both ways; it is never wrong by itself."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare

NAN = np.nan


def failing(run: Any, failure: str) -> Any:
    """The run with its first record failed in the given way."""
    first, *rest = run.records["mmlu"]
    failed = replace(first, status="failed", failure=failure, reply=None, marks={})
    return replace(run, records={"mmlu": (failed, *rest)})


def without(run: Any, *places: int, task: str = "mmlu") -> Any:
    """The run without the records at some places."""
    kept = tuple(record for at, record in enumerate(run.records[task]) if at not in places)
    return replace(run, records={**run.records, task: kept})


def test_failed_absent_and_unmarked_items_are_counted_apart_for_each_side(made: ModuleType) -> None:
    left = without(made.make_run("baseline", marks=np.array([1.0, 1.0, NAN, 0.0, 1.0, 1.0]), seed=1), 3)
    right = made.make_run("candidate", marks=np.array([NAN, 1.0, 1.0, 1.0, NAN, 0.0]), seed=2)
    unmarked = replace(right.records["mmlu"][5], marks={"acc_norm": 1.0})
    right = replace(right, records={"mmlu": (*right.records["mmlu"][:5], unmarked)})
    coverage = compare(left, right, "mmlu").coverage
    assert (coverage.baseline.planned, coverage.baseline.scored) == (6, 4)
    assert (coverage.baseline.failed, coverage.baseline.absent) == ({"transport": 1}, 1)
    assert (coverage.candidate.scored, coverage.candidate.absent) == (3, 0)
    assert coverage.candidate.failed == {"transport": 2, "no-mark": 1}
    assert coverage.candidate.missing == 3
    assert coverage.candidate.missing_share == pytest.approx(0.5)
    assert coverage.excluded == {
        "baseline-absent": 1,
        "baseline-failed": 1,
        "candidate-failed": 2,
        "candidate-no-mark": 1,
    }


def test_planned_items_that_neither_side_has_are_excluded_too(made: ModuleType) -> None:
    left = without(made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0, 1.0]), seed=1), 3)
    right = without(made.make_run("candidate", marks=np.array([1.0, 1.0, 0.0, 1.0]), seed=2), 3)
    comparison = compare(left, right, "mmlu")
    assert comparison.planned == 4
    assert comparison.coverage.excluded == {"baseline-absent": 1, "candidate-absent": 1}


def test_both_fills_keep_every_planned_pair_and_lean_opposite_ways(made: ModuleType) -> None:
    # pairs: (1,1) (1,0) (0,1) (0,0), then baseline missing (-,1) (-,0), candidate missing (1,-) (0,-), both (-,-),
    # and one that neither run has a record of.
    left = np.array([1.0, 1.0, 0.0, 0.0, NAN, NAN, 1.0, 0.0, NAN, 1.0])
    right = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0, NAN, NAN, NAN, 1.0])
    found = compare(
        without(made.make_run("baseline", marks=left, seed=1), 9),
        without(made.make_run("candidate", marks=right, seed=2), 9),
        "mmlu",
    ).proportion
    tables = [(t.n11, t.n10, t.n01, t.n00) for t in (found.observed, found.unfavourable, found.favourable)]
    assert tables[0] == (1, 1, 1, 1)
    # missing baseline right, missing candidate wrong: (1,1) (1,0) (1,0) (0,0) (1,0) (1,0)
    assert tables[1] == (2, 5, 1, 2)
    # missing baseline wrong, missing candidate right: (0,1) (0,0) (1,1) (0,1) (0,1) (0,1)
    assert tables[2] == (2, 1, 5, 2)


def test_nothing_missing_makes_all_three_tables_equal(made: ModuleType) -> None:
    left, right = made.outcomes(200, rho=0.1, difference=0.0, seed=1)
    found = compare(made.make_run("b", marks=left, seed=1), made.make_run("c", marks=right, seed=2), "mmlu").proportion
    assert found.observed == found.unfavourable == found.favourable


def test_if_every_request_failed_nothing_is_observed_and_both_fills_remain(made: ModuleType) -> None:
    comparison = compare(
        made.make_run("baseline", marks=np.array([1.0, 0.0]), seed=1),
        made.make_run("candidate", marks=np.array([NAN, NAN]), seed=2),
        "mmlu",
    )
    assert comparison.proportion.observed is None
    assert comparison.proportion.effects is None
    assert comparison.proportion.unfavourable.difference == pytest.approx(-0.5)
    assert comparison.proportion.favourable.difference == pytest.approx(0.5)
    assert comparison.coverage.candidate.missing_share == 1.0


@pytest.mark.parametrize("failure", ["non-finite: logit 3 is nan", "missing-token: no token for D", "marking: no key"])
def test_a_broken_engine_is_a_fault_not_a_missing_answer(made: ModuleType, failure: str) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    right = failing(made.make_run("candidate", marks=np.array([1.0, 1.0, 1.0]), seed=2), failure)
    (fault,) = compare(left, right, "mmlu").faults
    assert fault.code == "non-finite"
    assert fault.message.startswith("candidate: 1 record(s)")
    assert failure in fault.message
    (mirrored,) = compare(right, left, "mmlu").faults
    assert mirrored.message.startswith("baseline:")


def test_a_timeout_is_missing_and_no_fault(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    right = failing(made.make_run("candidate", marks=np.array([1.0, 1.0, 1.0]), seed=2), "timeout: 60 s")
    comparison = compare(left, right, "mmlu")
    assert comparison.faults == ()
    assert comparison.coverage.candidate.failed == {"timeout": 1}


def test_nothing_planned_is_a_fault_and_no_estimate(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.zeros(0))
    comparison = compare(left, made.make_run("candidate", marks=np.zeros(0)), "mmlu")
    assert [fault.code for fault in comparison.faults] == ["estimate"]
    assert comparison.proportion is None
    assert comparison.coverage.baseline.missing_share == 1.0
