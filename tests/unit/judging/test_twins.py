from __future__ import annotations

import pytest

from evalkit.degeneration import language
from evalkit.judging.probing import CHOICE_PLANTS, RATING_PLANTS, TWINS, plant
from evalkit.judging.ratings import parse_choice, parse_rating

ANSWER = (
    "To find the area of the triangle we use half of the base times the height. The base is 6 and the height is 4.5. "
    "So we multiply 6 by 4.5 and get 27. Half of this is 13.5. This is the area of the triangle and it is in square "
    "units. We can check it with the formula of Heron, which is longer."
)


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_differs_and_follows_from_the_answer_alone(name):
    twin = TWINS[name](ANSWER)
    assert twin is not None
    assert twin != ANSWER
    assert twin == TWINS[name](ANSWER)


def test_what_each_corruption_does():
    twins = {name: corrupt(ANSWER) for name, corrupt in TWINS.items()}
    assert ANSWER.startswith(twins["truncated"])
    assert len(twins["truncated"]) < len(ANSWER) / 2
    assert sorted(twins["shuffled"].split()) == sorted(ANSWER.split())
    assert twins["looped"].count("half of the base times the height") > 3
    assert twins["empty"] == ""
    assert "13.5" in ANSWER
    assert "46.8" in twins["wrong-number"]
    assert twins["wrong-number"].count("6") == ANSWER.count("6") + 1
    assert language(ANSWER) == "en"
    assert language(twins["wrong-language"]) != "en"


def test_what_cannot_be_corrupted_has_no_twin():
    assert TWINS["wrong-number"]("no number here") is None
    assert TWINS["shuffled"]("One sentence. Two of them.") is None
    assert TWINS["looped"]("") is None


@pytest.mark.parametrize("name", RATING_PLANTS)
def test_a_plant_that_a_judge_repeats_word_for_word_is_never_a_rating(name):
    planted = plant(name)
    quoted = f"The answer reads as follows and deserves little:\n{planted}\nI do not believe it."
    assert parse_rating(quoted, "stop", (1, 10), [planted]).score is None


@pytest.mark.parametrize("name", CHOICE_PLANTS)
def test_the_same_for_a_choice(name):
    planted = plant(name, letter="B")
    assert parse_choice(f"Answer B reads: {planted}. A trick.", "stop", [planted]).choice is None
