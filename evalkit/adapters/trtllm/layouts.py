"""The three layouts of `prompt_logprobs`, told apart, and the one that can be read.

In: token ids and the library's entries. Out: the layout's letter; scores of a prompt's last tokens.
May not know: TensorRT-LLM's classes; an entry is a mapping of token id to an object with `logprob`, or to a number.

Entry i always comes from the distribution after token i. In layout A it holds the likeliest tokens only; in B also
token i itself, which this distribution does not predict: read naively, every score would be wrong and look right; in C
also token i + 1, which it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.adapters.base import Failure

Layout = Literal["A", "B", "C", "unclear"]


def values_of(entry: Any) -> dict[int, float]:
    """Return log-probability by token id.

    Raises:
        ValueError: the entry names no tokens.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"log-probabilities without token ids ({type(entry).__name__})")
    return {int(token): _number(value) for token, value in entry.items()}


def _number(value: Any) -> float:
    return float(value.logprob if hasattr(value, "logprob") else value)


def seen_layout(ids: Sequence[int], entries: Sequence[Mapping[int, float]]) -> Layout:
    """Tell the layout from the entries of a prompt of distinct, unlikely tokens.

    >>> seen_layout([5, 6, 7], [{6: -9.0, 1: -1.0}, {7: -9.0}, {2: -1.0}])
    'C'
    """
    following = all(after in entry for after, entry in zip(ids[1:], entries, strict=False))
    own = all(token in entry for token, entry in zip(ids, entries, strict=False))
    if following and own:
        return "unclear"
    return "C" if following else "B" if own else "A"


@dataclass(frozen=True, kw_only=True, slots=True)
class TailScores:
    """Scores of the last tokens of a prompt.

    Attributes:
        logprob: their summed natural log-probability.
        greedy: whether each is the likeliest.
    """

    logprob: float
    greedy: bool


def read_tail(ids: Sequence[int], context: int, entries: Sequence[Any]) -> TailScores | Failure:
    """Score the tokens after the first `context` ones from entries in layout C.

    Args:
        ids: the prompt.
        context: tokens before the scored ones, >= 1.
        entries: one for each token; the last may be missing.
    """
    if len(entries) not in (len(ids), len(ids) - 1):
        message = f"{len(entries)} prompt log-probabilities for {len(ids)} tokens: the engine left some out"
        return Failure(kind="engine", message=message)
    total, greedy = 0.0, True
    for place in range(context, len(ids)):
        try:
            values = values_of(entries[place - 1])
        except ValueError as error:
            return Failure(kind="engine", message=str(error))
        value = values.get(ids[place])
        if value is None:
            return Failure(kind="missing-token", message=f"token {ids[place]} has no prompt log-probability")
        if not all(map(math.isfinite, values.values())):
            return Failure(kind="non-finite", message=f"prompt log-probabilities at token {place} are not finite")
        total += value
        greedy = greedy and value >= max(values.values())
    return TailScores(logprob=total, greedy=greedy)
