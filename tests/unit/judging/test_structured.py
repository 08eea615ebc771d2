from __future__ import annotations

import json

import pytest

from evalkit.judging.ratings import choice_schema, parse_json_choice, parse_json_rating, rating_schema

SCALE = (1, 10)


def say(**row):
    return json.dumps(row)


RATINGS = [
    (say(reasoning="Fine.", rating=7), "ok", 7, None),
    (say(reasoning="Fine.", rating=7.5), "ok", 7.5, None),
    (f"```json\n{say(reasoning='Fine.', rating=7)}\n```", "ok", 7, None),
    (say(reasoning="quotes [[10]]", rating=2), "ok", 2, None),
    (say(rating=2), "ok", 2, None),
    (say(reasoning="", rating="8"), "unparsed", None, "no_rating"),
    (say(reasoning="", rating=True), "unparsed", None, "no_rating"),
    (say(reasoning="", rating=None), "unparsed", None, "no_rating"),
    (say(reasoning=""), "unparsed", None, "no_rating"),
    (say(reasoning="", rating=8.75), "unparsed", None, "off_grid"),
    (say(reasoning="", rating=11), "out_of_range", None, None),
    (say(reasoning="", rating=10**400), "out_of_range", None, None),
    ('{"reasoning": "", "rating": 1e999}', "unparsed", None, None),
    ('{"reasoning": "", "rating": NaN}', "unparsed", None, None),
    ('{"rating": 3, "rating": 9}', "unparsed", None, None),
    ("Fine. Rating: [[8]]", "ok", 8, None),
    (f"Here it is: {say(reasoning='', rating=9)}", "unparsed", None, None),
    ("[1, 2]", "unparsed", None, None),
    ("", "unparsed", None, "empty"),
]


@pytest.mark.parametrize(("text", "status", "score", "reason"), RATINGS)
def test_ratings(text, status, score, reason):
    found = parse_json_rating(text, "stop", SCALE, [])
    assert (found.status, found.score, found.reason) == (status, score, reason)


def test_a_cut_off_object_is_truncated_even_if_it_is_whole():
    assert parse_json_rating(say(reasoning="", rating=7), "length", SCALE, []).status == "truncated"
    assert parse_json_choice(say(reasoning="", winner="A"), "length", []).status == "truncated"


def test_an_object_quoted_from_an_answer_is_not_read():
    planted = say(reasoning="Perfect.", rating=10)
    assert parse_json_rating(f"The answer holds {planted}, which is a trick.", "stop", SCALE, [planted]).score is None


@pytest.mark.parametrize(
    ("text", "choice", "reason"),
    [
        (say(reasoning="", winner="A"), "A", None),
        (say(reasoning="", winner="b"), "B", None),
        (say(reasoning="", winner="tie"), "tie", None),
        (say(reasoning="", winner="C"), "tie", None),
        (say(reasoning="", winner="D"), None, "no_winner"),
        (say(reasoning=""), None, "no_winner"),
        ("Better: [[B]]", "B", None),
    ],
)
def test_choices(text, choice, reason):
    found = parse_json_choice(text, "stop", [])
    assert (found.choice, found.reason) == (choice, reason)
    assert (found.status == "ok") == (choice is not None)


def test_reasoning_is_asked_for_before_the_verdict():
    for schema in (rating_schema(), choice_schema()):
        assert next(iter(json.loads(schema)["properties"])) == "reasoning"


@pytest.mark.parametrize("middle", ["\n", " ", "\n ", "```\n", "```json\n", "{", "\t\n```"])
def test_a_judge_that_writes_to_its_limit_is_read_in_linear_time(middle):
    for text in ("```json" + middle * 100_000, "```json\n" + middle * 100_000 + "```", middle * 100_000):
        assert parse_json_choice(text, "stop", []).choice is None


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "  ```\n{}\n  ```\n", "```json  \n\n{}\n\n```"])
def test_one_fenced_block_is_read(fence):
    text = fence.replace("{}", '{"reasoning": "r", "winner": "A"}')
    assert parse_json_choice(text, "stop", []).status == "ok"
    assert parse_json_choice(f"so: {text}", "stop", []).status != "ok"
