"""Reading `prompt_logprobs`: what each of the three layouts looks like, and what must not be read as a score."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from evalkit.adapters.base import Failure
from evalkit.adapters.trtllm.probe import TailScores, read_tail, seen_layout, values_of

IDS = [11, 12, 13, 14]


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None


def entries(*tokens: int | None) -> list[dict[int, float]]:
    """One entry a token: the likeliest token 1, and the one named."""
    return [{1: -0.5, **({} if token is None else {token: -9.0 - place})} for place, token in enumerate(tokens)]


@pytest.mark.parametrize(
    ("tokens", "layout"),
    [
        ((None, None, None, None), "A"),
        ((11, 12, 13, 14), "B"),
        ((12, 13, 14, 99), "C"),
        ((12, 13, 14), "C"),
        ((12, 13, None, 99), "A"),
        ((11, 12, 13, None), "A"),
    ],
)
def test_layouts_are_told_apart(tokens, layout):
    assert seen_layout(IDS, entries(*tokens)) == layout


def test_a_prompt_whose_tokens_fit_two_layouts_proves_nothing():
    both = [{11: -1.0, 12: -2.0}, {12: -1.0, 13: -2.0}, {13: -1.0, 14: -2.0}, {14: -1.0}]
    assert seen_layout(IDS, both) == "unclear"


def test_the_last_tokens_are_read_one_entry_before_their_own():
    found = read_tail(IDS, 2, entries(12, 13, 14, 99))
    assert found == TailScores(logprob=-10.0 - 11.0, greedy=False)
    assert read_tail(IDS, 2, entries(12, 13, 14)) == found, "the last entry is not needed"


def test_a_continuation_of_likeliest_tokens_is_greedy():
    rows = [{12: -0.1}, {13: -0.2, 7: -3.0}, {14: -0.3, 7: -2.0}, {5: -1.0}]
    assert read_tail(IDS, 2, rows) == TailScores(logprob=-0.5, greedy=True)


def test_objects_with_a_rank_and_plain_numbers_are_the_same():
    assert values_of({3: Logprob(-1.5, 1)}) == values_of({3: -1.5}) == {3: -1.5}


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        (entries(12, 13), "engine", "2 prompt log-probabilities for 4 tokens"),
        (entries(12, 13, 14, 99, 98), "engine", "5 prompt log-probabilities for 4 tokens"),
        (entries(11, 12, 13, 14), "missing-token", "token 13 has no prompt log-probability"),
        ([{12: -1.0}, {13: math.nan}, {14: -1.0}, {}], "non-finite", "at token 2"),
        ([{12: -1.0}, {13: -1.0, 7: math.inf}, {14: -1.0}, {}], "non-finite", "at token 2"),
        ([{}, [-1.0], {}, {}], "engine", "without token ids"),
    ],
)
def test_what_cannot_be_read_is_a_failure_and_never_a_score(rows, kind, message):
    found = read_tail(IDS, 2, rows)
    assert isinstance(found, Failure)
    assert found.kind == kind
    assert message in found.message
