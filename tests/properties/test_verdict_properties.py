"""What must hold for every pair of runs, whatever order, side, recipe or gap (protocol, section 18)."""

from __future__ import annotations

import importlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evalkit.comparison import Comparison, compare, compare_endpoints, settings_for
from evalkit.errors import EstimateError
from evalkit.policy import ResolvedPolicy, SoftAccuracyEndpoint, bind, load_policy
from evalkit.verdict import EndpointState, Evidence, Outcome, Verdict, decide
from evalkit.verdict.endpoints import evaluate
from evalkit.verdict.outcome import OUTCOMES, endpoint_states, holm_rejections, outcomes, recipe_p

FILE = Path(__file__).resolve().parents[1] / "synthetic_runs.py"
ITEMS, QUESTIONS = 40, 30
NAN = float("nan")
CERTIFIED, REJECTED = Outcome.CERTIFIED, Outcome.REJECTED
PASS, OPEN = EndpointState.PASS, EndpointState.OPEN
few = settings(derandomize=True, deadline=None, max_examples=30)
many = settings(derandomize=True, deadline=None, max_examples=300)


@cache
def made() -> Any:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@cache
def policy(recipes: tuple[str, ...] = ("candidate",)) -> ResolvedPolicy:
    """40 items under 20 and 15 points, 30 questions under 1 point of rating; half of everything may be missing."""
    loaded = load_policy("release").model_copy(update={"judge": None})
    mmlu = loaded.endpoints["mmlu"].model_copy(update={"items": ITEMS, "margins_points": (20.0, 15.0)})
    chat = loaded.endpoints["mt_bench"].model_copy(
        update={**made().GREEDY, "questions": QUESTIONS, "judgments": 1, "margin": 1.0, "planning_sd": 0.9}
    )
    soft = SoftAccuracyEndpoint(
        kind="soft_accuracy",
        task="mmlu",
        metric="acc",
        protocol="ll-5shot",
        items=ITEMS,
        gating=False,
        alpha=0.025,
        margins_points=(20.0, 15.0),
    )
    changed = {
        "endpoints": {"mmlu": mmlu, "mt_bench": chat, "soft": soft},
        "missing": loaded.missing.model_copy(update={"items_max": 0.5, "judgments_max": 0.5}),
        "assay": loaded.assay.model_copy(update={"required": ()}),
    }
    return bind(loaded.model_copy(update=changed), "baseline", recipes)


def run(name: str, marks: Any, scores: Any, *, seed: int = 3, recipe: str | None = None, tokens: int = 100) -> Any:
    shaped = np.asarray(scores, dtype=float).reshape(QUESTIONS, 2, 1)
    sha256 = policy().sha256 if name == "candidate" else None
    how = {"seed": seed, "recipe": recipe, "tokens": tokens, "policy_sha256": sha256}
    return made().make_run(name, marks=np.asarray(marks, dtype=float), scores=shaped, **how)


BASE_MARKS = np.tile([1.0, 1.0, 1.0, 0.0], ITEMS // 4)
BASE_SCORES = np.array([1.0, 1.0, *np.tile([5.0, 6.0, 7.0, 6.0], QUESTIONS // 2 - 1), 10.0, 10.0])
"""Two scores for each question; the first question can only rise, the last only fall."""

flips = st.lists(st.integers(0, ITEMS - 1), max_size=24, unique=True)
gaps = st.lists(st.integers(0, ITEMS - 1), max_size=8, unique=True)
holes = st.lists(st.integers(0, 2 * QUESTIONS - 1), max_size=5, unique=True)


def scores_after(moved: Any) -> np.ndarray:
    return np.clip(BASE_SCORES + moved, 1.0, 10.0)


def marks_after(flipped: list[int]) -> np.ndarray:
    marks = BASE_MARKS.copy()
    marks[flipped] = 1.0 - marks[flipped]
    return marks


def varies(moved: list[int]) -> bool:
    return float(np.ptp((scores_after(moved) - BASE_SCORES).reshape(-1, 2).mean(axis=1))) > 0.0


moves = st.lists(st.integers(-3, 3), min_size=2 * QUESTIONS, max_size=2 * QUESTIONS).filter(varies)


@cache
def baseline() -> Any:
    return run("baseline", BASE_MARKS, BASE_SCORES, seed=1)


def compared(baseline: Any, candidate: Any) -> dict[str, Comparison]:
    return compare_endpoints(policy(), baseline, candidate)


def states(name: str, baseline: Any, candidate: Any) -> list[EndpointState]:
    """The state at every margin; OPEN where no test can be made."""
    found = compare(baseline, candidate, policy().endpoints[name].task, settings_for(policy(), name))
    try:
        return [step.state for step in evaluate(policy(), name, found).steps]
    except EstimateError:
        return [OPEN, OPEN]


def rated(name: str, scores: np.ndarray) -> Any:
    """A run with ratings alone."""
    return made().make_run(name, scores=scores.reshape(QUESTIONS, 2, 1))


@few
@given(flips, moves, st.randoms(use_true_random=False))
def test_the_order_of_items_never_matters(flipped: list[int], moved: list[int], random: Any) -> None:
    candidate = run("candidate", marks_after(flipped), scores_after(moved))
    records = {task: list(found) for task, found in candidate.records.items()}
    judgments = {task: list(found) for task, found in candidate.judgments.items()}
    for found in (*records.values(), *judgments.values()):
        random.shuffle(found)
    shuffled = replace(candidate, records=records, judgments=judgments)
    before, after = compared(baseline(), candidate), compared(baseline(), shuffled)
    assert {name: found.to_dict() for name, found in before.items()} == {
        name: found.to_dict() for name, found in after.items()
    }


@few
@given(flips, moves)
def test_swapping_the_runs_negates_every_difference(flipped: list[int], moved: list[int]) -> None:
    candidate = run("candidate", marks_after(flipped), scores_after(moved))
    ours, theirs = compared(baseline(), candidate), compared(candidate, baseline())
    for name in ours:
        one, other = (evaluate(policy(), name, found[name]) for found in (ours, theirs))
        assert one.difference == pytest.approx(-other.difference, abs=1e-12)
        assert (one.interval.lower, one.interval.upper) == pytest.approx(
            (-other.interval.upper, -other.interval.lower), abs=1e-9
        )
        assert (one.baseline_value, one.candidate_value) == pytest.approx((other.candidate_value, other.baseline_value))


@few
@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=ITEMS, max_size=ITEMS))
def test_a_run_against_itself_has_no_difference_and_passes_as_a_rerun(marks: list[float]) -> None:
    required = policy().policy.assay.model_copy(update={"required": ("aa",)})
    bound = bind(policy().policy.model_copy(update={"release": None, "assay": required}), "baseline", ["candidate"])
    one = run("baseline", marks, BASE_SCORES, seed=1)
    found = compare_endpoints(bound, one, run("baseline-rerun", marks, BASE_SCORES, seed=1, recipe="baseline"))
    assert found["mmlu"].proportion.effects.difference == 0.0
    assert (found["mmlu"].proportion.observed.n10, found["mmlu"].proportion.observed.n01) == (0, 0)
    assert found["mt_bench"].rating.mean.difference == 0.0
    assert found["soft"].soft.difference == 0.0
    decision = decide(bound, Evidence(candidates={}, rerun=found))
    assert [(check.check, check.passed) for check in decision.assay.checks if check.check == "aa"] == [("aa", True)] * 2
    assert decision.assay.passed


@few
@given(st.permutations(["a", "b", "c"]), st.lists(st.tuples(flips, moves, st.booleans()), min_size=3, max_size=3))
def test_the_order_of_recipes_never_matters(order: list[str], drawn: list[tuple[list[int], list[int], bool]]) -> None:
    bound = policy(("a", "b", "c"))
    candidates = {}
    for name, (flipped, moved, ran) in zip("abc", drawn, strict=True):
        candidate = run(name, marks_after(flipped), scores_after(moved))
        candidate = replace(candidate, manifest=replace(candidate.manifest, policy_sha256=bound.sha256))
        if ran:
            candidates[name] = compare_endpoints(bound, baseline(), candidate)
    shuffled = {name: candidates[name] for name in order if name in candidates}
    first, second = (decide(bound, Evidence(candidates=found)) for found in (candidates, shuffled))
    assert first.to_dict() == second.to_dict()
    assert [verdict.recipe for verdict in first.verdicts] == ["a", "b", "c"]


@few
@given(flips, gaps, gaps)
@example(list(range(0, 40, 4)), [], list(range(8)))
def test_hiding_items_creates_no_pass_and_no_failure(flipped: list[int], left: list[int], right: list[int]) -> None:
    before, after = BASE_MARKS.copy(), marks_after(flipped)
    scores = scores_after(np.arange(2 * QUESTIONS) % 3)
    whole = {name: states(name, baseline(), run("candidate", after, scores)) for name in ("mmlu", "soft")}
    before[left], after[right] = NAN, NAN
    runs = run("baseline", before, BASE_SCORES, seed=1), run("candidate", after, scores)
    for name, found in whole.items():
        for full, part in zip(found, states(name, *runs), strict=True):
            assert part in (full, OPEN)


# A question whose gain of 9 spreads the differences, so that t is small: its lowest score in the candidate is no gain
# at all, and the spread is gone. The same for a loss of 9.
GAIN = [9.0, 9.0, *[-0.85, -1.35, -0.35, -0.85] * 14, -0.85, -0.85]
LOSS = [0.0, 0.0, *[-1.22] * 56, -9.0, -9.0]


@settings(few, max_examples=150)
@given(moves, holes, holes)
@example(GAIN, [], [0, 1])
@example(LOSS, [], [58, 59])
def test_hiding_judgments_creates_no_pass_and_no_failure(moved: list[int], left: list[int], right: list[int]) -> None:
    before, after = BASE_SCORES.copy(), scores_after(moved)
    whole = states("mt_bench", rated("baseline", before), rated("candidate", after))
    before[left], after[right] = NAN, NAN
    hidden = states("mt_bench", rated("baseline", before), rated("candidate", after))
    for full, part in zip(whole, hidden, strict=True):
        assert part in (full, OPEN)


@settings(few, max_examples=150)
@given(st.data())
def test_no_score_in_the_place_of_a_missing_one_could_undo_a_pass_or_a_failure(data: Any) -> None:
    """The same from the other side: data with holes that PASS or FAIL, and the holes filled in any way."""
    centre = data.draw(st.sampled_from([-3.0, -2.0, 0.0, 1.0]))
    wobble = data.draw(st.lists(st.floats(-1.0, 1.0), min_size=2 * QUESTIONS, max_size=2 * QUESTIONS))
    after = scores_after(centre + np.array(wobble))
    places = data.draw(st.lists(st.integers(0, 2 * QUESTIONS - 1), min_size=1, max_size=3, unique=True))
    holed = after.copy()
    holed[places] = NAN
    shown = states("mt_bench", rated("baseline", BASE_SCORES), rated("candidate", holed))
    after[places] = data.draw(st.lists(st.floats(1.0, 10.0), min_size=len(places), max_size=len(places)))
    filled = states("mt_bench", rated("baseline", BASE_SCORES), rated("candidate", after))
    for part, full in zip(shown, filled, strict=True):
        assert part in (full, OPEN)


@few
@given(flips, moves, gaps, holes)
def test_hiding_answers_never_shows_what_all_answers_do_not(
    flipped: list[int], moved: list[int], items: list[int], judgments: list[int]
) -> None:
    marks, scores = marks_after(flipped), scores_after(moved)
    whole = verdict(run("candidate", marks, scores))
    marks[items], scores[judgments] = NAN, NAN
    hidden = verdict(run("candidate", marks, scores)).outcome
    if hidden is REJECTED:
        assert whole.outcome is REJECTED
    if hidden is CERTIFIED:
        assert all(result.state is PASS for result in whole.endpoints if result.role.gating)


def verdict(candidate: Any) -> Verdict:
    return decide(policy(), Evidence(candidates={"candidate": compared(baseline(), candidate)})).verdicts[0]


@few
@given(flips, moves, st.sampled_from([50, 85, 115, 300]))
def test_guards_never_promote(flipped: list[int], moved: list[int], tokens: int) -> None:
    marks, scores = marks_after(flipped), scores_after(moved)
    quiet = verdict(run("candidate", marks, scores)).outcome
    breached = verdict(run("candidate", marks, scores, tokens=tokens)).outcome
    assert breached is (Outcome.INCONCLUSIVE if quiet is CERTIFIED else quiet)


# ---- the gate on plain arrays

codes = st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4)
RANK = {Outcome.REJECTED: 0, Outcome.INCONCLUSIVE: 1, Outcome.CERTIFIED: 2}


@many
@given(codes, st.data(), st.booleans(), st.booleans())
def test_a_better_endpoint_never_makes_a_worse_outcome(found: list[int], data: Any, holm: bool, demoted: bool) -> None:
    better = [data.draw(st.integers(state, 1)) for state in found]
    worse, improved = (OUTCOMES[outcomes(each, holm, False, demoted)] for each in (found, better))
    assert RANK[improved] >= RANK[worse]


@many
@given(codes, st.booleans(), st.booleans())
def test_a_demotion_or_a_correction_never_makes_a_better_outcome(found: list[int], holm: bool, demoted: bool) -> None:
    free = OUTCOMES[outcomes(found, True, False, False)]
    bound = OUTCOMES[outcomes(found, holm, False, demoted)]
    assert RANK[bound] <= RANK[free]
    assert (bound is REJECTED) == (free is REJECTED)
    assert OUTCOMES[outcomes(found, holm, True, demoted)] is Outcome.INVALID


@many
@given(st.floats(-6, 6), st.floats(0, 3), st.floats(0.1, 3))
def test_a_state_never_falls_as_the_statistic_rises(statistic: float, more: float, critical: float) -> None:
    assert endpoint_states(statistic + more, statistic + more, critical) >= endpoint_states(
        statistic, statistic, critical
    )


p_values = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@many
@given(p_values, st.data())
def test_another_recipe_in_the_family_never_helps(p: list[float], data: Any) -> None:
    more = data.draw(p_values)
    alone, together = holm_rejections(p, 0.05), holm_rejections([*p, *more], 0.05)[: len(p)]
    assert not np.any(together & ~alone)


@many
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5), st.randoms())
def test_corrections_follow_their_recipes(p: list[tuple[float, float]], random: Any) -> None:
    order = list(range(len(p)))
    random.shuffle(order)
    values = recipe_p(np.array(p), [0.025, 0.05], 0.05)
    assert holm_rejections(values[order], 0.05).tolist() == holm_rejections(values, 0.05)[order].tolist()
