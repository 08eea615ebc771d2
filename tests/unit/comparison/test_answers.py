"""Generated answers without reading them: unreadable ones, length, and whether two runs are one and the same."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.records import TextReply, Turn


def chat(made: ModuleType, name: str, n: int = 4, tokens: int = 100) -> Any:
    return made.make_run(name, scores=np.full((n, 2, 1), 5.0), tokens=tokens)


def changed(run: Any, at: int, task: str = "mt-bench", **changes: Any) -> Any:
    records = list(run.records[task])
    records[at] = replace(records[at], **changes)
    return replace(run, records={**run.records, task: tuple(records)})


def cut(record: Any) -> TextReply:
    """The record's answer, stopped at the token limit in its last turn."""
    *first, last = record.reply.turns
    return TextReply(turns=(*first, replace(last, finish="length")))


def generated(made: ModuleType, name: str, invalid: dict[int, str], finish: str = "stop") -> Any:
    """A run of a task with one generated, marked answer to each of six items."""
    run = made.make_run(name, marks=np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
    records = tuple(
        replace(
            record,
            reply=TextReply(
                turns=(Turn(text=f"{name} {at}", finish=finish, prompt_tokens=9, completion_tokens=5),)  # type: ignore[arg-type]
            ),
            marks={"acc": 0.0 if at in invalid else record.marks["acc"]},
            invalid=invalid.get(at),
        )
        for at, record in enumerate(run.records["mmlu"])
    )
    task = replace(run.manifest.tasks["mmlu"], kind="text")
    return replace(run, manifest=replace(run.manifest, tasks={"mmlu": task}), records={"mmlu": records})


def test_the_length_ratio_is_candidate_over_baseline_in_tokens(made: ModuleType) -> None:
    answers = compare(chat(made, "baseline", tokens=100), chat(made, "candidate", tokens=125), "mt-bench").answers
    assert answers is not None
    assert (answers.baseline_length, answers.candidate_length) == (4 * 2 * 100, 4 * 2 * 125)
    assert answers.length_unit == "tokens"
    assert answers.length_ratio == pytest.approx(1.25)


def test_a_baseline_that_wrote_nothing_has_no_length_ratio(made: ModuleType) -> None:
    baseline = written(chat(made, "baseline"), lambda _at: "", tokens=0)
    answers = compare(baseline, chat(made, "candidate"), "mt-bench").answers
    assert answers is not None
    assert answers.length_ratio is None


def written(run: Any, text: Any, *, tokens: int) -> Any:
    """The run with other texts in its conversations."""
    for at, record in enumerate(run.records["mt-bench"]):
        turns = tuple(replace(turn, text=text(at), completion_tokens=tokens) for turn in record.reply.turns)
        run = changed(run, at, reply=TextReply(turns=turns))
    return run


@pytest.mark.parametrize("text", ["同じ答えです。", "答案都一样。", "คำตอบเดียวกัน", "One and the same answer. "])
def test_without_token_counts_length_is_in_characters_whatever_the_script(made: ModuleType, text: str) -> None:
    baseline = written(chat(made, "baseline"), lambda at: f"{at}{text}", tokens=0)
    candidate = written(chat(made, "candidate"), lambda at: f"{at}{text}" * 6, tokens=0)
    answers = compare(baseline, candidate, "mt-bench").answers
    assert answers is not None
    assert answers.length_unit == "characters"
    assert answers.length_ratio == 6.0
    assert answers.baseline_length == 4 * 2 * (len(text) + 1)


def test_one_side_without_token_counts_makes_both_be_counted_in_characters(made: ModuleType) -> None:
    baseline = written(chat(made, "baseline"), lambda at: f"{at} yes", tokens=2)
    candidate = written(chat(made, "candidate"), lambda at: f"{at} yes", tokens=0)
    answers = compare(baseline, candidate, "mt-bench").answers
    assert answers is not None
    assert (answers.length_unit, answers.length_ratio) == ("characters", 1.0)


def test_only_answers_present_on_both_sides_count_toward_the_length(made: ModuleType) -> None:
    candidate = changed(chat(made, "candidate"), 0, status="failed", failure="timeout: 60 s", reply=None)
    answers = compare(chat(made, "baseline"), candidate, "mt-bench").answers
    assert answers is not None
    assert (answers.n, answers.baseline_length, answers.length_ratio) == (3, 600, 1.0)


def test_unreadable_answers_are_counted_by_side_and_reason(made: ModuleType) -> None:
    baseline = changed(chat(made, "baseline"), 0, invalid="empty")
    candidate = changed(chat(made, "candidate"), 1, invalid="degenerate")
    candidate = changed(candidate, 2, reply=cut(candidate.records["mt-bench"][2]))
    candidate = changed(candidate, 0, invalid="empty")
    answers = compare(baseline, candidate, "mt-bench").answers
    assert answers is not None
    assert answers.baseline_invalid == {"empty": 1}
    assert answers.candidate_invalid == {"degenerate": 1, "empty": 1, "truncated": 1}
    assert (answers.baseline_invalid_items, answers.candidate_invalid_items) == (1, 3)
    table = answers.invalid_table
    assert table is not None
    assert (table.n11, table.n10, table.n01, table.n00) == (1, 0, 2, 1)


def test_the_token_limit_makes_a_conversation_unreadable_but_not_a_short_answer(made: ModuleType) -> None:
    baseline = generated(made, "baseline", {}, finish="length")
    answers = compare(baseline, generated(made, "candidate", {1: "unparsable"}, finish="length"), "mmlu").answers
    assert answers is not None
    assert answers.baseline_invalid == {}
    assert answers.candidate_invalid == {"unparsable": 1}


def test_an_unreadable_answer_stays_in_the_table_as_wrong(made: ModuleType) -> None:
    comparison = compare(generated(made, "baseline", {}), generated(made, "candidate", {0: "unparsable"}), "mmlu")
    assert comparison.faults == ()
    assert comparison.proportion is not None
    table = comparison.proportion.observed
    assert table is not None
    assert (table.n, table.n10) == (6, 1)
    assert comparison.coverage is not None
    assert comparison.coverage.candidate.missing == 0


def test_identical_answers_are_counted(made: ModuleType) -> None:
    baseline, candidate = chat(made, "baseline"), chat(made, "candidate")
    candidate = changed(candidate, 3, reply=baseline.records["mt-bench"][3].reply)
    answers = compare(baseline, candidate, "mt-bench").answers
    assert answers is not None
    assert (answers.n, answers.identical) == (4, 1)


def test_runs_with_identical_replies_are_the_same_model(made: ModuleType) -> None:
    marks = np.array([1.0, 0.0, 1.0, 0.0])
    baseline = made.make_run("baseline", marks=marks, scores=np.full((3, 2, 1), 5.0), seed=1)
    copy = made.make_run("candidate", marks=marks, scores=np.full((3, 2, 1), 5.0), seed=1)
    copy = replace(copy, records={**copy.records, "mt-bench": baseline.records["mt-bench"]})
    assert compare(baseline, copy, "mmlu").same_model
    assert compare(baseline, copy, "mt-bench").same_model


def test_equal_marks_with_other_probabilities_are_not_the_same_model(made: ModuleType) -> None:
    marks = np.array([1.0, 0.0, 1.0, 0.0])
    assert not compare(
        made.make_run("b", marks=marks, seed=1), made.make_run("c", marks=marks, seed=2), "mmlu"
    ).same_model


def test_one_bit_of_one_log_probability_is_enough_for_another_model(made: ModuleType) -> None:
    baseline = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    reply = baseline.records["mmlu"][1].reply
    moved = replace(reply, logprobs=(np.nextafter(reply.logprobs[0], 0.0).item(), *reply.logprobs[1:]))
    assert not compare(baseline, changed(baseline, 1, task="mmlu", reply=moved), "mmlu").same_model


def test_failed_replies_are_no_evidence_of_the_same_model(made: ModuleType) -> None:
    failed = made.make_run("baseline", marks=np.array([np.nan, np.nan]), seed=1)
    assert not compare(failed, failed, "mmlu").same_model
    mixed = made.make_run("baseline", marks=np.array([np.nan, 1.0]), seed=1)
    assert compare(mixed, mixed, "mmlu").same_model


def test_a_scored_task_has_no_answers_to_compare(made: ModuleType) -> None:
    run = made.make_run("baseline", marks=np.array([1.0, 0.0]), seed=1)
    assert compare(run, run, "mmlu").answers is None
