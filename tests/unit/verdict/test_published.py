"""A published number for a baseline: it can reject, stay open or be refused, and it never certifies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evalkit.comparison import PublishedAccuracy
from evalkit.errors import EstimateError, ExitCode, UsageError
from evalkit.policy import Policy, load_policy
from evalkit.verdict import EndpointState, Outcome, decide_unpaired

N = 4_000


def rules() -> Policy:
    """The release policy on fewer items."""
    policy = load_policy("release")
    smaller = policy.endpoints["mmlu"].model_copy(update={"items": N})
    return policy.model_copy(update={"endpoints": {**policy.endpoints, "mmlu": smaller}})


def published(accuracy: float, items: int = 14_042) -> dict[str, PublishedAccuracy]:
    return {"mmlu": PublishedAccuracy(accuracy=accuracy, items=items, source="model card")}


def run_with(made: Any, accuracy: float, failed: int = 0, n: int = N) -> Any:
    marks = (np.arange(n) < round(accuracy * n)).astype(float)
    if failed:
        marks[-failed:] = np.nan
    return made.make_run("candidate", marks=marks)


def decided(made: Any, candidate: float, baseline: float, **changes: Any) -> Any:
    return decide_unpaired(rules(), published(baseline), run_with(made, candidate, **changes), "candidate")


@pytest.mark.parametrize("candidate", [0.80, 0.86, 0.862, 0.90])
def test_no_accuracy_ever_certifies(made: Any, candidate: float) -> None:
    decision = decided(made, candidate, 0.862)
    assert decision.outcome is not Outcome.CERTIFIED
    assert decision.exit_code is not ExitCode.CERTIFIED
    assert all(result.state is not EndpointState.PASS for result in decision.results)


def test_a_loss_far_beyond_the_margin_rejects(made: Any) -> None:
    decision = decided(made, 0.80, 0.862)
    assert decision.outcome is Outcome.REJECTED
    assert [reason.code for reason in decision.reasons] == ["endpoint-fail"]


def test_an_equal_candidate_stays_inconclusive_and_is_told_to_run_the_baseline(made: Any) -> None:
    decision = decided(made, 0.862, 0.862)
    assert decision.outcome is Outcome.INCONCLUSIVE
    (reason,) = decision.reasons
    assert reason.code == "unpaired"
    assert "run the baseline" in reason.message
    assert decision.not_compared == ("mt_bench",)


def test_rejecting_must_hold_with_every_missing_answer_counted_right(made: Any) -> None:
    # 20 of 4,000 missing is just within the policy's 0.5 %.
    complete = decided(made, 0.8378, 0.862)
    holed = decided(made, 0.8378, 0.862, failed=20)
    assert complete.outcome is Outcome.REJECTED
    assert holed.results[0].rejecting_interval.upper > complete.results[0].rejecting_interval.upper
    assert holed.outcome is Outcome.INCONCLUSIVE


def test_too_many_missing_answers_are_invalid(made: Any) -> None:
    decision = decided(made, 0.862, 0.862, failed=21)
    assert decision.outcome is Outcome.INVALID
    assert "coverage" in {reason.code for reason in decision.reasons}


def test_another_number_of_items_than_the_policy_wants_is_invalid(made: Any) -> None:
    decision = decided(made, 0.80, 0.862, n=200)
    assert decision.outcome is Outcome.INVALID
    assert decision.exit_code is ExitCode.INVALID


def test_without_a_number_there_is_nothing_to_judge(made: Any) -> None:
    decision = decide_unpaired(rules(), {}, run_with(made, 0.86), "candidate")
    assert decision.outcome is Outcome.INVALID
    assert [reason.code for reason in decision.reasons] == ["no-endpoint"]


def test_a_number_needs_an_accuracy_endpoint_of_the_policy(made: Any) -> None:
    numbers = {"mmul": PublishedAccuracy(accuracy=0.86, items=N, source="model card")}
    with pytest.raises(UsageError, match="did you mean 'mmlu'"):
        decide_unpaired(rules(), numbers, run_with(made, 0.86), "candidate")


@pytest.mark.parametrize(
    ("accuracy", "items", "source"), [(1.2, N, "card"), (float("nan"), N, "card"), (0.8, 1, "card")]
)
def test_a_published_number_must_be_one(accuracy: float, items: int, source: str) -> None:
    with pytest.raises(EstimateError):
        PublishedAccuracy(accuracy=accuracy, items=items, source=source)
