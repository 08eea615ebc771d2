"""Tokens a second of any engine, for given lengths of prompt and answer.

In: a loaded engine, lengths, how many requests. Out: `Speed`.
May not know: recipes, baselines, files. The clock is passed in.

Prompts are made of plain words that differ from request to request, so that no engine can reuse one prompt's work for
the next. They are raw text that goes on counting, because models rarely end such a text on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.adapters.base import Engine, Failure, GenerateRequest, Generation
from evalkit.errors import EngineError

TOLERANCE = 0.1
"""How far, as a share, mean lengths may lie from what was asked."""

_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "red", "blue", "green", "cold")
_ATTEMPTS = 8


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured.

    Attributes:
        input_tokens, output_tokens: mean length of a prompt and of an answer, tokens.
        tokens_per_second: output tokens of all requests over the wall time of the fastest round.
        rounds: the same of every round, in order.
        requests: requests of one round.
        one_at_a_time: whether each request waited for the one before.
    """

    input_tokens: float
    output_tokens: float
    tokens_per_second: float
    rounds: tuple[float, ...]
    requests: int
    one_at_a_time: bool


def measure_speed(
    engine: Engine,
    input_tokens: int,
    output_tokens: int,
    *,
    requests: int,
    one_at_a_time: bool,
    rounds: int,
    seed: int,
    clock: Callable[[], float],
) -> Speed:
    """Measure one engine; one request goes ahead to warm it up.

    Args:
        engine: loaded.
        input_tokens: wanted length of a prompt.
        output_tokens: wanted length of an answer.
        requests: of one round.
        one_at_a_time: each request waits for the one before ("batch 1"); else the engine gets all at once.
        rounds: repetitions; the fastest counts, for only disturbances make a round slower.
        seed: of the words.
        clock: seconds, never going back.

    Raises:
        EngineError: a request failed, or prompts or answers of the wanted length cannot be had.
    """
    rng = np.random.default_rng(seed)
    words = _words_needed(engine, input_tokens, rng)
    _answers(engine, [_request(words, output_tokens, rng)])
    speeds, found = [], []
    for _ in range(rounds):
        asked = [_request(words, output_tokens, rng) for _ in range(requests)]
        began = clock()
        answers = [_answers(engine, [one])[0] for one in asked] if one_at_a_time else _answers(engine, asked)
        elapsed = clock() - began
        if elapsed <= 0:
            raise EngineError("the clock did not move while the engine worked; next step: measure longer answers")
        speeds.append(sum(answer.completion_tokens for answer in answers) / elapsed)
        found += answers
    prompt = float(np.mean([answer.prompt_tokens for answer in found]))
    answer = float(np.mean([answer.completion_tokens for answer in found]))
    _check("prompts", prompt, input_tokens)
    _check("answers", answer, output_tokens)
    return Speed(
        input_tokens=prompt,
        output_tokens=answer,
        tokens_per_second=max(speeds),
        rounds=tuple(speeds),
        requests=requests,
        one_at_a_time=one_at_a_time,
    )


def _words_needed(engine: Engine, tokens: int, rng: np.random.Generator) -> int:
    """Find how many words make a prompt of so many tokens, by asking the engine."""
    words = max(1, tokens)
    best, distance = words, None
    for _ in range(_ATTEMPTS):
        length = _answers(engine, [_request(words, 1, rng)])[0].prompt_tokens
        if distance is None or abs(length - tokens) < distance:
            best, distance = words, abs(length - tokens)
        if length == tokens or length <= 0:
            break
        step = round(words * tokens / length)
        words = max(1, step if step != words else words + (1 if length < tokens else -1))
    return best


def _request(words: int, max_tokens: int, rng: np.random.Generator) -> GenerateRequest:
    text = " ".join(_WORDS[at] for at in rng.integers(0, len(_WORDS), size=words))
    return GenerateRequest(prompt=text, max_tokens=max_tokens)


def _answers(engine: Engine, requests: Sequence[GenerateRequest]) -> list[Generation]:
    found: dict[int, Generation] = {}
    for index, reply in engine.generate(requests):
        if isinstance(reply, Failure):
            raise EngineError(f"a request failed while speed was measured: {reply.kind}: {reply.message}")
        found[index] = reply
    if len(found) != len(requests):
        raise EngineError(f"the engine answered {len(found)} of {len(requests)} requests")
    return [found[at] for at in range(len(requests))]


def _check(what: str, seen: float, wanted: int) -> None:
    if abs(seen - wanted) > max(2.0, TOLERANCE * wanted):
        raise EngineError(
            f"{what} have {seen:.1f} tokens on average where {wanted} were asked for; next step: ask for a length that "
            "this model reaches"
        )
