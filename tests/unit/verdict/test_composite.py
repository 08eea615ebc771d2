"""A composite of six tasks through `decide`: what passes, what fails, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.comparison import compare_endpoints
from evalkit.policy import Policy, ResolvedPolicy, bind
from evalkit.verdict import EndpointState, Evidence, Outcome, Verdict, decide
from evalkit.verdict.composite import evaluate_composite

SIZES = {"science": 198, "math": 500, "grade": 800, "format": 541, "general": 1_500, "reading": 400}


def document(**changes: Any) -> dict[str, Any]:
    parts = {name: {"floor_points": 8.0} for name in SIZES}
    composite = {"alpha": 0.025, "margins_points": [2.0, 1.0], "parts": parts, **changes}
    endpoint = {"kind": "paired_proportion", "metric": "acc", "protocol": "ll-5shot", "gating": False, "alpha": 0.025}
    return {
        "policy_version": 1,
        "name": "six",
        "tier": "test",
        "claims": ["close", "closer"],
        "assay": {"required": []},
        "endpoints": {name: {**endpoint, "task": name, "margins_points": [2.0]} for name in SIZES},
        "composites": {"overall": composite},
    }


def bound(recipes: int = 1, **changes: Any) -> ResolvedPolicy:
    policy = Policy.model_validate(copy.deepcopy(document(**changes)))
    return bind(policy, "baseline", [f"recipe-{at}" for at in range(recipes)])


def outcomes(lost: Mapping[str, int] | None = None, gained: Mapping[str, int] | None = None) -> Any:
    """Marks of the baseline and of a candidate; ten items in a thousand flip each way where nothing is said."""
    base, moved = {}, {}
    for at, (name, n) in enumerate(SIZES.items()):
        rng = np.random.default_rng(at)
        marks = (rng.permutation(n) < 0.7 * n).astype(float)
        changed = marks.copy()
        losses, gains = (lost or {}).get(name, round(0.01 * n)), (gained or {}).get(name, round(0.01 * n))
        changed[rng.choice(np.flatnonzero(marks == 1.0), losses, replace=False)] = 0.0
        changed[rng.choice(np.flatnonzero(marks == 0.0), gains, replace=False)] = 1.0
        base[name], moved[name] = marks, changed
    return base, moved


@pytest.fixture(scope="session")
def judged(made: ModuleType) -> Any:
    def judge(policy: ResolvedPolicy, *sides: Any, change: Any = None) -> Verdict:
        base, moved = sides or outcomes()
        baseline = made.make_tasks_run("baseline", base, seed=1)
        run = made.make_tasks_run("recipe-0", moved, seed=2, policy_sha256=policy.sha256)
        compared = compare_endpoints(policy, baseline, run if change is None else change(run))
        return decide(policy, Evidence(candidates={"recipe-0": compared})).verdicts[0]

    return judge


def codes(verdict: Verdict) -> list[str]:
    return list(dict.fromkeys(reason.code for reason in verdict.reasons))


def overall(verdict: Verdict) -> Any:
    return next(result for result in verdict.endpoints if result.kind == "composite")


def test_what_six_gates_cannot_certify_the_composite_does(judged: Any) -> None:
    verdict = judged(bound())
    assert (verdict.outcome, verdict.claim) == (Outcome.CERTIFIED, "closer")
    found = overall(verdict)
    assert (found.difference, found.pairs) == (pytest.approx(0.0, abs=1e-12), sum(SIZES.values()))
    assert [part.weight for part in found.parts] == [pytest.approx(1 / 6)] * 6
    assert sum(part.variance_share for part in found.parts) == pytest.approx(1.0)
    alone = [result.state for result in verdict.endpoints if result.kind != "composite"]
    assert EndpointState.OPEN in alone  # the same data, task by task, do not pass

    everything = document()
    everything["composites"] = {}
    for endpoint in everything["endpoints"].values():
        endpoint["gating"] = True
    assert judged(bind(Policy.model_validate(everything), "baseline", ["recipe-0"])).outcome is not Outcome.CERTIFIED


def test_the_weighted_mean_is_the_sum_of_weighted_differences(judged: Any) -> None:
    weights = dict(zip(SIZES, (0.3, 0.2, 0.2, 0.1, 0.1, 0.1), strict=True))
    parts = {name: {"weight": weight, "floor_points": 8.0} for name, weight in weights.items()}
    base, moved = outcomes(lost={"science": 9, "math": 13})
    found = overall(judged(bound(parts=parts), base, moved))
    by_hand = sum(weights[name] * float((moved[name] - base[name]).mean()) for name in SIZES)
    assert found.difference == pytest.approx(by_hand, abs=1e-12)
    assert found.interval.lower < by_hand < found.interval.upper
    squares = [(weights[name] / moved[name].size) ** 2 for name in SIZES]
    spread = [weights[name] ** 2 * np.var(moved[name] - base[name], ddof=1) / moved[name].size for name in SIZES]
    assert (found.interval.upper - found.interval.lower) / 2 / 1.972 == pytest.approx(
        np.sqrt(sum(squares) + sum(spread)), rel=1e-3
    )


def test_a_loss_of_the_whole_is_rejected_though_every_task_stays_within_its_floor(judged: Any) -> None:
    lost = {name: round(0.06 * n) for name, n in SIZES.items()}
    verdict = judged(bound(), *outcomes(lost=lost))
    assert (verdict.outcome, codes(verdict)) == (Outcome.REJECTED, ["endpoint-fail"])
    assert all(part.state is EndpointState.OPEN for part in overall(verdict).parts)


def test_a_task_below_its_floor_is_rejected_whatever_the_others_gained(judged: Any) -> None:
    gained = {name: round(0.05 * n) for name, n in SIZES.items() if name != "math"}
    verdict = judged(bound(), *outcomes(lost={"math": 70}, gained=gained))
    assert verdict.outcome is Outcome.REJECTED
    assert verdict.reasons[0].message == ("overall: math lost 13.00 points, surely more than its floor of 8")
    assert overall(verdict).difference > 0
    wide = {name: {"floor_points": 50.0} for name in SIZES}
    assert judged(bound(parts=wide), *outcomes(lost={"math": 70}, gained=gained)).outcome is not Outcome.REJECTED


def test_a_floor_is_never_passed_so_that_small_tasks_lose_nothing_by_it(judged: Any) -> None:
    """Science could not show a loss of less than 2 points in any case: its floor asks nothing of it."""
    tight = {name: {"floor_points": 2.0} for name in SIZES}
    assert judged(bound(parts=tight)).outcome is Outcome.CERTIFIED


def test_recovery_is_the_contrast_of_the_weighted_means(judged: Any) -> None:
    lost = {name: round(0.02 * n) for name, n in SIZES.items()}
    verdict = judged(bound(recovery_min=0.99), *outcomes(lost=lost))
    found = overall(verdict)
    assert found.recovery is not None
    assert found.recovery.ratio == pytest.approx(found.candidate_value / found.baseline_value)
    assert found.recovery.interval.lower < 0.99 < found.recovery.interval.upper
    assert (verdict.outcome, codes(verdict)) == (Outcome.INCONCLUSIVE, ["endpoint-open"])
    assert judged(bound(recovery_min=0.95), *outcomes(lost=lost)).outcome is Outcome.CERTIFIED
    worse = {name: round(0.05 * n) for name, n in SIZES.items()}
    assert judged(bound(recovery_min=0.99, margins_points=[7.9]), *outcomes(lost=worse)).outcome is Outcome.REJECTED


@pytest.mark.parametrize("ratio", [0.96, 0.985, 1.0, 1.01])
def test_recovery_s_interval_and_its_test_agree(judged: Any, ratio: float) -> None:
    """The interval is Fieller's: a ratio outside it is refused by the test at the interval's own level."""
    lost = {name: round(0.015 * n) for name, n in SIZES.items()}
    found = overall(judged(bound(recovery_min=min(ratio, 0.99), margins_points=[7.0]), *outcomes(lost=lost)))
    step, low = found.steps[0], found.recovery.interval.lower
    # Of symmetric differences the correction takes little, and the pseudo-mark a little more.
    assert (step.state is EndpointState.PASS) == (min(ratio, 0.99) < low - 1e-3) or abs(min(ratio, 0.99) - low) < 4e-3


def test_a_part_that_was_not_run_makes_it_invalid(judged: Any) -> None:
    def without(run: Any) -> Any:
        tasks = {name: task for name, task in run.manifest.tasks.items() if name != "format"}
        return replace(run, manifest=replace(run.manifest, tasks=tasks))

    verdict = judged(bound(), change=without)
    assert verdict.outcome is Outcome.INVALID
    assert "coverage" in codes(verdict)
    assert any("'format' is not in the run of the candidate" in reason.message for reason in verdict.reasons)


def test_holm_counts_every_recipe_of_the_release(judged: Any) -> None:
    lost = {name: round(0.0215 * n) for name, n in SIZES.items()}
    alone, four = (judged(bound(recipes), *outcomes(lost=lost)) for recipes in (1, 4))
    assert alone.outcome is Outcome.CERTIFIED
    assert four.p == pytest.approx(alone.p, rel=1e-9)
    assert (four.outcome, codes(four)) == (Outcome.INCONCLUSIVE, ["holm"])


def test_a_small_task_of_large_weight_is_too_few_and_the_message_names_the_weight(judged: Any) -> None:
    base, moved = outcomes()
    base["science"], moved["science"] = base["science"][:50], moved["science"][:50]
    one_point = {"margins_points": [1.0], "parts": {name: {"floor_points": 8.0} for name in SIZES}}
    verdict = judged(bound(**one_point), base, moved)
    assert (verdict.outcome, codes(verdict)) == (Outcome.INVALID, ["too-few"])
    assert "science has 50 independent items and a weight of 0.167; at least 60" in verdict.reasons[0].message
    assert "a weight of at most 0.141" in verdict.reasons[0].message
    assumed = judged(bound(**one_point, assumption="no-rare-collapse"), base, moved)
    assert assumed.outcome in (Outcome.INCONCLUSIVE, Outcome.CERTIFIED)


def test_what_is_taken_for_granted_is_said(made: ModuleType) -> None:
    policy = bound(margins_points=[1.0], assumption="no-rare-collapse")
    base, moved = outcomes()
    base["science"], moved["science"] = base["science"][:50], moved["science"][:50]
    runs = made.make_tasks_run("baseline", base, seed=1), made.make_tasks_run("recipe-0", moved, seed=2)
    decision = decide(policy, Evidence(candidates={"recipe-0": compare_endpoints(policy, *runs)}))
    said = [caution.message for caution in decision.cautions if caution.code == "assumption"]
    assert "science (50 items, weight 0.167): 7.1 %" in said[0]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hiding_answers_never_makes_a_pass_or_a_fail(made: ModuleType, data: st.DataObject) -> None:
    """Small tasks, near the margin, outliers hidden first: states may only move towards OPEN."""
    names, policy = list(SIZES)[:2], small()
    base, moved = {}, {}
    for name in names:
        n = data.draw(st.integers(30, 60))
        rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
        base[name] = (rng.random(n) < 0.7).astype(float)
        flip = rng.random(n) < data.draw(st.floats(0.02, 0.3))
        moved[name] = np.where(flip, 1.0 - base[name], base[name])
    whole = state(made, policy, base, moved)
    for side in (base, moved):
        name = data.draw(st.sampled_from(names))
        order = np.argsort(moved[name] - base[name], kind="stable")
        count = data.draw(st.integers(0, 3))
        hidden = order[:count] if data.draw(st.booleans()) else order[::-1][:count]
        side[name] = side[name].copy()
        side[name][hidden] = np.nan
    part = state(made, policy, base, moved)
    assert part in (EndpointState.OPEN, whole)


def small() -> ResolvedPolicy:
    names = list(SIZES)[:2]
    plain = document(parts={name: {"floor_points": 30.0} for name in names}, margins_points=[6.0])
    plain["endpoints"] = {name: plain["endpoints"][name] for name in names}
    plain["composites"]["overall"]["assumption"] = "no-rare-collapse"
    plain["missing"] = {"items_max": 0.5}
    return bind(Policy.model_validate(plain), "baseline", ["recipe-0"])


def state(made: ModuleType, policy: ResolvedPolicy, base: Any, moved: Any) -> EndpointState:
    runs = made.make_tasks_run("baseline", base, seed=1), made.make_tasks_run("recipe-0", moved, seed=2)
    found: EndpointState = evaluate_composite(policy, "overall", compare_endpoints(policy, *runs)).state
    return found
