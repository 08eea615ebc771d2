"""Probabilities over the choices: soft accuracy, KL, change of log p, agreement, on examples worked by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.records import ChoiceReply

LOG3 = math.log(3.0)


def replied(run: Any, *replies: tuple[tuple[float, ...], int | None]) -> Any:
    """The run with its records' log-probabilities and right choices replaced, in order."""
    records = tuple(
        replace(
            record,
            reply=ChoiceReply(
                logprobs=logprobs, greedy=(False,) * len(logprobs), target=target, lengths=(1,) * len(logprobs)
            ),
        )
        for record, (logprobs, target) in zip(run.records["mmlu"], replies, strict=True)
    )
    return replace(run, records={"mmlu": records})


@pytest.fixture
def runs(made: ModuleType) -> tuple[Any, Any]:
    """Two items of two choices; probabilities (1/2, 1/2) and (3/4, 1/4) become (3/4, 1/4) and (1/4, 3/4)."""
    left = replied(made.make_run("baseline", marks=np.array([1.0, 1.0]), seed=1), ((-1.0, -1.0), 0), ((0.0, -LOG3), 0))
    right = replied(
        made.make_run("candidate", marks=np.array([1.0, 0.0]), seed=2), ((-2.0, -2.0 - LOG3), 0), ((-LOG3, 0.0), 0)
    )
    return left, right


def test_the_shift_of_a_hand_made_example(runs: tuple[Any, Any]) -> None:
    shift = compare(*runs, "mmlu").shift
    assert shift is not None
    assert shift.n == 2
    assert shift.baseline_soft_accuracy == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert shift.candidate_soft_accuracy == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert shift.log_probability_change == pytest.approx((math.log(1.5) + math.log(1 / 3)) / 2)
    first = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    second = 0.75 * math.log(3.0) + 0.25 * math.log(1 / 3.0)
    assert shift.divergence == pytest.approx((first + second) / 2)
    assert shift.top1_agreement == pytest.approx(0.5)  # the first of two equal choices counts as the favourite


def test_soft_accuracy_is_compared_pair_by_pair(runs: tuple[Any, Any]) -> None:
    soft = compare(*runs, "mmlu").soft
    assert soft is not None
    assert (soft.n, soft.scale) == (2, (0.0, 1.0))
    assert soft.baseline_mean == pytest.approx(0.625)
    assert soft.candidate_mean == pytest.approx(0.5)
    assert soft.difference == pytest.approx(-0.125)
    assert soft.sd == pytest.approx(math.sqrt(2) * 0.375)  # differences +1/4 and -1/2
    assert (soft.higher, soft.equal, soft.lower) == (1, 0, 1)


def test_a_missing_probability_is_filled_with_nothing_and_with_everything(made: ModuleType) -> None:
    left = replied(made.make_run("baseline", marks=np.array([1.0, 1.0]), seed=1), ((0.0, -LOG3), 0), ((-1.0, -1.0), 0))
    right = replied(
        made.make_run("candidate", marks=np.array([1.0, 1.0]), seed=2), ((0.0, -LOG3), 0), ((-1.0, -1.0), 0)
    )
    second = right.records["mmlu"][1]
    failed = replace(second, status="failed", failure="timeout: 60 s", reply=None, marks={})
    right = replace(right, records={"mmlu": (right.records["mmlu"][0], failed)})
    soft = compare(left, right, "mmlu").soft
    assert soft is not None
    assert soft.differences.observed.tolist() == [0.0]
    assert sorted(soft.differences.unfavourable) == pytest.approx([-0.5, 0.0])
    assert sorted(soft.differences.favourable) == pytest.approx([0.0, 0.5])


def test_items_with_different_numbers_of_choices_are_averaged_item_by_item(made: ModuleType) -> None:
    uniform = [((0.0,) * k, 0) for k in (2, 4, 4)]
    left = replied(made.make_run("baseline", marks=np.ones(3), seed=1), *uniform)
    right = replied(made.make_run("candidate", marks=np.ones(3), seed=2), *uniform)
    comparison = compare(left, right, "mmlu")
    assert comparison.faults == ()
    assert comparison.shift is not None
    assert comparison.shift.n == 3
    assert comparison.shift.baseline_soft_accuracy == pytest.approx((1 / 2 + 1 / 4 + 1 / 4) / 3)
    assert comparison.shift.divergence == pytest.approx(0.0)


@pytest.mark.parametrize(
    "other", [((0.0, -1.0, -2.0), 0), ((0.0, -1.0), 1)], ids=["one choice more", "another right choice"]
)
def test_a_pair_scored_on_different_choices_is_not_comparable(made: ModuleType, other: Any) -> None:
    same = ((0.0, -1.0), 0)
    left = replied(made.make_run("baseline", marks=np.ones(2), seed=1), same, same)
    right = replied(made.make_run("candidate", marks=np.ones(2), seed=2), same, other)
    comparison = compare(left, right, "mmlu")
    (fault,) = comparison.faults
    assert fault.code == "not-comparable"
    assert right.records["mmlu"][1].key in fault.message
    assert comparison.shift is None
    assert comparison.soft is None


def test_a_right_choice_that_does_not_exist_is_a_fault_not_a_crash(made: ModuleType) -> None:
    impossible = ((0.0, -1.0), 7)
    left = replied(made.make_run("baseline", marks=np.ones(2), seed=1), impossible, impossible)
    right = replied(made.make_run("candidate", marks=np.ones(2), seed=2), impossible, impossible)
    assert [fault.code for fault in compare(left, right, "mmlu").faults] == ["estimate"]


def test_items_without_a_right_choice_have_no_soft_accuracy(made: ModuleType) -> None:
    unknown = ((0.0, -1.0), None)
    left = replied(made.make_run("baseline", marks=np.ones(2), seed=1), unknown, unknown)
    right = replied(made.make_run("candidate", marks=np.ones(2), seed=2), unknown, unknown)
    comparison = compare(left, right, "mmlu")
    assert comparison.soft is None
    assert comparison.shift is None
    assert comparison.proportion is not None
