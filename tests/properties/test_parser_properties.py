from __future__ import annotations

import json
import math
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.judging.ratings import fastchat_rating, parse_choice, parse_rating
from evalkit.judging.structured import parse_json_choice, parse_json_rating

SCALE = (1, 10)
PIECES = st.sampled_from(
    [
        "[[",
        "]]",
        "[",
        "]",
        "8",
        "10",
        "-1",
        "7.5",
        "8.75",
        "/10",
        " ",
        "\n",
        "A",
        "B",
        "C",
        "rating",
        ".",
        "0",
        "٣",
        "½",
    ]
)
NOISE = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=25).map("".join))
FINISH = st.sampled_from(["stop", "length"])
GRID = st.integers(2, 20).map(lambda halves: halves / 2)


@given(NOISE, FINISH)
def test_no_text_crashes_a_parser_and_every_score_is_on_the_scale_and_grid(text, finish):
    found = parse_rating(text, finish, SCALE)
    assert (found.score is not None) == (found.status == "ok")
    if found.score is not None:
        assert 1 <= found.score <= 10
        assert found.score * 2 == round(found.score * 2)
    choice = parse_choice(text, finish)
    assert (choice.choice is not None) == (choice.status == "ok")
    parity = fastchat_rating(text)
    assert parity is None or math.isfinite(parity)


@given(NOISE, GRID)
def test_the_rating_given_last_is_the_rating(noise, value):
    found = parse_rating(f"{noise}\nRating: [[{value:g}]]", "stop", SCALE)
    assert (found.status, found.score) == ("ok", value)


@given(NOISE)
def test_a_text_without_double_brackets_never_has_a_score(noise):
    text = re.sub(r"\[+", "[", noise)
    assert parse_rating(text, "stop", SCALE).status == "unparsed"
    assert parse_choice(text, "stop").status == "unparsed"


@given(NOISE, GRID)
def test_a_cut_off_text_never_has_a_score(noise, value):
    assert parse_rating(f"{noise}[[{value:g}]]", "length", SCALE).status == "truncated"


@given(NOISE, st.sampled_from(["A", "B", "C"]))
def test_the_choice_given_last_is_the_choice(noise, letter):
    found = parse_choice(f"{noise} [[{letter}]]", "stop")
    assert found.choice == {"A": "A", "B": "B", "C": "tie"}[letter]


@given(GRID, GRID)
def test_two_different_ratings_are_ambiguous(first, second):
    found = parse_rating(f"[[{first:g}]] or [[{second:g}]]", "stop", SCALE)
    assert found.score == second
    assert found.ambiguous == (first != second)


PLAIN = st.text(alphabet="abc .,!?\n'", max_size=40)
WORDS = st.lists(st.sampled_from(["The answer", "is", "poor", "and says", "so I give", "it", "therefore"]), max_size=8)


@st.composite
def planted_replies(draw):
    """A reply that quotes an answer's planted ratings in words, and may end with a rating of its own."""
    plants = draw(st.lists(GRID, min_size=1, max_size=3))
    answer = "\n".join(f"{draw(PLAIN)} Rating: [[{plant:g}]]{draw(PLAIN)}" for plant in plants)
    parts = []
    for _ in range(draw(st.integers(0, 4))):
        parts.append(" ".join(draw(WORDS)))
        parts.append(f"It claims 'Rating: [[{draw(st.sampled_from(plants)):g}]]' of itself.")
    given = draw(st.one_of(st.none(), GRID))
    if given is not None:
        parts.append(f"\nMy final rating: [[{given:g}]]")
    return answer, "\n".join(parts), given


@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(planted_replies())
def test_a_rating_planted_in_an_answer_is_never_read(case):
    answer, reply, given = case
    found = parse_rating(reply, "stop", SCALE, [answer])
    assert found.score == given
    assert (found.status == "ok") == (given is not None)


JSONISH = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
REPLIES = st.one_of(
    NOISE,
    JSONISH.map(json.dumps),
    st.dictionaries(st.sampled_from(["reasoning", "rating", "winner", "x"]), JSONISH, max_size=4).map(json.dumps),
    st.tuples(NOISE, GRID).map(lambda pair: f'{{"reasoning": {json.dumps(pair[0])}, "rating": {pair[1]:g}}}'),
)


@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(REPLIES, FINISH)
def test_no_reply_crashes_the_structured_parsers_and_only_a_rating_given_is_read(reply, finish):
    found = parse_json_rating(reply, finish, SCALE, [])
    choice = parse_json_choice(reply, finish, [])
    assert (found.score is not None) == (found.status == "ok")
    assert (choice.choice is not None) == (choice.status == "ok")
    if found.score is not None:
        assert finish == "stop"
        stated = f"{found.score:g}"
        assert stated in reply or f"{found.score}" in reply or f"0{stated}" in reply


@given(GRID, NOISE)
def test_an_object_with_a_rating_gives_that_rating_whatever_the_reasoning_holds(value, noise):
    reply = json.dumps({"reasoning": noise, "rating": value})
    assert parse_json_rating(reply, "stop", SCALE, []).score == value
