"""Every reason code has evidence that leads to it, every outcome is reached, and exit codes tell the worst."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import PublishedAccuracy
from evalkit.errors import ExitCode
from evalkit.policy import JudgeRules, MeanEndpoint, load_policy
from evalkit.records import ItemFacts
from evalkit.verdict import REASONS, Outcome, Reason, decide_unpaired, exit_code

Make = Callable[..., Any]
INVALID, REJECTED, INCONCLUSIVE = Outcome.INVALID, Outcome.REJECTED, Outcome.INCONCLUSIVE


def swapped(make: Make) -> Any:
    bench = make()
    return bench.verdict(candidates={"candidate": bench.compare(bench.baseline, bench.run())})


def not_run(make: Make) -> Any:
    return make(recipes=("candidate", "never")).decide().verdicts[1]


def another_tokenizer(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.reload(bench.run(), tokenizer_sha256="0" * 64))


def many_items_missing(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.hide(bench.run(), "mmlu", 5))


def one_number_not_finite(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.hide(bench.run(), "mmlu", 1, "non-finite: log-probability is nan"))


def an_item_twice(make: Make) -> Any:
    bench = make()
    run = bench.run()
    records = (*run.records["mmlu"], run.records["mmlu"][0])
    return bench.verdict(replace(run, records={**run.records, "mmlu": records}))


def a_mark_its_reply_contradicts(make: Make) -> Any:
    bench = make()
    return bench.verdict(replace(bench.run(), contradictions={"mmlu": ("candidate/records/mmlu.jsonl:7: mark 'acc'",)}))


def marks_without_bounds(make: Make) -> Any:
    bench = make()
    run = bench.hide(bench.run(), "mmlu", 1)
    *records, last = run.records["mmlu"]
    records.append(replace(last, marks={"acc": 7.0}))
    return bench.verdict(replace(run, records={**run.records, "mmlu": tuple(records)}))


def five_items(make: Make) -> Any:
    bench = make(mmlu={"items": None})
    few = replace(bench, marks=bench.marks[:5])
    return few.verdict(
        few.run(losses=0, gains=0), rerun=bench.compared_rerun, controls={"broken": bench.compared_broken}
    )


def a_baseline_near_chance(make: Make) -> Any:
    bench = make()
    guessing = np.repeat([1.0, 0.0], [240, 560])
    return replace(bench, marks=guessing).verdict()


def a_baseline_that_knows_nearly_all(make: Make) -> Any:
    # 3 wrong of 800 are 0.4 %; a margin of 3 points would let them become nine times as many.
    bench = make(assay={"reference_accuracy": {}, "required": ("aa", "control", "above_chance", "headroom")})
    other = replace(bench, marks=np.repeat([1.0, 0.0], [795, 5]))
    broken = other.compare(other.run("broken", losses=100, gains=0, mean=-1.2))
    again = other.compare(other.run("baseline-rerun", losses=2, gains=2, sd=0.3, recipe="baseline"))
    return other.verdict(other.run(losses=2, gains=2), rerun=again, controls={"broken": broken})


def a_baseline_cut_off(make: Make) -> Any:
    bench = make()
    return replace_baseline(bench, bench.truncated(bench.baseline, 9)).verdict(bench.truncated(bench.run(), 9))


def replace_baseline(bench: Any, baseline: Any) -> Any:
    """The bench with another baseline, which its rerun and its control are compared with too."""
    changed = replace(bench)
    changed.__dict__["baseline"] = baseline
    return changed


def answers_cut_off(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.truncated(bench.run(), 9))


def other_weights(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.reload(bench.run(), weights_sha256="f" * 64))


def a_candidate_as_baseline(make: Make) -> Any:
    return make(assay={"baseline_recipes": ("official-fp8",)}).verdict()


def a_rerun_that_loses(make: Make) -> Any:
    bench = make()
    return bench.verdict(rerun=bench.compare(bench.run("baseline-rerun", losses=60, recipe="baseline")))


def identical_replies(make: Make) -> Any:
    bench = make()
    copied = bench.run(marks=bench.marks, seed=1)
    return bench.verdict(copied)


def equal_loss_on_every_question(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.run(scores=bench.scores - 0.5))


def gains_of_rating(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.run(mean=1.0))


def four_ruined_questions(make: Make) -> Any:
    bench = make()
    changes = np.full(80, 0.4)
    changes[:4] = -4.0
    changes[4:] += np.tile([0.1, -0.1], 38)
    return bench.verdict(bench.run(scores=bench.scores + changes[:, np.newaxis, np.newaxis]))


def a_metric_without_a_range(make: Make) -> Any:
    shares = MeanEndpoint(
        kind="paired_mean", task="mmlu", metric="acc", protocol="ll-5shot", gating=True, alpha=0.05, margin=0.1
    )
    bench = make(mmlu={"gating": False}, mt_bench={"gating": False}, extra={"shares": shares}, assay={"required": ()})
    halves = replace(bench, marks=np.where(bench.marks == 1.0, 0.9, 0.2))
    run = halves.run(marks=halves.marks + np.random.default_rng(3).normal(0, 0.01, 800))
    return halves.verdict(run, rerun=None, controls={})


def two_ruined_questions(make: Make) -> Any:
    # Plain t is near 2.0 and passes 1.66; two questions pull the corrected t below it.
    bench = make()
    changes = np.tile([0.1, -0.1], 40) - 0.06
    changes[:2] = -4.0
    return bench.verdict(bench.run(scores=bench.scores + changes[:, np.newaxis, np.newaxis]))


def longer_answers(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.run(tokens=111))


def truncated_answers(make: Make) -> Any:
    bench = make()
    return bench.verdict(bench.truncated(bench.run(), 4))


def six_cut_off_answers(make: Make) -> Any:
    bench = make(judge=JudgeRules(gate_increase_max=0.0))
    return bench.verdict(bench.truncated(bench.run(), 6))


def barely_enough_for_one(make: Make) -> Any:
    bench = make(recipes=("candidate", *(f"never-{number}" for number in range(1, 9))))
    return bench.verdict(bench.run(losses=15, gains=5))


def every_question_twice(make: Make) -> Any:
    bench = make()
    return bench.verdict(candidates=compared_with(bench, lambda at: ItemFacts(content=f"c{at // 2}", labels={})))


def no_field_of_that_name(make: Make) -> Any:
    bench = make(mmlu={"cluster": "passage"})
    return bench.verdict(
        candidates=compared_with(
            bench, lambda at: ItemFacts(content=f"c{at}", labels={"passage": f"p{at}"} if at else {})
        )
    )


def passages_that_flip_together(make: Make) -> Any:
    bench = make()
    marks = bench.marks.copy()
    lost, gained = np.flatnonzero(marks == 1.0)[:16], np.flatnonzero(marks == 0.0)[:16]
    marks[lost], marks[gained] = 0.0, 1.0
    passages = {at: f"lost {n // 4}" for n, at in enumerate(lost)} | {
        at: f"won {n // 4}" for n, at in enumerate(gained)
    }

    def facts(at: int) -> ItemFacts:
        return ItemFacts(content=f"c{at}", labels={"passage": passages.get(at, f"rest {at // 4}")})

    return bench.verdict(candidates=compared_with(bench, facts, bench.run(marks=marks)))


def compared_with(bench: Any, facts: Callable[[int], ItemFacts], run: Any = None) -> Any:
    """Comparisons with a baseline whose MMLU items are known to share something."""
    keys = [record.key.rsplit("/", 1)[0] for record in bench.baseline.records["mmlu"]]
    known = {"mmlu": {key: facts(at) for at, key in enumerate(keys)}}
    return {"candidate": bench.compare(run or bench.run(), replace(bench.baseline, known=known))}


def a_metric_of_no_known_direction(make: Make) -> Any:
    bench = make(mmlu={"metric": "novelty"})
    runs = {name: renamed(getattr(bench, name), "novelty") for name in ("baseline", "rerun", "broken")}
    compared = {name: bench.compare(run, runs["baseline"]) for name, run in runs.items()}
    return bench.verdict(
        candidates={"candidate": bench.compare(renamed(bench.run(), "novelty"), runs["baseline"])},
        rerun=compared["rerun"],
        controls={"broken": compared["broken"]},
    )


def renamed(run: Any, metric: str) -> Any:
    """The run with its accuracy under another name."""
    records = tuple(replace(record, marks={metric: record.marks["acc"]}) for record in run.records["mmlu"])
    return replace(run, records={**run.records, "mmlu": records})


CASES: dict[str, tuple[Outcome, Callable[[Make], Any]]] = {
    "policy-missing": (INVALID, lambda make: make().verdict(make().run(policy_sha256=None))),
    "policy-changed": (INVALID, lambda make: make().verdict(make().run(policy_sha256="0" * 64))),
    "wrong-run": (INVALID, swapped),
    "not-run": (INVALID, not_run),
    "not-comparable": (INVALID, another_tokenizer),
    "coverage": (INVALID, many_items_missing),
    "non-finite": (INVALID, one_number_not_finite),
    "pairing": (INVALID, an_item_twice),
    "contradiction": (INVALID, a_mark_its_reply_contradicts),
    "estimate": (INVALID, marks_without_bounds),
    "too-few": (INVALID, five_items),
    "repeated-items": (INVALID, every_question_twice),
    "no-direction": (INVALID, a_metric_of_no_known_direction),
    "no-cluster": (INVALID, no_field_of_that_name),
    "no-range": (INVALID, a_metric_without_a_range),
    "assay-missing": (INVALID, lambda make: make().verdict(rerun=None)),
    "assay-failed": (INVALID, a_rerun_that_loses),
    "baseline-sanity": (INVALID, a_baseline_near_chance),
    "no-headroom": (INVALID, a_baseline_that_knows_nearly_all),
    "unreadable": (INVALID, a_baseline_cut_off),
    "other-model": (INVALID, other_weights),
    "baseline-recipe": (INVALID, a_candidate_as_baseline),
    "same-model": (INVALID, identical_replies),
    "zero-variance": (INVALID, equal_loss_on_every_question),
    "judge-unqualified": (INVALID, lambda make: make(judge=JudgeRules(qualification="required")).verdict()),
    "no-endpoint": (INVALID, lambda make: make(mmlu={"gating": False}, mt_bench={"gating": False}).verdict()),
    "endpoint-fail": (REJECTED, lambda make: make().verdict(make().run(losses=60))),
    "endpoint-open": (INCONCLUSIVE, lambda make: make().verdict(make().run(losses=36))),
    "holm": (INCONCLUSIVE, barely_enough_for_one),
    "power-cap": (INCONCLUSIVE, lambda make: make(mt_bench={"planning_sd": 1.4}).verdict()),
    "not-certifying": (INCONCLUSIVE, lambda make: make(certifies=False).verdict()),
    "exploratory": (INCONCLUSIVE, lambda make: make().verdict(make().run(policy_sha256=None), post_hoc=True)),
    "guard:invalid-answers": (INCONCLUSIVE, truncated_answers),
    "guard:unreadable": (INCONCLUSIVE, answers_cut_off),
    "guard:length": (INCONCLUSIVE, longer_answers),
    "guard:gates": (INCONCLUSIVE, six_cut_off_answers),
    "guard:catastrophic": (INCONCLUSIVE, four_ruined_questions),
    "guard:design-effect": (INCONCLUSIVE, passages_that_flip_together),
    "guard:implausible-gain": (INCONCLUSIVE, gains_of_rating),
}
"""Reason code to the outcome it belongs to and evidence that leads there."""

ALSO = {
    "wrong-run": {"policy-missing", "baseline-recipe"},
    "baseline-sanity": {"no-headroom"},
    "guard:unreadable": {"guard:invalid-answers"},
    "estimate": {"too-few"},
    "no-direction": {"assay-failed", "assay-missing"},
    "no-cluster": {"assay-failed", "assay-missing"},
    "guard:gates": {"guard:invalid-answers"},
}
"""What the evidence of some codes cannot but show as well."""


@pytest.mark.parametrize("code", CASES)
def test_the_evidence_of_a_reason_gives_that_reason_alone(code: str, make_bench: Make) -> None:
    outcome, found = CASES[code]
    verdict = found(make_bench)
    assert verdict.outcome is outcome
    assert {reason.code for reason in verdict.reasons} == {code} | ALSO.get(code, set())
    assert verdict.claim is None


def test_a_published_baseline_gives_the_one_code_that_pairs_never_have(made: ModuleType, make_bench: Make) -> None:
    policy = load_policy("release")
    policy = policy.model_copy(
        update={"endpoints": {"mmlu": policy.endpoints["mmlu"].model_copy(update={"items": 800})}}
    )
    published = {"mmlu": PublishedAccuracy(accuracy=0.75, items=14_042, source="a model card")}
    decision = decide_unpaired(policy, published, make_bench().run(), "candidate")
    assert decision.outcome is INCONCLUSIVE
    assert {reason.code for reason in decision.reasons} == {"unpaired"}


def test_every_reason_code_is_covered() -> None:
    assert {*CASES, "unpaired"} == set(REASONS)


def test_every_outcome_is_reached(make_bench: Make) -> None:
    reached = {outcome for outcome, _ in CASES.values()}
    assert reached | {make_bench().verdict().outcome} == set(Outcome)


def test_a_sound_candidate_is_certified_without_a_reason(make_bench: Make) -> None:
    verdict = make_bench().verdict()
    assert (verdict.outcome, verdict.reasons) == (Outcome.CERTIFIED, ())


def test_a_code_nobody_explained_is_refused() -> None:
    with pytest.raises(ValueError, match="'hunch' is no reason code"):
        Reason(code="hunch", message="it looks bad")


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ([], ExitCode.INVALID),
        ([Outcome.CERTIFIED], ExitCode.CERTIFIED),
        ([Outcome.CERTIFIED, Outcome.INCONCLUSIVE], ExitCode.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.REJECTED, Outcome.CERTIFIED], ExitCode.REJECTED),
        ([Outcome.REJECTED, Outcome.INVALID, Outcome.CERTIFIED], ExitCode.INVALID),
    ],
)
def test_the_exit_code_is_that_of_the_worst_recipe(found: list[Outcome], code: ExitCode) -> None:
    assert exit_code(found) is code
    assert exit_code(reversed(found)) is code


def test_exit_codes_are_those_of_the_protocol() -> None:
    codes = {name: ExitCode[name].value for name in ("CERTIFIED", "REJECTED", "INCONCLUSIVE", "INVALID")}
    assert codes == {"CERTIFIED": 0, "REJECTED": 1, "INCONCLUSIVE": 3, "INVALID": 4}
