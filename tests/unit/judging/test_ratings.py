from __future__ import annotations

import pytest

from evalkit.judging.ratings import fastchat_rating, parse_choice, parse_rating

SCALE = (1, 10)
SINGLE = [
    # judge text, FastChat's reading (None: -1 or a crash), strict status, strict score, ambiguous
    ("Rating: [[8]]", 8, "ok", 8, False),
    ("**[[8]]**", 8, "ok", 8, False),
    ("[[8]]/10", 8, "ok", 8, False),
    ("[[7.5]]", 7.5, "ok", 7.5, False),
    ("[[8.]]", 8, "ok", 8, False),
    ("[[10.0]]", 10, "ok", 10, False),
    ("[[8/10]]", None, "ok", 8, False),
    ("[[ 8 ]]", None, "ok", 8, False),
    ("Rating: 8/10", None, "unparsed", None, False),
    ("Rating: 8", None, "unparsed", None, False),
    ("[[rating]]", None, "unparsed", None, False),
    ("[[8,9]]", None, "unparsed", None, False),
    ("$ERROR$", None, "unparsed", None, False),
    ("", None, "unparsed", None, False),
    ("see arr[0]. Rating: 8", 0, "unparsed", None, False),
    ("Rating: [8]", 8, "unparsed", None, False),
    ("[[9]", 9, "unparsed", None, False),
    ("ref [3] ... Rating: [[ 7 ]]", 3, "ok", 7, False),
    ("Format is [[5]].\nRating: [[9]]", 5, "ok", 9, True),
    ("I would give [[10]] with sources, but there are none.\n\n**Rating: [[7]]/10**", 10, "ok", 7, True),
    ("Format is [[5]]. Rating: [[9]]", 5, "unparsed", None, True),
    ("Rating: [[7]], on second thought [[6]]", 7, "unparsed", None, True),
    ("Rating: [[7]]\n\nA rating of [[10]] would need sources.", 7, "unparsed", None, True),
    ("For accuracy: [[9]]\nFor clarity: [[5]]", 9, "unparsed", None, True),
    ("[[7]] or\n[[8]] at most", 7, "unparsed", None, True),
    ("Rating: [[7]] (scale [[rating]])", 7, "ok", 7, False),
    ("[[95]]", 95, "out_of_range", None, False),
    ("[[0]]", 0, "out_of_range", None, False),
    ("[[0.5]]", 0.5, "out_of_range", None, False),
    ("[[-1]]", None, "out_of_range", None, False),
    ("[[8.75]]", 8.75, "unparsed", None, False),
    ("[[05]]", None, "ok", 5, False),
    ("[[\u0665]]", None, "unparsed", None, False),
]
PAIR = [
    ("not [[A]];\nfinal: [[B]]", "unparsed", None, True),
    ("not [[A]];\nFinal verdict: [[B]]", "ok", "B", True),
    ("[[A]] or [[B]] or [[C]].\n\n[[C]]", "ok", "tie", True),
    ("not [[A]]; final: [[B]]", "unparsed", None, True),
    ("My verdict is [[A]], for it is better than [[B]].", "unparsed", None, True),
    ("[[ A ]]", "ok", "A", False),
    ("[[A]] indeed [[A]]", "ok", "A", False),
    ("[A]", "unparsed", None, False),
    ("[[a]]", "unparsed", None, False),
    ("[[D]]", "unparsed", None, False),
    ("[[Tie]]", "unparsed", None, False),
]


@pytest.mark.parametrize(("text", "fastchat", "status", "score", "ambiguous"), SINGLE)
def test_single(text, fastchat, status, score, ambiguous):
    found = parse_rating(text, "stop", SCALE)
    assert (found.status, found.score, found.ambiguous) == (status, score, ambiguous)
    assert fastchat_rating(text) == fastchat


def test_reasons():
    assert parse_rating("[[8.75]]", "stop", SCALE).reason == "off_grid"
    assert parse_rating("  ", "stop", SCALE).reason == "empty"
    assert parse_rating("eight", "stop", SCALE).reason is None
    assert parse_rating("[[7]], not [[8]]", "stop", SCALE).reason == "several"
    assert parse_choice("[[A]], not [[B]]", "stop").reason == "several"


def test_a_text_cut_at_its_limit_has_no_rating():
    found = parse_rating("Rating: [[8]] because", "length", SCALE)
    assert (found.status, found.score) == ("truncated", None)
    assert parse_choice("[[A]] because", "length").status == "truncated"


def test_another_scale():
    assert parse_rating("[[5]]", "stop", (0, 4)).status == "out_of_range"
    assert parse_rating("[[0]]", "stop", (0, 4)).score == 0


@pytest.mark.parametrize(("text", "status", "choice", "ambiguous"), PAIR)
def test_pair(text, status, choice, ambiguous):
    found = parse_choice(text, "stop")
    assert (found.status, found.choice, found.ambiguous) == (status, choice, ambiguous)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("The form is [[5]]. My rating: 9", "contradicted"),
        ("[[8]] at first. Final score: **7.5**", "contradicted"),
        ("[[8]], that is a score of 8", None),
        ("Rating: [[8]] on the scale from 1 to 10", None),
        ("Final score: 7. Rating: [[8]]", None),
    ],
)
def test_a_rating_in_words_after_the_last_one_in_brackets_must_say_the_same(text, reason):
    found = parse_rating(text, "stop", SCALE)
    assert (found.score, found.reason) == ((None, "contradicted") if reason else (8.0, None))
