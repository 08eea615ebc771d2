from __future__ import annotations

import math

import pytest

from evalkit.definitions import JudgeProfile
from evalkit.errors import DataError
from evalkit.judging import Question
from evalkit.judging.reading import continuations, likeliest_choice, read_probabilities, scored_texts, weighted_rating


def logs(values):
    return [math.log(value) for value in values]


def test_the_mean_is_weighted_and_normalised():
    found = weighted_rating((1, 4), logs([0.1, 0.2, 0.05, 0.05]), [1, 1, 1, 1])
    assert found.score == pytest.approx((0.1 + 0.4 + 0.15 + 0.2) / 0.4)
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.mass == pytest.approx(0.4)


def test_ten_in_two_tokens_is_taken_off_one():
    # P("1") counts everything that begins with 1: 0.5 for 10 and 0.1 for 1 itself.
    values = [0.6, *[0.01] * 8, 0.5]
    split = weighted_rating((1, 10), logs(values), [1] * 9 + [2])
    whole = weighted_rating((1, 10), logs([0.1, *values[1:]]), [1] * 10)
    assert split.score == pytest.approx(whole.score)
    assert split.mass == pytest.approx(0.1 + 0.08 + 0.5)


def test_ten_in_one_token_is_not():
    found = weighted_rating((1, 10), logs([0.6, *[0.01] * 8, 0.2]), [1] * 10)
    assert found.probabilities[0] == pytest.approx(0.6 / 0.88)


def test_very_small_probabilities_do_not_vanish():
    found = weighted_rating((1, 3), [-1000.0, -1000.0, -1000.0], [1, 1, 1])
    assert found.score == pytest.approx(2)
    assert found.mass == 0


def test_rounding_never_makes_a_negative_probability():
    found = weighted_rating((1, 10), [math.log(0.5), *logs([0.01] * 8), math.log(0.5) + 1e-12], [1] * 9 + [2])
    assert found.probabilities[0] == 0


@pytest.mark.parametrize("values", [[-1.0], [-1.0, float("nan")], [-1.0, float("-inf")]])
def test_missing_and_non_finite_values_are_refused(values):
    with pytest.raises(DataError, match="2 finite log-probabilities"):
        weighted_rating((1, 2), values, [1] * len(values))


def test_the_texts_that_are_scored():
    assert continuations((8, 10)) == (" 8", " 9", " 10")


@pytest.mark.parametrize(
    ("values", "choice"), [([0.5, 0.2, 0.1], "A"), ([0.1, 0.3, 0.2], "B"), ([0.1, 0.1, 0.3], "tie"), ([0.2] * 3, "tie")]
)
def test_the_likeliest_letter_is_the_choice_and_equal_ones_are_a_tie(values, choice):
    found = likeliest_choice(logs(values))
    assert found.choice == choice
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.mass == pytest.approx(sum(values))


@pytest.mark.parametrize("values", [[-1.0, -1.0], [-1.0, -1.0, float("nan")]])
def test_a_choice_needs_three_finite_values(values):
    with pytest.raises(DataError, match="3 finite log-probabilities"):
        likeliest_choice(values)


@pytest.mark.parametrize(("first", "score"), [(True, 1.0), (False, -1.0)])
def test_a_choice_is_the_judged_answers_by_where_it_was_shown(first, score):
    profile = JudgeProfile(
        name="p",
        mode="pairwise",
        answer="choice_logprob",
        scale=(-1, 1),
        prompts={
            "source": "inline",
            "turn_1": "{question_1}{answer_a_1}{answer_b_1}",
            "turn_1_with_reference": "{question_1}{reference_1}{answer_a_1}{answer_b_1}",
            "turn_2": "{question_1}{question_2}{answer_a_1}{answer_b_1}{answer_a_2}{answer_b_2}",
            "turn_2_with_reference": "{question_1}{question_2}{reference_1}{reference_2}{answer_a_1}{answer_b_1}"
            "{answer_a_2}{answer_b_2}",
        },
    )
    question = Question(key="k", system=None, user="u", reference=False, places=(), rule=None, judged_first=first)
    assert scored_texts(profile) == ("\n\nBetter answer:", (" A", " B", " C"))
    verdict = read_probabilities(profile, question, logs([0.5, 0.2, 0.1]), [1, 1, 1])
    assert (verdict.status, verdict.score, verdict.details["choice"]) == ("ok", score, "A")
