"""Finding a wanted token among the candidates a server names.

In: candidates as the server names them. Out: one key for each, equal to the key of the wanted token.
May not know: how candidates were asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evalkit.adapters.openai.logprobs import Candidate

Matching = Literal["id", "text", "marked", "stripped"]
"""How candidates are named: by token id; by exact text; by vocabulary text (`Ġ`, `▁` for a space); or by text without
the space before it, where " A" and "A" cannot be told apart, so that such names find no value."""

_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})


def choose_matching(candidates: Sequence[Candidate]) -> Matching:
    """Say how a server names candidates, from those after a text that surely goes on with a space.

    >>> choose_matching([Candidate(text=" eight", id=None, logprob=-0.1), Candidate(text="8", id=None, logprob=-3.0)])
    'text'
    >>> choose_matching([Candidate(text="Ġeight", id=None, logprob=-0.1)])
    'marked'
    >>> choose_matching([Candidate(text="eight", id=None, logprob=-0.1)])
    'stripped'
    """
    if candidates and all(one.id is not None for one in candidates):
        return "id"
    if any(one.text.startswith(" ") for one in candidates):
        return "text"
    return "marked" if any(one.text[:1] in ("Ġ", "▁") for one in candidates) else "stripped"


def key_of(candidate: Candidate, matching: Matching) -> int | str:
    """Return the key of a candidate."""
    return candidate.id if matching == "id" and candidate.id is not None else text_key(candidate.text, matching)


def text_key(text: str, matching: Matching) -> str:
    """Return the key of a token with this text."""
    if matching == "marked":
        return text.translate(_MARKS)
    return text.strip() if matching == "stripped" else text
