"""What follows from a judge that was not tried, failed, or passed, as the policy says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evalkit.policy import JudgeBars, JudgeRules, bind, load_policy
from evalkit.probes import Probe, ProbeRow
from evalkit.qualification import Qualification
from evalkit.records import text_digest
from evalkit.verdict import Outcome

Make = Callable[..., Any]


def trial(bench: Any, *, good: bool = True, **changes: Any) -> Qualification:
    """A trial of the bench's own judge."""
    judge = bench.baseline.manifest.judges["mt-bench"]
    rows = []
    for question in range(25):
        scores = {("original", 0): 8.0, ("original", 1): 8.0, ("twin", 0): 2.0 if good else 8.0}
        scores |= {("bad", 0): 2.0, ("injection", 0): 2.0 if good else 9.0}
        rows += [
            ProbeRow(
                probe=Probe(question=f"q{question}", turn=1, kind=kind, repeat=repeat),  # type: ignore[arg-type]
                key="k",
                status="ok",
                score=score,
            )
            for (kind, repeat), score in scores.items()
        ]
    given: dict[str, Any] = {
        "judge": {"model": judge.identity.model, "sha256": judge.identity.sha256},
        "profile": judge.profile,
        "profile_sha256": judge.profile_sha256,
        "references_sha256": None,
        "source": {"task": "mt-bench"},
        "rows": tuple(rows),
    }
    return Qualification(**{**given, **changes})


@pytest.mark.parametrize(
    ("rule", "tried", "outcome", "gating"),
    [
        ("required", None, Outcome.INVALID, ("mmlu", "mt_bench")),
        ("required", False, Outcome.INVALID, ("mmlu", "mt_bench")),
        ("required", True, Outcome.CERTIFIED, ("mmlu", "mt_bench")),
        ("advisory", None, Outcome.CERTIFIED, ("mmlu",)),
        ("advisory", False, Outcome.CERTIFIED, ("mmlu",)),
        ("advisory", True, Outcome.CERTIFIED, ("mmlu", "mt_bench")),
        ("none", None, Outcome.CERTIFIED, ("mmlu", "mt_bench")),
        ("none", False, Outcome.CERTIFIED, ("mmlu", "mt_bench")),
    ],
)
def test_the_policy_says_what_follows(make_bench: Make, rule: Any, tried: Any, outcome: Any, gating: Any) -> None:
    bench = make_bench(judge=JudgeRules(qualification=rule))
    given = [] if tried is None else [trial(bench, good=tried)]
    decision = bench.decide(qualifications=given)
    assert decision.verdicts[0].outcome is outcome
    assert decision.gating == gating
    (standing,) = decision.judges
    assert (standing.endpoint, standing.qualified, standing.rule) == ("mt_bench", tried, rule)
    assert standing.qualification_sha256 == (given[0].sha256 if given else None)
    assert (standing.note == "") == (tried is True)


def test_an_advisory_judge_cannot_save_or_sink_a_recipe(make_bench: Make) -> None:
    bench = make_bench(judge=JudgeRules(qualification="advisory"))
    assert bench.verdict(bench.run(mean=-1.5)).outcome is Outcome.CERTIFIED
    trusted = bench.verdict(bench.run(mean=-1.5), qualifications=[trial(bench)])
    assert trusted.outcome is Outcome.REJECTED


@pytest.mark.parametrize("change", ["judge", "profile_sha256"])
def test_a_trial_of_another_judge_or_profile_counts_for_nothing(make_bench: Make, change: str) -> None:
    bench = make_bench(judge=JudgeRules(qualification="required"))
    other = {"model": "x", "sha256": text_digest("x")} if change == "judge" else text_digest("x")
    verdict = bench.verdict(qualifications=[trial(bench, **{change: other})])
    assert bench.codes(verdict) == ["judge-unqualified"]
    assert "was not tried" in verdict.reasons[0].message


def test_the_reason_names_the_bar_and_the_number(make_bench: Make) -> None:
    bench = make_bench(judge=JudgeRules(qualification="required"))
    (reason,) = bench.verdict(qualifications=[trial(bench, good=False)]).reasons
    assert "0 of 25 times" in reason.message
    assert "planted" in reason.message


def test_other_bars_are_another_judgment_of_the_same_trial(make_bench: Make) -> None:
    for least, outcome in ((24, Outcome.CERTIFIED), (26, Outcome.INVALID)):
        bench = make_bench(judge=JudgeRules(qualification="required", bars=JudgeBars(questions_min=least)))
        assert bench.verdict(qualifications=[trial(bench)]).outcome is outcome


def test_a_policy_without_rules_keeps_its_digest_and_one_with_them_has_another() -> None:
    plain = load_policy("demo")
    bound = bind(plain, "a", ["b"])
    assert "judge" not in bound.document
    ruled = bind(plain.model_copy(update={"judge": JudgeRules()}), "a", ["b"])
    assert ruled.document["judge"]["bars"]["questions_min"] == 20
    assert ruled.sha256 != bound.sha256


def test_a_policy_without_rules_still_tells_what_is_known_of_the_judge(make_bench: Make) -> None:
    bench = make_bench()
    decision = bench.decide(qualifications=[trial(bench, good=False)])
    assert decision.verdicts[0].outcome is Outcome.CERTIFIED
    assert decision.judges[0].qualified is False
    assert "is not qualified" in decision.judges[0].note
    assert decision.to_dict()["judges"][0]["checks"]
