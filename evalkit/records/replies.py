"""What an engine answered to one item.

In: plain values. Out: frozen replies; no number in them is anything but finite.
May not know: what counts as right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.records.parsing import build, tuple_of


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceReply:
    """Log-probabilities of an item's continuations.

    Attributes:
        logprobs: sum of token log-probabilities of each continuation, natural logarithm, shape (k,), all finite.
        greedy: whether each continuation is what greedy decoding would produce, shape (k,).
        target: index of the right continuation.
        lengths: characters of each option (the continuation without the delimiter before it), shape (k,), which
            length-normalised metrics divide by.
    """

    logprobs: tuple[float, ...]
    greedy: tuple[bool, ...]
    target: int | None
    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.logprobs):
            raise DataError(f"non-finite log-probability among {list(self.logprobs)}: record a failure, never a score")


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One generated answer.

    Attributes:
        text: decoded text without special tokens.
        finish: "stop" (end token or stop string) or "length" (token limit reached).
        prompt_tokens: length of the prompt, tokens.
        completion_tokens: length of the answer, tokens.
    """

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TextReply:
    """Generated answers of an item, one for each turn."""

    turns: tuple[Turn, ...]


def reply_of(row: Any) -> ChoiceReply | TextReply:
    """Build a reply from its mapping: one with turns is text, any other a choice.

    Raises:
        DataError: no mapping, an unknown or missing field, or a value that breaks an invariant.
    """
    if not isinstance(row, dict):
        raise DataError(f"a reply must be a JSON object, not {type(row).__name__}")
    if "turns" in row:
        return build(TextReply, {**row, "turns": tuple(build(Turn, turn) for turn in tuple_of(row, "turns"))})
    for name in ("logprobs", "greedy", "lengths"):
        row[name] = tuple_of(row, name)
    return build(ChoiceReply, row)
