"""Read a judge's verdict out of its words, strictly.

In: the text a judge wrote, how it ended, the scale. Out: a rating or a choice, or the reason why there is none.
May not know: what was judged.

The answers that judges fail to rate are not random: they are bad ones. So nothing is guessed and nothing is dropped.
Text that quotes an answer holds numbers in brackets of its own; the judge's verdict is the last match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from evalkit.records import JudgmentStatus

_RATING = re.compile(r"\[\[\s*(-?[0-9]{1,3}(?:\.[0-9]*)?)\s*(?:/\s*10\s*)?\]\]")
_CHOICE = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_FASTCHAT = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_FASTCHAT_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")


@dataclass(frozen=True, kw_only=True)
class ParsedRating:
    """A rating, or why there is none.

    Attributes:
        status: "ok", "unparsed", "out_of_range" or "truncated".
        score: the rating; None unless "ok".
        ambiguous: the text holds several different ratings; the last one counts.
        reason: "off_grid" for a rating that is no half point, "empty" for no text, else None.
    """

    status: JudgmentStatus
    score: float | None
    ambiguous: bool = False
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class ParsedChoice:
    """The answer preferred in a pairwise judgment, or none.

    Attributes:
        status: "ok", "unparsed" or "truncated".
        choice: "A", "B" or "tie"; None unless "ok".
        ambiguous: the text holds several different choices; the last one counts.
    """

    status: JudgmentStatus
    choice: Literal["A", "B", "tie"] | None
    ambiguous: bool = False


def parse_rating(text: str, finish: Literal["stop", "length"], scale: tuple[float, float]) -> ParsedRating:
    """Return the last `[[n]]` of a judge's text.

    Allowed within the brackets: spaces, ASCII digits, `/10`. The rating must lie on the scale and on its half points.

    >>> parse_rating("The form is [[5]]. Rating: [[9]]", "stop", (1, 10))
    ParsedRating(status='ok', score=9.0, ambiguous=True, reason=None)
    """
    values = [float(found) for found in _RATING.findall(text)]
    ambiguous = len(set(values)) > 1
    if finish == "length":
        return ParsedRating(status="truncated", score=None, ambiguous=ambiguous)
    if not values:
        return ParsedRating(status="unparsed", score=None, reason=None if text.strip() else "empty")
    value = values[-1]
    if not scale[0] <= value <= scale[1]:
        return ParsedRating(status="out_of_range", score=None, ambiguous=ambiguous)
    if value * 2 != round(value * 2):
        return ParsedRating(status="unparsed", score=None, ambiguous=ambiguous, reason="off_grid")
    return ParsedRating(status="ok", score=value, ambiguous=ambiguous)


def parse_choice(text: str, finish: Literal["stop", "length"]) -> ParsedChoice:
    """Return the last `[[A]]`, `[[B]]` or `[[C]]` (a tie) of a judge's text.

    >>> parse_choice("not [[A]]; final: [[B]]", "stop").choice
    'B'
    """
    found = _CHOICE.findall(text)
    ambiguous = len(set(found)) > 1
    if finish == "length":
        return ParsedChoice(status="truncated", choice=None, ambiguous=ambiguous)
    if not found:
        return ParsedChoice(status="unparsed", choice=None)
    last: Literal["A", "B", "tie"] = "A" if found[-1] == "A" else "B" if found[-1] == "B" else "tie"
    return ParsedChoice(status="ok", choice=last, ambiguous=ambiguous)


def fastchat_rating(text: str) -> float | None:
    """Return the rating FastChat reads from a text: the first match, a single bracket as fallback, no range check.

    Kept beside the strict rating for people who compare with published numbers; never decides. None where FastChat
    writes -1 or stops with a syntax error (a leading zero, a digit that is not ASCII).

    >>> fastchat_rating("see arr[0]. Rating: 8")
    0.0
    """
    found = _FASTCHAT.search(text) or _FASTCHAT_BACKUP.search(text)
    if found is None or not found[1].isascii():
        return None
    leading_zero = found[1].startswith("0") and found[1].isdigit() and found[1].strip("0")
    return None if leading_zero else float(found[1])
