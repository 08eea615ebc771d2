"""What follows from a judge that was not tried, failed, or passed, as the policy says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from evalkit.ledger.standing import Trial
from evalkit.policy import JudgeBars, JudgeRules, bind, load_policy
from evalkit.qualification import Qualification
from evalkit.records import text_digest
from evalkit.records.record import Probe, ProbeRow
from evalkit.verdict import Outcome, Tried

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


def again(found: Qualification, *, drawn: int, **changes: Any) -> Trial:
    """A trial on record, of the same judge on the same answers."""
    given = {
        "judge_sha256": found.judge["sha256"],
        "profile_sha256": found.profile_sha256,
        "task": "mt-bench",
        "records_sha256": "r",
        "drawn": (30, drawn),
        "qualification_sha256": f"q{drawn}",
        "complete": True,
        "passed": True,
        "bars_sha256": JudgeRules().bars_sha256,
    }
    return Trial(**{**given, **changes})  # type: ignore[arg-type]


OF_THE_BASELINE = {"task": "mt-bench", "records_sha256": "r", "answers": 30, "seed": 0}


@pytest.mark.parametrize(
    ("others", "qualified", "told"),
    [
        ([], True, ""),
        ([{"drawn": 1}], True, "was tried 2 times on these answers: 0 failed"),
        ([{"drawn": 1, "passed": False}], False, "was tried 2 times on these answers: 1 failed"),
        (
            [{"drawn": 1, "passed": False}, {"drawn": 2, "passed": False}],
            False,
            "tried 3 times on these answers: 2 failed",
        ),
        ([{"drawn": 1, "bars_sha256": "of a lenient policy"}], False, "1 failed"),
        ([{"drawn": 1, "complete": False}], False, "1 failed"),
        (
            [{"drawn": 1, "complete": False, "passed": False}, {"drawn": 1}],
            True,
            "tried 3 times on these answers: 0 failed",
        ),
        ([{"drawn": 0, "complete": False, "passed": False}], True, "tried 2 times on these answers: 0 failed"),
        ([{"drawn": 1, "records_sha256": "of another run", "passed": False}], True, ""),
    ],
)
def test_every_trial_on_record_counts(
    make_bench: Make, others: list[dict[str, Any]], qualified: bool, told: str
) -> None:
    bench = make_bench(judge=JudgeRules(qualification="required"))
    good = trial(bench, source=OF_THE_BASELINE)
    recorded = [again(good, **one) for one in others]
    decision = bench.decide(tried=Tried(files=[good], recorded=recorded, records={"mt-bench": "r"}))
    assert decision.judges[0].qualified is qualified
    assert decision.verdicts[0].outcome is (Outcome.CERTIFIED if qualified else Outcome.INVALID)
    cautions = [one.message for one in decision.cautions if one.code == "judge-trials"]
    assert (told in " ".join(cautions)) if told else not cautions


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_no_file_of_a_trial_stands_for_another(make_bench: Make, order: tuple[bool, bool]) -> None:
    bench = make_bench(judge=JudgeRules(qualification="required"))
    files = [trial(bench, good=good, source={**OF_THE_BASELINE, "seed": at}) for at, good in enumerate(order)]
    decision = bench.decide(tried=Tried(files=files, records={"mt-bench": "r"}))
    assert decision.judges[0].qualified is False
    assert "tried 2 times on these answers, 1 failed, and every trial counts" in decision.judges[0].note


def test_a_trial_on_other_answers_than_the_baselines_counts_for_nothing(make_bench: Make) -> None:
    bench = make_bench(judge=JudgeRules(qualification="required"))
    found = trial(bench, source={**OF_THE_BASELINE, "records_sha256": "of another run"})
    decision = bench.decide(tried=Tried(files=[found], records={"mt-bench": "r"}))
    assert decision.judges[0].qualified is None
    assert "1 trial(s) of it are on other answers than the baseline's" in decision.judges[0].note
    assert bench.codes(decision.verdicts[0]) == ["judge-unqualified"]


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
