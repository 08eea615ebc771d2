"""A comparison as a whole: every endpoint, plain JSON, the same whatever is asked twice, negated when swapped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare, compare_endpoints, to_plain
from evalkit.errors import DataError


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner)
    elif isinstance(value, float):
        yield value


@pytest.fixture
def runs(made: ModuleType) -> tuple[Any, Any]:
    marks = made.outcomes(200, rho=0.1, difference=-0.02, seed=1)
    scores = made.chat_scores(10, shift=-0.3, seed=2, repeats=2)
    left = made.make_run("baseline", marks=marks[0], scores=scores[0], seed=1)
    return left, made.make_run("candidate", marks=marks[1], scores=scores[1], seed=2)


@pytest.mark.parametrize("task", ["mmlu", "mt-bench"])
def test_a_comparison_is_json_without_nan_and_reads_back_the_same(runs: tuple[Any, Any], task: str) -> None:
    plain = compare(*runs, task).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert all(math.isfinite(number) for number in numbers(plain))


@pytest.mark.parametrize("marks", [[np.nan] * 3, [1.0, np.nan, np.nan], [1.0, 1.0, 1.0]], ids=["none", "one", "equal"])
def test_a_comparison_of_almost_nothing_is_json_too(made: ModuleType, marks: list[float]) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, 1.0, 1.0]), scores=np.full((2, 2, 1), 5.0), seed=1)
    right = made.make_run("candidate", marks=np.array(marks), scores=np.full((2, 2, 1), np.nan), seed=2)
    for task in ("mmlu", "mt-bench", "gsm8k"):
        json.dumps(compare(left, right, task).to_dict(), allow_nan=False)


def test_arrays_for_tests_stay_out_of_json(runs: tuple[Any, Any]) -> None:
    plain = compare(*runs, "mt-bench").to_dict()
    assert "differences" not in plain["rating"]["mean"]
    assert "differences" in plain  # the named differences between the two runs


def test_swapping_the_runs_negates_every_difference(runs: tuple[Any, Any]) -> None:
    there, back = compare(*runs, "mmlu"), compare(*reversed(runs), "mmlu")
    assert there.proportion is not None
    assert back.proportion is not None
    assert there.proportion.effects is not None
    assert back.proportion.effects is not None
    a, b = there.proportion.effects, back.proportion.effects
    assert a.difference == pytest.approx(-0.02)
    assert b.difference == -a.difference
    assert (b.interval.lower, b.interval.upper) == pytest.approx((-a.interval.upper, -a.interval.lower))
    chat, tahc = compare(*runs, "mt-bench").rating, compare(*reversed(runs), "mt-bench").rating
    assert chat is not None
    assert tahc is not None
    assert tahc.mean.difference == pytest.approx(-chat.mean.difference)  # type: ignore[operator]


def test_every_endpoint_of_a_policy_is_compared_under_its_own_name(made: ModuleType, runs: tuple[Any, Any]) -> None:
    found = compare_endpoints(made.policy("release"), *runs)
    assert {name: (c.endpoint, c.task, c.metric) for name, c in found.items()} == {
        "mmlu": ("mmlu", "mmlu", "acc"),
        "mt_bench": ("mt_bench", "mt-bench", "rating"),
    }


def test_a_comparison_names_who_was_compared(runs: tuple[Any, Any]) -> None:
    comparison = compare(*runs, "mmlu")
    assert (comparison.baseline.name, comparison.candidate.name) == ("baseline", "candidate")
    assert comparison.candidate.identity_sha256 == runs[1].manifest.engine.sha256
    assert comparison.candidate.fidelity == "simulated"


@dataclass(frozen=True)
class Odd:
    value: Any


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.int64(3), {1, 2}, b"x"])
def test_what_has_no_json_form_is_refused(value: Any) -> None:
    with pytest.raises(DataError):
        to_plain(Odd(value))
