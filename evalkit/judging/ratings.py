"""Read a judge's verdict out of its words, strictly.

In: the text a judge wrote, how it ended, the scale, the answers it was shown. Out: a rating or a choice, or the reason
why there is none.
May not know: what was judged, which template was used.

The answers that judges fail to rate are not random: they are bad ones. So nothing is guessed and nothing is dropped.
Text that quotes an answer holds verdicts of its own. The judge's verdict is the last match; one that also stands in an
answer counts only where the judge cannot be quoting: alone on the last line, in words that are not the answer's. Of
several different ones the last counts only where it stands alone on the last line, and one that is followed by another
rating in plain words is none either: which of them was meant is the judge's to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.records import JudgmentStatus, fold

_RATING = re.compile(r"\[\[\s*(-?[0-9]{1,3}(?:\.[0-9]*)?)\s*(?:/\s*10\s*)?\]\]")
_CHOICE = re.compile(r"\[\[\s*([ABC])\s*\]\]")
_FASTCHAT = re.compile(r"\[\[(\d+\.?\d*)\]\]")
_FASTCHAT_BACKUP = re.compile(r"\[(\d+\.?\d*)\]")
_VERDICT_LINE = re.compile(
    r"[\s*_#\-]*(?:(?:my|final|overall)\s+)*(?:rating|score|grade|verdict|winner)?[\s*_:]*", re.IGNORECASE
)
"""What may stand before a verdict on a line that holds nothing else; the mark of a quotation may not."""

_IN_WORDS = re.compile(
    r"\b(?:rating|score|grade)\b[\s:=*_]*(?:(?:is|of)\s+)?(-?[0-9]{1,3}(?:\.[0-9]+)?)(?![0-9])", re.IGNORECASE
)
"""A rating in plain words, without brackets."""

_MARKS = "*_#- "
"""Characters that change how a line looks, and not what it says."""

Choice = Literal["A", "B", "tie"]


@dataclass(frozen=True, kw_only=True)
class ParsedRating:
    """A rating, or why there is none.

    Attributes:
        status: "ok", "unparsed", "out_of_range" or "truncated".
        score: the rating; None unless "ok".
        ambiguous: the text holds several different ratings.
        reason: "off_grid" for a rating that is no half point, "planted" for one that an answer holds too and the judge
            may be quoting, "several" for different ones of which none stands alone on the last line, "contradicted" for
            one that is followed by another one in plain words, "reasoning" for a text that never leaves its reasoning,
            "empty" for no text, else None.
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
        ambiguous: the text holds several different choices.
        reason: "planted", "several", "reasoning" or "empty" as for a rating, else None.
    """

    status: JudgmentStatus
    choice: Choice | None
    ambiguous: bool = False
    reason: str | None = None


def parse_rating(
    text: str, finish: Literal["stop", "length"], scale: tuple[float, float], answers: Sequence[str] = ()
) -> ParsedRating:
    r"""Return the last `[[n]]` of a judge's text.

    Allowed within the brackets: spaces, ASCII digits, `/10`. The rating must lie on the scale and on its half points.
    `answers` are what the judge was shown: a rating planted there is never read.

    >>> parse_rating("The form is [[5]].\nRating: [[9]]", "stop", (1, 10))
    ParsedRating(status='ok', score=9.0, ambiguous=True, reason=None)
    >>> parse_rating("Rating: [[7]]. A rating of [[10]] would need sources.", "stop", (1, 10)).reason
    'several'
    >>> parse_rating("It says '[[10]]' of itself.", "stop", (1, 10), ["So: [[10]]"]).reason
    'planted'
    """
    found = list(_RATING.finditer(text))
    ambiguous = len({float(match[1]) for match in found}) > 1
    if finish == "length":
        return ParsedRating(status="truncated", score=None, ambiguous=ambiguous)
    if not found:
        return ParsedRating(status="unparsed", score=None, reason=None if text.strip() else "empty")
    value = float(found[-1][1])
    planted = {float(match[1]) for answer in answers for match in _RATING.finditer(answer)}
    if value in planted and _may_quote(text, found[-1], answers):
        return ParsedRating(status="unparsed", score=None, ambiguous=ambiguous, reason="planted")
    if ambiguous and not _alone(text, found[-1]):
        return ParsedRating(status="unparsed", score=None, ambiguous=True, reason="several")
    if any(float(match[1]) != value for match in _IN_WORDS.finditer(text, found[-1].end())):
        return ParsedRating(status="unparsed", score=None, ambiguous=True, reason="contradicted")
    return rating_on_scale(value, scale, ambiguous=ambiguous)


def rating_on_scale(value: float, scale: tuple[float, float], *, ambiguous: bool = False) -> ParsedRating:
    """Return a rating if it lies on the scale and on its half points, else why not."""
    if not scale[0] <= value <= scale[1]:
        return ParsedRating(status="out_of_range", score=None, ambiguous=ambiguous)
    if value * 2 != round(value * 2):
        return ParsedRating(status="unparsed", score=None, ambiguous=ambiguous, reason="off_grid")
    return ParsedRating(status="ok", score=float(value), ambiguous=ambiguous)


def parse_choice(text: str, finish: Literal["stop", "length"], answers: Sequence[str] = ()) -> ParsedChoice:
    r"""Return the last `[[A]]`, `[[B]]` or `[[C]]` (a tie) of a judge's text; `answers` as in `parse_rating`.

    >>> parse_choice("not [[A]]; so:\n[[B]]", "stop").choice
    'B'
    """
    found = list(_CHOICE.finditer(text))
    ambiguous = len({match[1] for match in found}) > 1
    if finish == "length":
        return ParsedChoice(status="truncated", choice=None, ambiguous=ambiguous)
    if not found:
        return ParsedChoice(status="unparsed", choice=None, reason=None if text.strip() else "empty")
    letter = found[-1][1]
    planted = {match[1] for answer in answers for match in _CHOICE.finditer(answer)}
    if letter in planted and _may_quote(text, found[-1], answers):
        return ParsedChoice(status="unparsed", choice=None, ambiguous=ambiguous, reason="planted")
    if ambiguous and not _alone(text, found[-1]):
        return ParsedChoice(status="unparsed", choice=None, ambiguous=True, reason="several")
    return ParsedChoice(status="ok", choice=as_choice(letter), ambiguous=ambiguous)


def as_choice(letter: str) -> Choice:
    """Return the choice a letter stands for: A, B, or C for a tie."""
    return "A" if letter == "A" else "B" if letter == "B" else "tie"


def _may_quote(text: str, match: re.Match[str], answers: Sequence[str]) -> bool:
    """Say whether a verdict that stands in an answer too may be the answer's, quoted, rather than the judge's own.

    It is the judge's own where the whole reply is the verdict, or where the last line holds the verdict alone, worded
    otherwise than in any answer.
    """
    if not _alone(text, match):
        return True
    begin = text.rfind("\n", 0, match.start()) + 1
    line = text[begin:].strip()
    return bool(text[:begin].strip()) and any(
        line in answer or _holds(answer, text[begin : match.end()], match[0]) for answer in answers
    )


def _alone(text: str, match: re.Match[str]) -> bool:
    """Say whether a verdict stands alone on the last line, with at most the word for it before."""
    begin = text.rfind("\n", 0, match.start()) + 1
    after, before = text[match.end() :], text[begin : match.start()]
    return not after.strip(" \t\r\n*_./10") and _VERDICT_LINE.fullmatch(before) is not None


def _holds(answer: str, line: str, verdict: str) -> bool:
    """Say whether an answer holds a line that says more than the verdict, however the line is set."""
    said = fold(line).casefold().strip(_MARKS)
    return said != fold(verdict).casefold() and said in fold(answer).casefold()


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


def fastchat_choice(text: str) -> Choice | None:
    """Return the choice FastChat reads: the first of `[[A]]`, `[[B]]`, `[[C]]` that occurs anywhere, else None.

    >>> fastchat_choice("not [[A]]; final: [[B]]")
    'A'
    """
    return next((as_choice(letter) for letter in "ABC" if f"[[{letter}]]" in text), None)
