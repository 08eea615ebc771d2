"""The rules of section 9 of the protocol in their order, over endpoints, guards and recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare_endpoints
from evalkit.errors import ExitCode
from evalkit.policy import SoftAccuracyEndpoint, bind, load_policy
from evalkit.verdict import EndpointState, Evidence, Outcome, decide
from evalkit.verdict.words import WEAKER

Make = Callable[..., Any]
SOFT = SoftAccuracyEndpoint(
    kind="soft_accuracy",
    task="mmlu",
    metric="acc",
    protocol="ll-5shot",
    items=800,
    gating=True,
    alpha=0.025,
    margins_points=(3.0, 2.0),
)


# ---- certified, and as what


def test_an_equal_candidate_is_certified_at_the_strongest_claim(bench: Any) -> None:
    decision = bench.decide()
    (verdict,) = decision.verdicts
    assert (verdict.outcome, verdict.claim, verdict.reasons) == (Outcome.CERTIFIED, f"near-lossless {WEAKER}", ())
    assert decision.exit_code is ExitCode.CERTIFIED
    assert decision.gating == ("mmlu", "mt_bench")


def test_missing_the_second_margin_leaves_the_first_claim(bench: Any) -> None:
    verdict = bench.verdict(bench.run(losses=20, gains=11))
    assert (verdict.outcome, verdict.claim) == (Outcome.CERTIFIED, f"comparable {WEAKER}")
    assert [step.state for step in verdict.endpoints[0].steps] == [EndpointState.PASS, EndpointState.OPEN]


def test_a_refuted_second_margin_is_a_note_and_no_rejection(make_bench: Make) -> None:
    bench = make_bench(mmlu={"margins_points": (3.0, 0.5)})
    verdict = bench.verdict(bench.run(losses=13, gains=0))
    assert (verdict.outcome, verdict.claim) == (Outcome.CERTIFIED, f"comparable {WEAKER}")
    assert "mmlu: the claim 'near-lossless' is refuted" in verdict.notes


def test_the_second_claim_is_never_reached_without_the_first(bench: Any) -> None:
    """Each step is a harder test of the same statistic, so a verdict without the first has no claim at all."""
    for losses in (12, 20, 30, 36, 60):
        verdict = bench.verdict(bench.run(losses=losses, gains=11))
        states = [step.state for step in verdict.endpoints[0].steps]
        assert (states[1] is not EndpointState.PASS) or (states[0] is EndpointState.PASS)
        assert (verdict.claim is None) == (verdict.outcome is not Outcome.CERTIFIED)


def test_a_claim_for_which_no_gating_endpoint_has_a_margin_is_never_made(make_bench: Make) -> None:
    bench = make_bench(mmlu={"margins_points": (3.0,)})
    verdict = bench.verdict()
    assert (verdict.outcome, verdict.claim) == (Outcome.CERTIFIED, f"comparable {WEAKER}")


def test_an_advisory_endpoint_lends_no_claim(make_bench: Make) -> None:
    bench = make_bench(mmlu={"gating": False})
    verdict = bench.verdict()
    assert (verdict.outcome, verdict.claim) == (Outcome.CERTIFIED, f"comparable {WEAKER}")
    assert "shown, and not part of the verdict: mmlu" in verdict.notes


@pytest.mark.parametrize(("losses", "gains", "word"), [(16, 4, "worse"), (4, 16, "better")])
def test_a_certified_difference_that_is_surely_there_is_said(bench: Any, losses: int, gains: int, word: str) -> None:
    # 16 to 4: two-sided mid-p of 4 heads in 20 tosses is 0.0074
    verdict = bench.verdict(bench.run(losses=losses, gains=gains))
    assert verdict.outcome is Outcome.CERTIFIED
    assert f"mmlu: within the margin, but measurably {word}" in verdict.notes


def test_a_difference_that_may_be_chance_is_not_said(bench: Any) -> None:
    verdict = bench.verdict(bench.run(losses=13, gains=8))
    assert verdict.outcome is Outcome.CERTIFIED
    assert not any("measurably" in note for note in verdict.notes)


def test_an_advisory_loss_beyond_the_margin_is_not_called_within_it(make_bench: Make) -> None:
    bench = make_bench(mmlu={"gating": False})
    verdict = bench.verdict(bench.run(losses=80, gains=0))
    assert verdict.outcome is Outcome.CERTIFIED
    assert not any("within the margin" in note for note in verdict.notes)


# ---- rejected


@pytest.mark.parametrize(
    ("how", "failed"),
    [
        ({"losses": 60}, ["mmlu"]),
        ({"mean": -1.0}, ["mt_bench"]),
        ({"losses": 60, "mean": -1.0}, ["mmlu", "mt_bench"]),
    ],
)
def test_one_failed_endpoint_is_enough_and_all_are_named(bench: Any, how: dict[str, Any], failed: list[str]) -> None:
    verdict = bench.verdict(bench.run(**how))
    assert verdict.outcome is Outcome.REJECTED
    assert [(reason.code, reason.endpoint) for reason in verdict.reasons] == [
        ("endpoint-fail", name) for name in failed
    ]


def test_rejection_needs_no_correction_for_many_recipes(make_bench: Make) -> None:
    bench = make_bench(recipes=("candidate", *(f"never-{number}" for number in range(20))))
    assert bench.verdict(bench.run(losses=52, gains=10)).outcome is Outcome.REJECTED


def test_a_rejected_recipe_is_rejected_although_a_cap_and_guards_apply(make_bench: Make) -> None:
    bench = make_bench(mt_bench={"planning_sd": 1.4})
    assert bench.verdict(bench.run(losses=60, tokens=200)).outcome is Outcome.REJECTED


# ---- inconclusive


def test_every_reason_is_listed(make_bench: Make) -> None:
    bench = make_bench(recipes=("candidate", "never"), mt_bench={"planning_sd": 1.4}, certifies=False)
    verdict = bench.verdict(bench.run(losses=18, gains=5, tokens=200))
    assert bench.codes(verdict) == ["power-cap", "guard:length", "not-certifying", "holm"]


def test_two_open_endpoints_are_both_named(bench: Any) -> None:
    verdict = bench.verdict(bench.run(losses=36, mean=-0.2))
    assert [(reason.code, reason.endpoint) for reason in verdict.reasons] == [
        ("endpoint-open", "mmlu"),
        ("endpoint-open", "mt_bench"),
    ]


@pytest.mark.parametrize("choice", ["cap", "effort"])
def test_a_cap_allows_no_certificate(make_bench: Make, choice: str) -> None:
    bench = make_bench(mt_bench={"planning_sd": 1.4, "low_power_choice": choice})
    verdict = bench.verdict()
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INCONCLUSIVE, ["power-cap"])
    assert all(result.state is EndpointState.PASS for result in verdict.endpoints)


def test_an_advisory_endpoint_decides_nothing_and_the_verdict_says_so(make_bench: Make) -> None:
    bench = make_bench(mt_bench={"planning_sd": 1.4, "low_power_choice": "advisory"})
    decision = bench.decide(bench.run(mean=-1.0, tokens=200))
    (verdict,) = decision.verdicts
    assert decision.gating == ("mmlu",)
    assert verdict.outcome is Outcome.CERTIFIED
    assert verdict.endpoints[1].state is EndpointState.FAIL
    assert any("advisory and decides nothing" in note for note in verdict.notes)
    assert "shown, and not part of the verdict: mt_bench" in verdict.notes


def test_an_advisory_endpoint_that_was_not_tested_is_named_with_the_reason(make_bench: Make) -> None:
    bench = make_bench(mt_bench={"planning_sd": 1.4, "low_power_choice": "advisory"})
    verdict = bench.verdict(bench.only(bench.run(), "mmlu"))
    assert verdict.outcome is Outcome.CERTIFIED
    assert "not tested, and not part of the verdict: mt_bench" in verdict.notes
    assert any("task 'mt-bench' is not in the run of the candidate" in note for note in verdict.notes)


def test_leaving_the_questions_out_does_not_make_them_advisory(make_bench: Make) -> None:
    """Where the policy leaves the number of questions open, a run without them must not lower the planned power."""
    bench = make_bench(mt_bench={"questions": None, "low_power_choice": "advisory"})
    assert bench.decide().gating == ("mmlu", "mt_bench")
    without = bench.only(bench.run(), "mmlu")
    decision = bench.decide(without)
    assert decision.gating == ("mmlu", "mt_bench")
    assert bench.codes(decision.verdicts[0]) == ["coverage", "too-few"]
    alone = decide(bench.policy, Evidence(candidates={"candidate": bench.compare(without)}))
    assert alone.gating == ("mmlu", "mt_bench")


@pytest.mark.parametrize(
    ("how", "guard"),
    [({"tokens": 200}, "guard:length"), ({"mean": 1.0}, "guard:implausible-gain")],
)
def test_a_guard_only_demotes(bench: Any, how: dict[str, Any], guard: str) -> None:
    assert bench.verdict().outcome is Outcome.CERTIFIED
    assert bench.codes(bench.verdict(bench.run(**how))) == [guard]
    opened = bench.verdict(bench.run(losses=36, **how))
    assert (opened.outcome, bench.codes(opened)) == (Outcome.INCONCLUSIVE, ["endpoint-open", guard])
    assert bench.verdict(bench.run(losses=60, **how)).outcome is Outcome.REJECTED
    assert bench.verdict(bench.run(policy_sha256=None, **how)).outcome is Outcome.INVALID


def test_the_nightly_policy_never_certifies(made: Any) -> None:
    policy = load_policy("nightly")
    assert policy.certifies is False
    endpoint = policy.endpoints["mmlu"].model_copy(update={"items": 4000})
    bound = bind(policy.model_copy(update={"endpoints": {"mmlu": endpoint}}), "baseline", ["candidate"])
    left, right = made.outcomes(4000, rho=0.01, difference=0.0, seed=3)
    runs = [
        made.make_run(name, marks=marks, seed=seed, policy_sha256=bound.sha256)
        for name, marks, seed in (("baseline", left, 1), ("candidate", right, 2))
    ]
    (verdict,) = decide(bound, Evidence(candidates={"candidate": compare_endpoints(bound, *runs)})).verdicts
    assert verdict.endpoints[0].state is EndpointState.PASS
    assert verdict.holm_p < 0.05
    assert (verdict.outcome, [reason.code for reason in verdict.reasons]) == (Outcome.INCONCLUSIVE, ["not-certifying"])


@pytest.mark.parametrize(
    ("how", "would"), [({}, "CERTIFIED"), ({"losses": 60}, "REJECTED"), ({"losses": 36}, "INCONCLUSIVE")]
)
def test_an_analysis_after_the_fact_certifies_and_rejects_nothing(bench: Any, how: dict[str, Any], would: str) -> None:
    decision = bench.decide(bench.run(policy_sha256="0" * 64, **how), post_hoc=True)
    (verdict,) = decision.verdicts
    assert decision.exploratory
    assert (verdict.outcome, verdict.claim) == (Outcome.INCONCLUSIVE, None)
    assert verdict.reasons[0].code == "exploratory"
    assert f"the data would give {would}" in verdict.reasons[0].message
    assert verdict.would_be is Outcome(would)
    assert bench.verdict(bench.run(**how)).would_be is None


def test_invalid_data_stay_invalid_after_the_fact(bench: Any) -> None:
    verdict = bench.verdict(bench.hide(bench.run(), "mmlu", 100), post_hoc=True)
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INVALID, ["coverage"])
    assert verdict.would_be is Outcome.INVALID


# ---- invalid


@pytest.mark.parametrize("how", [{}, {"losses": 60}, {"tokens": 200}])
def test_invalid_comes_before_everything_else(bench: Any, how: dict[str, Any]) -> None:
    verdict = bench.verdict(bench.run(policy_sha256="0" * 64, **how))
    assert (verdict.outcome, verdict.p, verdict.holm_p) == (Outcome.INVALID, 1.0, 1.0)


def test_two_runs_swapped_are_the_wrong_runs(bench: Any) -> None:
    verdict = bench.verdict(candidates={"candidate": bench.compare(bench.baseline, bench.run())})
    assert [reason.code for reason in verdict.reasons][:2] == ["wrong-run", "wrong-run"]


def test_the_baseline_in_the_place_of_the_candidate_is_the_same_model(bench: Any) -> None:
    verdict = bench.verdict(bench.run(recipe="baseline"))
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INVALID, ["same-model"])


def test_a_policy_that_names_no_gating_endpoint_is_invalid(make_bench: Make) -> None:
    bench = make_bench(mmlu={"gating": False}, mt_bench={"gating": False})
    decision = bench.decide()
    assert decision.gating == ()
    assert bench.codes(decision.verdicts[0]) == ["no-endpoint"]
    assert decision.exit_code is ExitCode.INVALID


def test_a_candidate_without_any_comparison_is_invalid(bench: Any) -> None:
    verdict = bench.verdict(candidates={"candidate": {}})
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INVALID, ["no-endpoint"])


def test_a_gating_endpoint_that_was_not_compared_is_no_coverage(bench: Any) -> None:
    compared = bench.compare(bench.run())
    verdict = bench.verdict(candidates={"candidate": {"mmlu": compared["mmlu"]}})
    assert [(reason.code, reason.endpoint) for reason in verdict.reasons] == [("coverage", "mt_bench")]


def test_a_release_without_recipes_is_no_success(make_bench: Make) -> None:
    bench = make_bench(recipes=())
    decision = bench.decide(candidates={})
    assert (decision.verdicts, decision.exit_code) == ((), ExitCode.INVALID)


def test_batches_that_memory_made_smaller_are_a_caution_and_change_no_verdict(bench: Any) -> None:
    def cramped(run: Any) -> Any:
        return replace(run, manifest=replace(run.manifest, smaller_batches=("scoring: smaller",)))

    def told(cautions: Any) -> list[str]:
        return [found.message for found in cautions if found.code == "smaller-batches"]

    sound = bench.decide()
    assert told((*sound.cautions, *sound.verdicts[0].cautions)) == []
    candidate = bench.decide(cramped(bench.run()))
    assert told(candidate.cautions) == []
    assert told(candidate.verdicts[0].cautions) == ["the candidate: scoring: smaller"]
    assert candidate.verdicts[0].outcome is sound.verdicts[0].outcome
    baseline = bench.decide(candidates={"candidate": bench.compare(bench.run(), cramped(bench.baseline))})
    assert told(baseline.cautions) == ["the baseline: scoring: smaller"]


def test_an_estimate_that_cannot_be_made_is_invalid(make_bench: Make) -> None:
    """One judgment is missing, the rest moved alike: what is seen varies, the worst case does not."""
    bench = make_bench(
        mt_bench={"questions": 30, "judgments": 2}, missing={"judgments_max": 0.5}, assay={"required": ()}
    )
    alike = replace(bench, scores=np.full((30, 1, 2), 5.0))
    scores = np.full((30, 1, 2), 3.0)
    scores[-1] = [np.nan, 5.0]
    verdict = bench.verdict(candidates={"candidate": alike.compare(alike.run(scores=scores))}, rerun=None, controls={})
    assert verdict.outcome is Outcome.INVALID
    assert bench.codes(verdict) == ["estimate"]


@pytest.mark.parametrize("changed", [{"losses": 3}, {"mean": 0.5}])
def test_a_not_finite_number_is_invalid_whatever_else_is_there(bench: Any, changed: dict[str, Any]) -> None:
    run = bench.hide(bench.run(**changed), "mmlu", 1, "non-finite: log-probability is inf")
    verdict = bench.verdict(run)
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INVALID, ["non-finite"])


def test_soft_accuracy_may_gate(make_bench: Make) -> None:
    bench = make_bench(mmlu={"gating": False}, mt_bench={"gating": False}, extra={"soft": SOFT})

    def compared(name: str, losses: int, gains: int) -> Any:
        """Log-probabilities are those of the baseline but where an item was lost or gained."""
        return bench.compare(bench.run(name, losses=losses, gains=gains, seed=1))

    def verdict(losses: int, gains: int) -> Any:
        candidate, broken = compared("candidate", losses, gains), compared("broken", 100, 10)
        return bench.decide(candidates={"candidate": candidate}, controls={"broken": broken})

    equal = verdict(12, 12)
    assert equal.gating == ("soft",)
    assert (equal.verdicts[0].outcome, equal.verdicts[0].claim) == (Outcome.CERTIFIED, f"near-lossless {WEAKER}")
    assert [(reason.code, reason.endpoint) for reason in verdict(120, 5).verdicts[0].reasons] == [
        ("endpoint-fail", "soft")
    ]


# ---- several recipes


def release(make_bench: Make, **how: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    bench = make_bench(recipes=tuple(how))
    return bench, {name: bench.compare(bench.run(name, **changes)) for name, changes in how.items()}


def test_every_recipe_of_the_policy_gets_a_verdict_in_the_order_of_names(make_bench: Make) -> None:
    bench, candidates = release(make_bench, c={"losses": 60}, a={}, b={"losses": 36})
    decision = bench.decide(candidates=candidates)
    assert [(verdict.recipe, verdict.outcome) for verdict in decision.verdicts] == [
        ("a", Outcome.CERTIFIED),
        ("b", Outcome.INCONCLUSIVE),
        ("c", Outcome.REJECTED),
    ]
    assert decision.exit_code is ExitCode.REJECTED


def test_the_order_of_recipes_changes_nothing(make_bench: Make) -> None:
    bench, candidates = release(make_bench, a={"losses": 18}, b={"losses": 20}, c={"losses": 60}, d={"tokens": 200})
    seen = set()
    for order in permutations(candidates):
        decision = bench.decide(candidates={name: candidates[name] for name in order})
        seen.add(json.dumps(decision.to_dict(), sort_keys=True))
    assert len(seen) == 1


def test_p_values_are_combined_over_endpoints_and_corrected_over_recipes(make_bench: Make) -> None:
    bench, candidates = release(make_bench, a={"losses": 18, "gains": 5}, b={"losses": 17, "gains": 5}, c={})
    verdicts = bench.decide(candidates=candidates).verdicts
    for verdict in verdicts:
        mmlu, mt_bench = (result.steps[0].p_certify for result in verdict.endpoints)
        assert verdict.p == pytest.approx(max(2 * mmlu, mt_bench))
    c, b, a = sorted(verdict.p for verdict in verdicts)
    adjusted = [3 * c, max(3 * c, 2 * b), max(3 * c, 2 * b, a)]
    assert sorted(verdict.holm_p for verdict in verdicts) == pytest.approx(sorted(adjusted))


def test_a_recipe_that_passes_alone_may_not_pass_in_company(make_bench: Make) -> None:
    alone = make_bench()
    assert alone.verdict(alone.run(losses=18, gains=5)).outcome is Outcome.CERTIFIED
    bench, candidates = release(make_bench, candidate={"losses": 18, "gains": 5}, other={"losses": 60})
    verdict = bench.decide(candidates=candidates).verdicts[0]
    assert (verdict.outcome, bench.codes(verdict)) == (Outcome.INCONCLUSIVE, ["holm"])
    assert 0.025 < verdict.p < 0.05 < verdict.holm_p


@pytest.mark.parametrize("damage", ["not run", "invalid"])
def test_a_recipe_that_drops_out_stays_in_the_family(make_bench: Make, damage: str) -> None:
    """Otherwise a release could shed its failures and certify the rest more easily."""
    bench, candidates = release(make_bench, candidate={"losses": 18, "gains": 5}, other={})
    assert bench.decide(candidates=candidates).verdicts[0].outcome is Outcome.CERTIFIED
    del candidates["other"]
    if damage == "invalid":
        candidates["other"] = bench.compare(bench.hide(bench.run("other"), "mmlu", 100))
    first, second = bench.decide(candidates=candidates).verdicts
    assert (second.outcome, second.p) == (Outcome.INVALID, 1.0)
    assert (first.outcome, bench.codes(first)) == (Outcome.INCONCLUSIVE, ["holm"])


def test_the_second_claims_of_a_release_are_a_family_of_their_own(make_bench: Make) -> None:
    """Both recipes pass the second margin alone; together the weaker one keeps only the first claim."""
    weaker = {"losses": 13, "gains": 8}
    alone = make_bench()
    assert alone.verdict(alone.run(**weaker)).claim == f"near-lossless {WEAKER}"
    bench, candidates = release(make_bench, candidate=weaker, other={"losses": 30, "gains": 8})
    first, _ = bench.decide(candidates=candidates).verdicts
    p = 2 * first.endpoints[0].steps[1].p_certify
    assert 0.025 < p < 0.05
    assert (first.outcome, first.claim) == (Outcome.CERTIFIED, f"comparable {WEAKER}")


def test_candidates_the_policy_does_not_name_get_no_verdict(bench: Any) -> None:
    decision = bench.decide(bench.run(), bench.run("stranger"))
    assert [verdict.recipe for verdict in decision.verdicts] == ["candidate"]


def test_a_decision_is_plain_json_without_a_number_that_is_not_finite(bench: Any) -> None:
    plain = bench.decide().to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["verdicts"][0]["outcome"] == "CERTIFIED"
    assert plain["policy_sha256"] == bench.policy.sha256
