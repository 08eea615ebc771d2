"""Log-probabilities in the two forms servers send them, read as one.

In: the `choices[0]` of a reply. Out: positions, each with its token and the likeliest candidates.
May not know: what was asked.

The older form has four parallel lists and names candidates by their decoded text, so two tokens with one text are one
entry. The newer form (`content`) has one object a position; llama.cpp sends it from both endpoints, with token ids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.adapters.openai.wire import UnusableError

ABSENT = -9999.0
"""What some servers send instead of a value they do not have (trtllm-serve clamps at it)."""

_ID_NAME = re.compile(r"token_id:([0-9]{1,9})")

ROUNDING = 1e-3
"""How far above 0 a logarithm of a probability may lie by rounding, nats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A token that might have stood at a position; `id` is None where the server names tokens by text alone."""

    text: str
    id: int | None
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """One token of a text and what else might have stood there.

    Attributes:
        text: decoded text of the token.
        id: token id; None where the server names tokens by text alone.
        logprob: log-probability of the token after everything before it, nats; None where there is none (the first).
        top: the likeliest candidates, likeliest first.
    """

    text: str
    id: int | None
    logprob: float | None
    top: tuple[Candidate, ...]


def read_positions(choice: Mapping[str, Any]) -> tuple[Position, ...]:
    """Read the log-probabilities of a choice.

    Raises:
        UnusableError: there are none, their form is unknown, or a value is not finite.
    """
    found = choice.get("logprobs")
    if not isinstance(found, Mapping):
        raise UnusableError("missing-token", f"the reply has no log-probabilities (logprobs: {str(found)[:40]})")
    if isinstance(found.get("content"), Sequence):
        return tuple(_from_content(row) for row in found["content"])
    tokens, values, tops = (found.get(name) for name in ("tokens", "token_logprobs", "top_logprobs"))
    if not isinstance(tokens, list) or not isinstance(values, list) or len(tokens) != len(values):
        raise UnusableError("engine", "the reply's log-probabilities have no known form")
    rows = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
    return tuple(_from_lists(token, value, top) for token, value, top in zip(tokens, values, rows, strict=True))


def _from_content(row: Any) -> Position:
    if not isinstance(row, Mapping):
        raise UnusableError("engine", "a position of the reply's log-probabilities is no object")
    top = [_candidate(other) for other in row.get("top_logprobs") or ()]
    return Position(
        text=str(row.get("token")),
        id=_id(row),
        logprob=_of_object(row),
        top=_ordered([found for found in top if found is not None]),
    )


def _candidate(row: Any) -> Candidate | None:
    """Return a candidate; None for one whose number is null: the older form leaves it out, and it says nothing."""
    if not isinstance(row, Mapping):
        raise UnusableError("engine", "a candidate of the reply's log-probabilities is no object")
    value = _value(row.get("logprob"))
    return None if value is None else Candidate(text=str(row.get("token")), id=_id(row), logprob=value)


def _from_lists(token: Any, value: Any, top: Any) -> Position:
    named = {str(text): _value(number) for text, number in top.items()} if isinstance(top, Mapping) else {}
    candidates = [
        Candidate(text=text, id=_id_in(text), logprob=number) for text, number in named.items() if number is not None
    ]
    return Position(text=str(token), id=_id_in(str(token)), logprob=_value(value), top=_ordered(candidates))


def _ordered(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    return tuple(sorted(candidates, key=lambda one: -one.logprob))


def _id_in(text: str) -> int | None:
    """Return the id in a name such as `token_id:125`, which vLLM gives with --return-tokens-as-token-ids."""
    found = _ID_NAME.fullmatch(text)
    return int(found[1]) if found else None


def _id(row: Mapping[str, Any]) -> int | None:
    value = row.get("id", row.get("token_id"))
    if value is None:
        return _id_in(str(row.get("token")))
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _of_object(row: Mapping[str, Any]) -> float | None:
    """Return an object's log-probability; where it names one it must be a number, for a NaN becomes null in JSON."""
    if "logprob" in row and row["logprob"] is None:
        raise UnusableError("non-finite", "a log-probability is null, which is what NaN becomes in JSON")
    return _value(row.get("logprob"))


def _value(number: Any) -> float | None:
    """Return a log-probability; None where the server has none.

    Raises:
        UnusableError: NaN, an infinity, something else, or a number that is no logarithm of a probability.
    """
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise UnusableError("engine", f"a log-probability is {number!r}, which is no number")
    if not math.isfinite(number):
        raise UnusableError("non-finite", f"a log-probability is {number!r}")
    if number > ROUNDING:
        raise UnusableError("engine", f"a log-probability is {number!r}, which is above 0")
    return None if number <= ABSENT else min(0.0, float(number))
