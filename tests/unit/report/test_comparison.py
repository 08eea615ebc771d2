"""One comparison for people: the published worked example to the last printed digit, and what is unusual in words."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.records import TextReply, Turn
from evalkit.report import as_markdown, as_text, comparison_sections


def shown(comparison: Any, **options: Any) -> str:
    """The comparison as terminal text, white space folded, as read back from JSON."""
    plain = json.loads(json.dumps(comparison.to_dict(), sort_keys=True))
    return " ".join(as_text(comparison_sections(plain, **options)).split())


@pytest.fixture(scope="module")
def worked(made: ModuleType) -> Any:
    pairs = np.repeat([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], [11845, 231, 190, 1776], axis=0)
    left, right = made.make_run("baseline", marks=pairs[:, 0], seed=1), made.make_run("new", marks=pairs[:, 1], seed=2)
    return compare(left, right, "mmlu")


@pytest.mark.parametrize(
    "said",
    [
        "accuracy, baseline 86.00 % chance 25.0 %",
        "accuracy, candidate 85.71 % chance 25.0 %",
        "difference -0.29 points [-0.58, -0.01] points (95 %, tango)",
        "the same, second method [-0.58, 0.00] points (95 %, newcombe-10)",  # -0.5796 and -0.0050
        "both right / both wrong 11,845 / 1,776",
        "lost (only the baseline right) 231",
        "gained (only the candidate right) 190",
        "flips 3.00 % [2.7, 3.3] % (95 %, wilson)",
        "as many lost as gained? p = 0.046 (mid-p McNemar)",
        "equivalent within 1 points? p = 1.4e-06 (two one-sided tests)",
        "gained for each lost 0.823",
        "recovery, candidate/baseline 0.9966 [0.993, 1.000] (95 %",
        "n = 14,042 complete pairs, simulated against simulated fidelity",
        "mmlu (protocol ll-5shot, 5 shots, metric acc)",
        "Every difference is candidate minus baseline.",
        "Pairs left out of the estimates: none.",
    ],
)
def test_the_worked_example_reads_as_published(worked: Any, said: str) -> None:
    assert said in shown(worked)


def test_both_ways_to_write_hold_the_same_words(worked: Any) -> None:
    sections = comparison_sections(worked.to_dict())
    words = [
        re.sub(r"[^A-Za-z0-9.,%+]+", " ", write(sections).replace(":-", " ")).split()
        for write in (as_markdown, as_text)
    ]
    assert words[0] == words[1]


def test_the_table_of_subjects_can_be_left_out(worked: Any) -> None:
    assert "By subject" in shown(worked)
    assert "subject-56" in shown(worked)
    assert "By subject" not in shown(worked, subjects=False)


def test_identical_runs_are_called_the_same_model(made: ModuleType) -> None:
    run = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    other = made.make_run("candidate", marks=np.array([1.0, 0.0, 1.0]), seed=2)
    assert "SAME MODEL: every reply of both sides is identical" in shown(compare(run, run, "mmlu"))
    assert "SAME MODEL" not in shown(compare(run, other, "mmlu"))


def test_missing_items_are_told_by_side_and_reason(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, np.nan, 1.0, 0.0]), seed=1)
    right = made.make_run("candidate", marks=np.array([1.0, 1.0, 0.0, 0.0]), seed=2)
    text = shown(compare(left, right, "mmlu"))
    assert "baseline, items 4 3 1 transport 0" in text
    assert "candidate, items 4 4 none 0" in text
    assert "Pairs left out of the estimates: 1 baseline-failed." in text
    assert "n = 3 complete pairs" in text


def test_what_could_not_be_estimated_is_told_with_its_reason(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), scores=np.full((3, 2, 1), 5.0), seed=1)
    right = made.make_run("candidate", marks=np.array([1.0, 1.0, 1.0]), scores=np.full((3, 2, 1), 5.0), seed=2)
    assert re.search(r"not estimated: gains_per_loss: n01/n10 is 1/0", shown(compare(left, right, "mmlu")))
    text = shown(compare(left, right, "mt-bench"))
    assert "difference 0.00 no interval" in text
    assert re.search(r"not estimated: interval: .*standard error of zero", text)


def test_a_share_is_a_percentage_and_another_score_is_not(made: ModuleType) -> None:
    def text(left: list[float], right: list[float]) -> str:
        runs = made.make_run("a", marks=np.array(left), seed=1), made.make_run("b", marks=np.array(right), seed=2)
        return shown(compare(*runs, "mmlu"))

    share = text([0.5, 0.25, 0.75], [0.25, 0.25, 0.25])
    assert "mean acc, baseline 50.00 % n = 3" in share
    assert re.search(r"difference -25\.00 points \[-\d+\.\d\d, [+-]\d+\.\d\d\] points \(90 %, paired-t\)", share)
    score = text([31.5, 20.0, 25.0], [30.5, 19.0, 27.0])
    assert "mean acc, baseline 25.5 n = 3" in score
    assert re.search(r"difference \+0 \[-\d\.\d\d, \+\d\.\d\d\] \(90 %, paired-t\)", score)
    assert "2550" not in score


def test_generated_answers_of_a_marked_task_are_told_too(made: ModuleType) -> None:
    def run(name: str, tokens: int, invalid: str | None) -> Any:
        made_run = made.make_run(name, marks=np.array([1.0, 0.0, 1.0, 0.0]), seed=1)
        records = tuple(
            replace(
                record,
                reply=TextReply(
                    turns=(Turn(text=f"{name} {at}", finish="stop", prompt_tokens=9, completion_tokens=tokens),)
                ),
                invalid=invalid if at == 1 else None,
            )
            for at, record in enumerate(made_run.records["mmlu"])
        )
        return replace(made_run, records={"mmlu": records})

    text = shown(compare(run("baseline", 100, None), run("candidate", 90, "unparsable"), "mmlu"))
    assert "Answers: 0 of 4 equal to the letter; tokens 400 -> 360 (ratio 0.900)" in text
    assert "unreadable: baseline none, candidate 1 unparsable" in text
    assert re.search(r"increase in unreadable answers \[[+-]\d+\.\d\d, \+\d+\.\d\d\] points \(95 %, tango\)", text)


def test_a_task_one_run_lacks_is_told_without_numbers(made: ModuleType) -> None:
    run = made.make_run("baseline", marks=np.array([1.0, 0.0, 1.0]), seed=1)
    text = shown(compare(run, run, "gsm8k"))
    assert "INVALID, coverage: task 'gsm8k' is not in the run" in text
    assert "effect" not in text


def test_ratings_of_questions_without_judgments_say_how_many_remain(made: ModuleType) -> None:
    left, right = np.full((3, 2, 1), 5.0), np.array([[[6.0], [6.0]], [[np.nan], [np.nan]], [[4.0], [5.0]]])
    text = shown(compare(made.make_run("a", scores=left), made.make_run("b", scores=right), "mt-bench"))
    assert "n = 2 questions of 3" in text
    assert "candidate, judgments 6 4 2 unparsed 0" in text
    assert "Pairs left out of the estimates: 1 candidate-unrated." in text
