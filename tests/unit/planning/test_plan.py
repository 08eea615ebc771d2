"""Plans against the tables of the protocol, and every reason not to promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from evalkit.errors import UsageError
from evalkit.planning import NO_CERTIFICATE, Plan, impossible, plan, refuse_impossible
from evalkit.policy import Policy
from evalkit.statistics.tango import tango_scores

MakePolicy = Callable[..., Policy]
TABLE = {
    # discordance: detectable margin (approximate), power at margin 0.5 if equal, at 1.0 for 0 / -0.25 / -0.5 points
    0.01: (0.236, 1.000, (1.000, 1.000, 1.000)),
    0.03: (0.409, 0.926, (1.000, 0.999, 0.922)),
    0.06: (0.579, 0.676, (0.998, 0.951, 0.674)),
    0.10: (0.748, 0.465, (0.963, 0.801, 0.464)),
}


def only(planned: Plan, name: str):
    return next(one for one in planned.endpoints if one.name == name)


@pytest.mark.parametrize("rho", TABLE)
def test_mmlu_powers_are_those_of_the_protocol(rho: float, make_policy: MakePolicy) -> None:
    detectable, near, comparable = TABLE[rho]
    mmlu = only(plan(make_policy(mt_bench=None), {}, discordance={"mmlu": rho}), "mmlu")
    wide, narrow = mmlu.margins
    assert mmlu.measured
    assert mmlu.spread == rho
    assert detectable - 0.0005 < mmlu.detectable < 1.02 * detectable  # the table's is the normal approximation
    assert [truth.true_difference for truth in wide.powers] == [0.0, -0.25, -0.5]
    assert [truth.passes for truth in wide.powers] == pytest.approx(comparable, abs=0.0015)
    assert narrow.equal.passes == pytest.approx(near, abs=0.0015)
    assert (wide.minimum, narrow.minimum) == (381, 765)
    assert (wide.claim, narrow.claim) == ("comparable", "near-lossless")


def test_items_needed_are_those_of_the_protocol(make_policy: MakePolicy) -> None:
    wide, narrow = only(plan(make_policy(mt_bench=None), {}, discordance={"mmlu": 0.03}), "mmlu").margins
    assert wide.needed == pytest.approx(2480, rel=0.005)
    assert narrow.needed == pytest.approx(9540, rel=0.005)
    assert wide.needed_exact
    wide, narrow = only(plan(make_policy(mt_bench=None), {}, discordance={"mmlu": 0.10}), "mmlu").margins
    assert (narrow.needed, narrow.needed_exact) == (31396, False)
    assert wide.needed_exact


@pytest.mark.parametrize(("rho", "true", "fails"), [(0.03, -1.25, 0.41), (0.06, -1.5, 0.68), (0.10, -2.0, 0.96)])
def test_the_curve_holds_the_chance_to_fail(rho: float, true: float, fails: float, make_policy: MakePolicy) -> None:
    curve = only(plan(make_policy(mt_bench=None), {}, discordance={"mmlu": rho}), "mmlu").curve
    assert {truth.true_difference: truth.fails for truth in curve}[true] == pytest.approx(fails, abs=0.006)
    assert [truth.passes for truth in curve] == sorted(truth.passes for truth in curve)
    assert [truth.fails for truth in curve] == sorted((truth.fails for truth in curve), reverse=True)


@pytest.mark.parametrize(
    ("n", "rho", "margin", "true"), [(600, 0.1, 3.0, 0.0), (1200, 0.05, 2.0, -0.5), (2000, 0.08, 2.0, -1.0)]
)
def test_planned_power_is_what_simulated_runs_show(
    n: int, rho: float, margin: float, true: float, make_policy: MakePolicy
) -> None:
    mmlu = {"items": n, "margins_points": [margin]}
    planned = only(plan(make_policy(mmlu=mmlu, mt_bench=None), {}, discordance={"mmlu": rho}), "mmlu")
    share = {truth.true_difference: truth.passes for truth in planned.margins[0].powers}[true]
    p = ((rho - true / 100) / 2, (rho + true / 100) / 2)
    draws = np.random.default_rng(5).multinomial(n, (*p, 1 - rho), size=40_000)
    z = tango_scores(draws[:, 0], draws[:, 1], n, -margin / 100)
    assert share == pytest.approx(float(np.mean(z > 1.959964)), abs=0.01)


def test_a_discordance_smaller_than_a_loss_leaves_that_loss_out(make_policy: MakePolicy) -> None:
    planned = only(plan(make_policy(mt_bench=None), {}, discordance={"mmlu": 0.003}), "mmlu")
    assert [truth.true_difference for truth in planned.margins[0].powers] == [0.0, -0.25]
    assert all(abs(truth.true_difference) <= 0.3 for truth in planned.curve)


def test_a_sound_plan_promises(make_policy: MakePolicy) -> None:
    planned = plan(make_policy(guards={"length_ratio": [0.5, 2.0]}), {}, discordance={"mmlu": 0.03})
    assert planned.promises
    assert planned.warnings == ()
    mt_bench = only(planned, "mt_bench")
    assert planned.certify_power == pytest.approx(mt_bench.power, abs=0.02)
    assert mt_bench.margins[0].equal.passes == pytest.approx(0.85, abs=0.005)
    assert mt_bench.margins[0].needed == 71
    assert mt_bench.margins[0].largest_sd == pytest.approx(1.07, abs=0.005)


def test_too_few_items_for_a_perfect_copy_are_named(make_policy: MakePolicy) -> None:
    policy = make_policy(mt_bench=None, mmlu={"margins_points": [1.0]})
    assert "even a perfect copy" in plan(policy, {"mmlu": 380}).warnings[0]
    assert "at least 381" in plan(policy, {"mmlu": 380}).warnings[0]
    assert "even a perfect copy" not in plan(policy, {"mmlu": 381}).warnings[0]
    several = plan(policy, {"mmlu": 400}, recipes=4).warnings[0]
    assert "Holm" in several
    assert not plan(policy, {"mmlu": 400}, recipes=4).promises


def test_several_recipes_are_planned_at_the_first_step_of_holm(make_policy: MakePolicy) -> None:
    one, two = (plan(make_policy(), {}, discordance={"mmlu": 0.03}, recipes=m) for m in (1, 2))
    assert only(two, "mmlu").first_step_alpha == 0.0125
    assert only(two, "mt_bench").first_step_alpha == 0.025
    assert only(one, "mt_bench").power > 0.8 > only(two, "mt_bench").power
    assert one.promises
    assert not two.promises
    assert "first step of Holm" in two.warnings[0]
    assert only(two, "mt_bench").judging.low_power is False


@pytest.mark.parametrize(
    ("choice", "promises", "decides", "words"),
    [
        ("cap", False, True, "no verdict better than INCONCLUSIVE"),
        ("effort", False, True, "refuses to start"),
        ("advisory", True, False, "without gating"),
    ],
)
def test_low_power_of_ratings_has_the_consequence_the_policy_chose(
    choice: str, promises: bool, decides: bool, words: str, make_policy: MakePolicy
) -> None:
    policy = make_policy(mt_bench={"planning_sd": 1.4, "low_power_choice": choice})
    planned = plan(policy, {}, discordance={"mmlu": 0.03})
    mt_bench = only(planned, "mt_bench")
    assert mt_bench.judging.low_power
    assert words in mt_bench.judging.consequence
    assert planned.promises is promises
    assert mt_bench.decides is decides
    assert any("137 questions would be needed" in warning for warning in planned.warnings)
    assert mt_bench.power == (0.0 if decides else pytest.approx(0.60, abs=0.005))


def test_judge_calls_count_questions_turns_generations_judgments_and_runs(make_policy: MakePolicy) -> None:
    assert only(plan(make_policy(), {}, recipes=2), "mt_bench").judging.calls == 80 * 2 * 1 * 3 * 3
    policy = make_policy(mt_bench={"generations": 3})
    assert only(plan(policy, {}, recipes=1, judgments=2), "mt_bench").judging.calls == 80 * 2 * 3 * 2 * 2


def test_endpoints_are_bounded_together(make_policy: MakePolicy) -> None:
    """Each passes often enough; both together need not. Drawn, they pass together as often as independent ones do."""
    policy = make_policy(mmlu={"margins_points": [1.0]}, guards={"length_ratio": [0.5, 2.0]})
    planned = plan(policy, {"mmlu": 5000}, discordance={"mmlu": 0.06})
    powers = [one.power for one in planned.endpoints]
    assert min(powers) > 0.8
    assert planned.certify_power == pytest.approx(powers[0] * powers[1], abs=0.02)
    assert not planned.promises
    assert "together" in planned.warnings[0]


def test_a_control_that_may_not_fail_is_named(make_policy: MakePolicy) -> None:
    weak = {"control_loss_points": 1.2, "required": ["control"]}
    policy = make_policy(mt_bench=None, assay=weak)
    planned = plan(policy, {}, discordance={"mmlu": 0.03})
    assert not planned.promises
    assert "assay-failed" in planned.warnings[0]
    assert plan(make_policy(mt_bench=None, assay={**weak, "control": "not-certified"}), {}).promises
    assert plan(make_policy(mt_bench=None, assay={**weak, "required": []}), {}).promises
    control = only(planned, "mmlu").control
    assert 0.0 < control.fails < control.does_not_pass <= 1.0


def test_soft_accuracy_is_planned_in_points_by_its_standard_deviation(make_policy: MakePolicy) -> None:
    planned = plan(make_policy(soft={}), {}, planning_sd={"soft": 0.05})
    soft = only(planned, "soft")
    assert soft.spread == pytest.approx(5.0)
    # An effect of 1 point with a standard error of 5/sqrt(1000) points.
    normal = 0.5 * math.erfc(-(1.0 / (5 / math.sqrt(1000)) - 1.959964) / math.sqrt(2))
    assert soft.margins[0].equal.passes == pytest.approx(normal, abs=0.002)
    assert soft.margins[0].minimum == 368
    assert not soft.decides


def test_all_recipes_together_are_drawn_through_holm_and_guards(make_policy: MakePolicy) -> None:
    """Two independent recipes pass Holm together if both are below alpha and one below half of it."""
    policy = make_policy(mt_bench={"planning_sd": 0.9}, guards={"length_ratio": [0.5, 2.0]})
    planned = plan(policy, {}, discordance={"mmlu": 0.03}, recipes=2)
    t = np.random.default_rng(3).normal(0.0, 0.9, (20_000, 80))
    t = (t.mean(axis=1) + 0.3) / (t.std(axis=1, ddof=1) / math.sqrt(80))
    alone, first = float(np.mean(t > 1.6644)), float(np.mean(t > 1.9905))
    assert planned.certify_power == pytest.approx(alone**2 - (alone - first) ** 2, abs=0.03)
    assert planned.reach.each > planned.reach.every
    assert plan(policy, {}, discordance={"mmlu": 0.03}, recipes=2) == planned  # seeded
    jumpy = make_policy(mt_bench={"planning_sd": 0.9}, guards={"gain_rating": 0.01})
    guarded = plan(jumpy, {}, discordance={"mmlu": 0.03}, recipes=2)
    assert guarded.reach.guarded > 0.01
    assert guarded.certify_power < planned.certify_power


def test_ratings_that_assume_nothing_are_drawn_with_their_bet(make_policy: MakePolicy) -> None:
    policy = make_policy(mt_bench={"assumption": "none", "questions": 120})
    few = only(plan(policy, {"mmlu": 14042}, discordance={"mmlu": 0.03}), "mt_bench")
    assert few.margins[0].minimum == 89
    assert few.margins[0].equal.passes < 0.7  # Student's t alone would pass 0.94
    assert 120 < few.margins[0].needed < 240
    assert few.margins[0].needed_exact is False
    wide = plan(policy, {"mmlu": 14042, "mt_bench": 300}, discordance={"mmlu": 0.03})
    assert only(wide, "mt_bench").size == 300
    assert only(wide, "mt_bench").margins[0].equal.passes > 0.95


def test_a_policy_that_could_never_certify_is_impossible(make_policy: MakePolicy) -> None:
    strict = make_policy(mt_bench={"assumption": "none"})
    assert plan(strict, {}, discordance={"mmlu": 0.03}).impossible  # 80 questions, 89 are the least
    assert not plan(make_policy(), {}, discordance={"mmlu": 0.03}).impossible
    assert not plan(make_policy(certifies=False, mt_bench={"assumption": "none"}), {}).impossible


def test_what_is_taken_for_granted_is_said_in_numbers(make_policy: MakePolicy) -> None:
    (said,) = plan(make_policy(), {}, recipes=2).assumptions
    assert f"up to {100 * (1 - 0.025 ** (1 / 80)):.1f} % of the answers have collapsed" in said
    assert plan(make_policy(mt_bench={"assumption": "none"}), {"mt_bench": 300}).assumptions == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mmlu": {"items": 300}}, "mmlu: with 300 items even a perfect copy cannot pass a margin of 1 points"),
        ({"mt_bench": {"assumption": "none"}}, "mt_bench: with 80 questions even a perfect copy cannot pass"),
        ({"guards": {"length_ratio": [0.5, 0.9]}}, "mt_bench: answers of the baseline's own length breach"),
    ],
)
def test_what_nobody_could_pass_is_refused_at_the_policys_own_size(
    changes: dict[str, object], why: str, make_policy: MakePolicy
) -> None:
    policy = make_policy(**changes)
    with pytest.raises(UsageError, match=f"{NO_CERTIFICATE}: {why}"):
        refuse_impossible(policy, {}, recipes=1)
    assert impossible(policy, {}, recipes=1) == plan(policy, {}).impossible
    refuse_impossible(make_policy(**changes, certifies=False), {}, recipes=1)
    refuse_impossible(make_policy(), {}, recipes=1)


def test_one_recipe_can_be_certified_and_many_never(make_policy: MakePolicy) -> None:
    policy = make_policy(mmlu={"items": 500})
    refuse_impossible(policy, {}, recipes=1)
    with pytest.raises(UsageError, match="first step of Holm's correction"):
        refuse_impossible(policy, {}, recipes=8)


@pytest.mark.parametrize(("answers", "lowest", "highest"), [(10, 0.0, 0.0), (20, 0.33, 0.45), (30, 0.84, 0.93)])
def test_a_good_judge_qualifies_as_often_as_an_independent_simulation_says(
    answers: int, lowest: float, highest: float, make_policy: MakePolicy
) -> None:
    """Ranking 95 %, resistance 97 %: 39 % at 20 questions and 91 % at 30 in a simulation that is not ours."""
    judged = make_policy(judge={"qualification": "required"}, mt_bench={"planning_sd": 0.6})
    planned = plan(judged, {}, discordance={"mmlu": 0.03}, trial=answers)
    assert planned.trial is not None
    assert lowest <= planned.trial.qualifies <= highest
    assert planned.promises == (planned.trial.qualifies >= 0.8)
    assert any("qualifies with probability" in line for line in planned.warnings) == (not planned.promises)
    assert plan(judged, {}, discordance={"mmlu": 0.03}, trial=answers) == planned


def test_a_stricter_bar_costs_a_good_judge_its_qualification(make_policy: MakePolicy) -> None:
    bars = {"noise_sd_max": 0.4, "ranking_lower_min": 0.5, "resistance_lower_min": 0.5}
    planned = plan(make_policy(judge={"qualification": "required", "bars": bars}), {}, trial=30)
    assert planned.trial.missed["noise"] > 0.5 > planned.trial.missed["ranking"]
    with_people = {"agreement_lower_min": 0.85}
    planned = plan(make_policy(judge={"qualification": "required", "bars": with_people}), {}, trial=30)
    assert planned.trial.missed["agreement"] > 0.9
    assert plan(make_policy(judge=None), {}, trial=30).trial is None


def test_guards_on_length_and_on_unreadable_answers_are_in_the_drawn_verdict(make_policy: MakePolicy) -> None:
    flips = {"mmlu": 0.03}
    as_shipped = plan(make_policy(), {}, discordance=flips).reach
    narrow = plan(make_policy(guards={"length_ratio": [0.99, 1.01]}), {}, discordance=flips).reach
    assert narrow.guarded > as_shipped.guarded + 0.3
    strict = plan(make_policy(guards={"unreadable_max": 0.005}), {}, discordance=flips).reach
    assert strict.guarded > as_shipped.guarded + 0.002
    marked = make_policy(mt_bench=None, mmlu={"items": 2000}, guards={"invalid_points": 0.1})
    scored = plan(marked, {}, discordance=flips).reach
    written = plan(marked, {}, discordance=flips, written=["mmlu"]).reach
    assert scored.guarded == 0 < written.guarded < 0.1


def test_a_mean_without_a_range_is_refused(make_policy: MakePolicy) -> None:
    policy = make_policy(mt_bench={"metric": "rouge"})
    with pytest.raises(UsageError, match="score_range"):
        plan(policy, {})
    assert plan(policy, {}, ranges={"mt_bench": (0.0, 1.0)}).endpoints


def test_what_does_not_gate_warns_and_never_blocks(make_policy: MakePolicy) -> None:
    planned = plan(make_policy(mt_bench={"gating": False, "planning_sd": 2.0}), {}, discordance={"mmlu": 0.03})
    assert planned.promises
    assert planned.warnings[0].startswith("mt_bench (not gating): ")


def test_policies_that_certify_nothing_promise_nothing(make_policy: MakePolicy) -> None:
    assert not plan(make_policy(certifies=False), {}, discordance={"mmlu": 0.03}).promises
    nothing = plan(make_policy(mmlu={"gating": False}, mt_bench={"gating": False}), {})
    assert nothing.certify_power is None
    assert any("no-endpoint" in warning for warning in nothing.warnings)
    assert plan(make_policy(), {}, discordance={"mmlu": 0.03}, gaps=["no judge"]).warnings == ("no judge",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"items": {"mmul": 3}}, "did you mean 'mmlu'"),
        ({"discordance": {"mt_bench": 0.1}}, "by a standard deviation"),
        ({"planning_sd": {"mmlu": 0.1}}, "by discordance"),
        ({"discordance": {"mmlu": 0.0}}, "above 0"),
        ({"discordance": {"mmlu": float("nan")}}, "above 0"),
        ({"planning_sd": {"mt_bench": float("inf")}}, "standard deviation"),
        ({"items": {"mmlu": 1}}, "at least 2"),
        ({"recipes": 0}, "at least 1"),
    ],
)
def test_values_that_make_no_sense_are_refused_by_name(
    given: dict[str, object], message: str, make_policy: MakePolicy
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(make_policy(), **{"items": {}, **given})


def test_sizes_nobody_knows_are_asked_for_together(make_policy: MakePolicy) -> None:
    with pytest.raises(UsageError, match=r"mmlu, mt_bench.*--items mmlu=N"):
        plan(make_policy(mmlu={"items": None}, mt_bench={"questions": None}), {})


def test_a_control_cannot_lose_more_than_it_flips(make_policy: MakePolicy) -> None:
    with pytest.raises(UsageError, match="control_discordance"):
        plan(make_policy(assay={"control_loss_points": 20.0}), {})


def test_plain_data_is_json_without_rounding(make_policy: MakePolicy) -> None:
    planned = plan(make_policy(), {})
    data = json.loads(json.dumps(planned.to_dict(), allow_nan=False))
    assert data["endpoints"][0]["margins"][0]["powers"][0]["passes"] == only(planned, "mmlu").margins[0].equal.passes
    assert data["policy"] == "planned"


def test_a_plan_says_what_it_leaves_out(make_policy: MakePolicy) -> None:
    policy = make_policy(mt_bench=None)
    asked = {"cluster": "passage", "recovery_min": 0.99}
    changed = policy.model_copy(update={"endpoints": {"mmlu": policy.endpoints["mmlu"].model_copy(update=asked)}})
    notes = " ".join(only(plan(changed, {}, discordance={"mmlu": 0.03}), "mmlu").notes)
    assert "'passage'" in notes
    assert "a margin of 1 points" in notes
    assert "passage" not in " ".join(only(plan(policy, {}, discordance={"mmlu": 0.03}), "mmlu").notes)
