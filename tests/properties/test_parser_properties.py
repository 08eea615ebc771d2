from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from evalkit.judging.ratings import fastchat_rating, parse_choice, parse_rating

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
