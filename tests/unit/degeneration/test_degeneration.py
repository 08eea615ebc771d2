from __future__ import annotations

import random
import zlib

import pytest

from evalkit.degeneration import compression_ratio, degeneration, repeated_share, run_share, signals
from evalkit.records import Turn

STORY = (
    "when the wind turned north every boat that still lay in harbour began to move against its rope and people came "
    "down from houses with lamps asking who had seen captain or his crew since morning bells rang over empty squares"
)


def healthy(characters: int) -> str:
    dice = random.Random(5)
    words: list[str] = []
    while sum(map(len, words)) + len(words) < characters:
        words.append(dice.choice(STORY.split()) + str(dice.randrange(300)))
    return " ".join(words)[:characters]


def turn(text: str, finish: str = "stop") -> Turn:
    return Turn(text=text, finish=finish, prompt_tokens=1, completion_tokens=1)


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_white_space_is_empty(text):
    assert degeneration(turn(text)) == "empty"


def test_a_healthy_answer_is_readable_even_at_the_token_limit():
    text = healthy(3000)
    assert compression_ratio(text) < 5
    assert degeneration(turn(text, "length")) is None


def test_a_loop_to_the_token_limit_is_degenerate():
    assert degeneration(turn("I can help you with that. " * 80, "length")) == "degenerate"


def test_a_late_loop_is_seen_by_the_ends_alone():
    text = healthy(3000) + "and again and again " * 100
    whole = len(text.encode()) / len(zlib.compress(text.encode()))
    assert whole < 5 < compression_ratio(text)
    assert degeneration(turn(text, "length")) == "degenerate"


def test_a_loop_of_500_characters_is_seen():
    assert degeneration(turn(healthy(3000) + "so it is. " * 60, "length")) == "degenerate"


def test_near_identical_lines_that_end_by_themselves_are_readable():
    code = "\n".join(f"    assert table[{number}] == values[{number}]" for number in range(400))
    seen = signals(turn(code))
    assert seen.ratio > 5
    assert seen.repeated_share < 0.5
    assert degeneration(turn(code)) is None


def test_a_loop_that_ends_by_itself_is_degenerate():
    assert degeneration(turn("yes it is so " * 60)) == "degenerate"


def test_a_single_garbage_character_is_degenerate_however_short():
    assert degeneration(turn("!" * 40)) == "degenerate"


def test_a_ruler_in_a_table_is_readable():
    assert degeneration(turn(healthy(600) + "\n" + "-" * 60 + "\n" + healthy(300))) is None


def test_short_and_empty_texts_have_no_numbers():
    assert (compression_ratio("a" * 200), repeated_share("one two"), run_share("")) == (0.0, 0.0, 0.0)


def test_lone_surrogates_do_not_stop_the_count():
    assert compression_ratio("\ud800" * 300) > 5


@pytest.mark.parametrize(
    "loop",
    ["同じ事を何度も言うだけです。", "我已经说过了，答案就是这样的。", "คำตอบของฉันคือสิ่งนี้", "대답은같은말을되풀이한다"],
)
def test_a_loop_without_white_space_is_seen_in_every_script(loop):
    assert degeneration(turn(loop * 60)) == "degenerate"
    assert degeneration(turn(loop)) is None


@pytest.mark.parametrize(
    "letters", ["あいうえおかきくけこさしすせそたちつてと", "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往"]
)
def test_a_healthy_text_without_white_space_is_readable(letters):
    dice = random.Random(3)
    assert degeneration(turn("".join(dice.choice(letters) for _ in range(900)))) is None
