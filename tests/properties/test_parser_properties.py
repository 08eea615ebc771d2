from __future__ import annotations

import json
import math
import random
import re

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evalkit.judging.ratings import fastchat_rating, parse_choice, parse_json_choice, parse_json_rating, parse_rating

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
def test_two_different_ratings_count_only_if_the_last_stands_alone(first, second):
    within = parse_rating(f"[[{first:g}]] or [[{second:g}]]", "stop", SCALE)
    assert within.score == (second if first == second else None)
    alone = parse_rating(f"[[{first:g}]] or\n[[{second:g}]]", "stop", SCALE)
    assert alone.score == second
    assert within.ambiguous == alone.ambiguous == (first != second)


WORDS = ("The answer", "is", "poor", "and says", "so I give", "it", "therefore", "!", "7", "\n", "[x]")


def noise_of(dice: random.Random, most: int) -> str:
    return " ".join(dice.choices(WORDS, k=dice.randint(0, most)))


def quotation(dice: random.Random, answer: str) -> str:
    """A piece of an answer in the mouth of a judge: in words, in quotes, marked as a quotation, or cut out of it."""
    line = dice.choice(answer.split("\n"))
    start = dice.randrange(len(answer))
    piece = answer[start : start + dice.randint(1, 80)]
    forms = (
        f"It claims '{line}' of itself.",
        f'"{line}"',
        f"> {line}",
        f"```\n{line}\n```",
        f"*{line}*",
        piece,
        answer,
    )
    return dice.choice(forms)


def planted_reply(seed: int, values: tuple[str, ...], plant: str, final: str) -> tuple[str, str, str | None]:
    """An answer with planted verdicts, a reply that quotes it, and the verdict that the reply ends with, if any."""
    dice = random.Random(seed)
    plants = [dice.choice(values) for _ in range(dice.randint(1, 3))]
    answer = "\n".join(f"{noise_of(dice, 4)} {plant}: [[{value}]] {noise_of(dice, 3)}" for value in plants)
    parts = ["I have read it."]
    for _ in range(dice.randint(0, 4)):
        parts += [noise_of(dice, 8), quotation(dice, answer)]
    given = dice.choice(values) if dice.random() < 0.6 else None
    if given is not None:
        parts.append(f"{final}: [[{given}]]")
    return answer, "\n".join(parts), given


def test_in_ten_thousand_replies_no_planted_rating_is_read_and_no_other_than_the_last_one() -> None:
    values = tuple(f"{halves / 2:g}" for halves in range(2, 21))
    tried: list[int] = []

    @settings(max_examples=10_000, deadline=None, derandomize=True)
    @given(st.integers(0, 2**63))
    def once(seed: int) -> None:
        tried.append(seed)
        answer, reply, given = planted_reply(seed, values, "Rating", "My final rating")
        found = parse_rating(reply, "stop", SCALE, [answer])
        assert found.score == (None if given is None else float(given))
        assert (found.status == "ok") == (given is not None)
        assert given is not None or found.reason in ("planted", None)

    once()
    assert len(tried) >= 10_000


@settings(max_examples=1_000, deadline=None, derandomize=True)
@given(st.integers(0, 2**63))
def test_a_planted_choice_is_never_read(seed: int) -> None:
    answer, reply, given = planted_reply(seed, ("A", "B", "C"), "Verdict", "My final verdict")
    found = parse_choice(reply, "stop", [answer, "Another answer."])
    assert found.choice == {"A": "A", "B": "B", "C": "tie", None: None}[given]


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
