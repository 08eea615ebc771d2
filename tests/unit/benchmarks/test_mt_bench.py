from __future__ import annotations

import pytest

from evalkit.assets import MtBench, MtBenchQuestion
from evalkit.benchmarks.mt_bench import MtBenchBenchmark
from evalkit.definitions import TaskDefinition
from evalkit.errors import AssetError, MissingExtraError, UsageError
from evalkit.records import TextReply, Turn

CATEGORIES = ("writing", "math", "novel")
DATA = MtBench(
    source="test",
    questions=tuple(
        MtBenchQuestion(question_id=81 + n, category=CATEGORIES[n // 3], turns=(f"ask {n}", f"then {n}"))
        for n in range(9)
    ),
    judge_prompts={},
    references={"cor1": {84 + n: (f"right {n}", f"also {n}") for n in range(3)}},
)


def definition(**settings) -> TaskDefinition:
    top = {key: settings.pop(key) for key in ("items_per_subject", "subjects") if key in settings}
    return TaskDefinition.model_validate(
        {
            "name": "talk",
            "kind": "conversation",
            "benchmark": "mt_bench",
            "protocol": "mt-bench",
            "metric": "rating",
            "dataset": "mt-bench",
            "mt_bench": settings,
            **top,
        }
    )


def load(**settings) -> MtBenchBenchmark:
    return MtBenchBenchmark(definition(**settings), DATA, {"asset": "mt-bench"})


def numbers(benchmark):
    return sorted(item.details["question_id"] for item in benchmark.items)


def test_every_question_has_two_turns_its_category_and_its_references():
    benchmark = load()
    assert numbers(benchmark) == list(range(81, 90))
    item = next(item for item in benchmark.items if item.details["question_id"] == 85)
    assert (item.subject, item.turns, item.context) == ("math", ("ask 4", "then 4"), None)
    assert item.details["references"] == {"cor1": ["right 1", "also 1"]}
    assert next(item for item in benchmark.items if item.subject == "writing").details["references"] == {}


def test_greedy_is_greedy_and_fastchat_has_its_temperatures():
    greedy, fastchat = load(), load(generation="fastchat")
    assert {greedy.decoding(item).temperature for item in greedy.items} == {0.0}
    assert {item.subject: fastchat.decoding(item).temperature for item in fastchat.items} == {
        "writing": 0.7,
        "math": 0.0,
        "novel": 0.7,
    }
    assert greedy.task_run.settings["temperatures"] != fastchat.task_run.settings["temperatures"]
    assert {fastchat.decoding(item).max_tokens for item in fastchat.items} == {1024}


def test_several_generations_are_planned():
    benchmark = load(generation="fastchat", generations=3)
    assert (benchmark.samples, benchmark.task_run.planned) == (3, 27)


def test_choosing_questions():
    assert numbers(load(per_category=1)) == [81, 84, 87]
    assert numbers(load(questions=[82, 88])) == [82, 88]
    assert numbers(load(subjects=["math"])) == [84, 85, 86]
    assert len(load(items_per_subject=2).items) == 6


def test_what_is_not_there_is_named():
    with pytest.raises(UsageError, match="no question 99; it has 81 to 89"):
        load(questions=[99])
    with pytest.raises(UsageError, match="no category 'maths'; did you mean 'math'"):
        load(subjects=["maths"])
    with pytest.raises(AssetError, match="'original'"):
        load(references="original")


def test_a_template_of_fastchat_needs_fastchat_and_no_template_changes_nothing():
    with pytest.raises(MissingExtraError, match=r"template 'fastchat:vicuna_v1\.1' needs the package 'fastchat'"):
        load(template="fastchat:vicuna_v1.1")
    assert load().render(["ask"], []) is None
    assert "template" not in load().task_run.settings
    assert "template" not in definition().model_dump()["mt_bench"]


@pytest.mark.parametrize(
    ("texts", "invalid"),
    [(("fine", "good"), None), (("fine", " "), "empty"), (("so it goes " * 60, "good"), "degenerate")],
)
def test_marks_are_left_to_the_judge_but_unreadable_answers_are_said(texts, invalid):
    benchmark = load()
    turns = tuple(Turn(text=text, finish="stop", prompt_tokens=1, completion_tokens=1) for text in texts)
    marking = benchmark.mark(benchmark.items[0], TextReply(turns=turns))
    assert (marking.marks, marking.invalid) == ({}, invalid)
