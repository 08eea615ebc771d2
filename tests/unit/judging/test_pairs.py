from __future__ import annotations

import re

import pytest

from evalkit.definitions import JudgeProfile
from evalkit.errors import UsageError
from evalkit.judging import load_words, plan_pairs
from evalkit.records import EngineIdentity, Item, Record, TextReply, Turn, digest

PROMPTS = {
    "source": "inline",
    "turn_1": "<{marker}> {question_1}|{answer_a_1}|{answer_b_1} <{marker}>",
    "turn_1_with_reference": "{question_1}|{reference_1}|{answer_a_1}|{answer_b_1}",
    "turn_2": "{question_1}|{question_2}|{answer_a_1}|{answer_b_1}|{answer_a_2}|{answer_b_2}",
    "turn_2_with_reference": "{question_1}|{question_2}|{reference_1}|{reference_2}|{answer_a_1}|{answer_b_1}"
    "|{answer_a_2}|{answer_b_2}",
}
JUDGE = EngineIdentity(
    adapter="fake",
    model="judge",
    weights_sha256="a",
    recipe="none",
    recipe_sha256=None,
    fidelity="engine",
    quantization={},
    dtype="f",
    tokenizer_sha256="b",
    chat_template_sha256=None,
    versions={},
    device="cpu",
)
LOOP = "and so on it goes " * 60


def profile(**changes):
    given = {"name": "pair", "mode": "pairwise", "answer": "choice_text", "scale": (-1, 1), "prompts": PROMPTS}
    return JudgeProfile(**{**given, **changes})


def item(number=0, subject="writing"):
    references = {"cor1": ["right one", "right two"]} if subject == "math" else {}
    return Item(
        task="talk",
        subject=subject,
        item_sha256=f"{number:064d}",
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        doc={},
        turns=("ask", "then"),
        details={"references": references},
    )


def record(one, *texts, sample=0):
    turns = tuple(Turn(text=text, finish="stop", prompt_tokens=1, completion_tokens=1) for text in texts)
    return Record(
        task=one.task,
        subject=one.subject,
        item_sha256=one.item_sha256,
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        sample=sample,
        status="ok" if texts else "failed",
        failure=None if texts else "transport: gone",
        reply=TextReply(turns=turns) if texts else None,
    )


def planned(ours, theirs, items=None, **options):
    given = {"references": None, "samples": 1, "repeats": 1, "seed": 0, **options}
    return plan_pairs(items or [item()], ours, theirs, load_words(profile(), None), JUDGE, **given)


def test_every_turn_is_asked_in_both_orders():
    plan = planned([[record(item(), "x1", "x2")]], [record(item(), "y1", "y2")])
    assert plan.planned == len(plan.questions) == 4
    found = sorted(
        (place.turn, place.repeat, question.judged_first, question.answers)
        for question in plan.questions
        for place in question.places
    )
    assert found == [
        (1, 0, True, ("x1", "y1")),
        (1, 1, False, ("y1", "x1")),
        (2, 0, True, ("x1", "x2", "y1", "y2")),
        (2, 1, False, ("y1", "y2", "x1", "x2")),
    ]
    assert all(
        place.answer_sha256 == digest([["x1"], ["y1"]]) for q in plan.questions for place in q.places if place.turn == 1
    )


def test_texts_equal_to_the_letter_are_a_tie_without_a_question():
    plan = planned([[record(item(), "same", "x2")]], [record(item(), "same", "y2")])
    rules = {(place.turn, q.rule, q.rule_score) for q in plan.questions for place in q.places}
    assert rules == {(1, "identical", 0.0), (2, None, None)}


@pytest.mark.parametrize(
    ("ours", "theirs", "rule", "score"),
    [
        ("", "fine", "empty", -1.0),
        ("fine", "", "empty", 1.0),
        (LOOP, "", "degenerate", 0.0),
        (LOOP, "ok", "degenerate", -1),
    ],
)
def test_an_unreadable_answer_loses_by_rule(ours, theirs, rule, score):
    plan = planned([[record(item(), ours, "x")]], [record(item(), theirs, "y")])
    found = {(q.rule, q.rule_score) for q in plan.questions for place in q.places if place.turn == 1}
    assert found == {(rule, score)}


def test_what_failed_on_either_side_has_no_game():
    one, two = item(1), item(2)
    plan = planned([[record(one), record(two, "x", "x")]], [record(one, "y", "y"), record(two)], [one, two])
    assert plan.questions == ()
    assert plan.planned == 8


def test_references_are_shown_where_the_category_needs_them():
    math = item(3, "math")
    plan = planned([[record(math, "x1", "x2")]], [record(math, "y1", "y2")], [math], references="cor1")
    assert all("right one" in question.user and question.reference for question in plan.questions)
    with pytest.raises(UsageError, match="no 'original' reference"):
        planned([[record(math, "x", "x")]], [record(math, "y", "y")], [math], references="original")


def test_repeats_and_orders_never_share_a_key_and_equal_answers_do():
    ours = [[record(item(), "x1", "x2")], [record(item(), "x1", "x2")]]
    plan = planned(ours, [record(item(), "y1", "y2")], repeats=3)
    assert len({q.key for q in plan.questions}) == len(plan.questions) == 2 * 2 * 3
    assert {len(q.places) for q in plan.questions} == {2}
    assert {place.repeat for q in plan.questions for place in q.places} == set(range(6))


def test_an_answer_meets_the_opponents_answer_of_the_same_number():
    ours = [[record(item(), "x1", "x2"), record(item(), "x3", "x4", sample=1)]]
    plan = planned(ours, [record(item(), "y1", "y2"), record(item(), "y3", "y4", sample=1)], samples=2)
    firsts = {q.answers for q in plan.questions if q.judged_first and len(q.answers) == 2}
    assert firsts == {("x1", "y1"), ("x3", "y3")}


def test_delimiters_carry_a_word_that_follows_from_the_answers():
    words = load_words(profile(), None)
    users = [words.fill_pair(["ask"], [answer], ["other"], None)[1] for answer in ("one", "two", "one")]
    marks = [re.findall(r"<([0-9a-f]{16})>", user) for user in users]
    assert [len(set(found)) for found in marks] == [1, 1, 1]
    assert marks[0] == marks[2] != marks[1]


def test_a_profile_of_the_other_mode_is_refused():
    with pytest.raises(ValueError, match="must be \\[-1, 1\\]"):
        profile(scale=(1, 10))
    with pytest.raises(ValueError, match="'choice_text' does not go with mode 'single'"):
        profile(mode="single", scale=(1, 10))
