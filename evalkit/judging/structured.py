"""Read a judge's verdict out of a JSON object, strictly; what is no such object falls back to double brackets.

In: the text a judge wrote, how it ended, the scale, the answers it was shown. Out: a rating or a choice, or why not.
May not know: what was judged, whether the engine could enforce the schema.

The whole reply is the object, or one fenced block of code is. An object somewhere inside other words may be quoted from
an answer, and is not read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.judging.ratings import ParsedChoice, ParsedRating, as_choice, parse_choice, parse_rating, rating_on_scale
from evalkit.records import parse_object

_FENCE = "```"
_WINNERS = {"A": "A", "B": "B", "C": "C", "TIE": "C"}
Finish = Literal["stop", "length"]


def rating_schema() -> str:
    """Return the JSON schema of a rating as text: reasoning comes before the number it leads to.

    The limits of the scale are left out: not every server knows such limits, and they are checked here anyway.
    """
    return _schema({"reasoning": {"type": "string"}, "rating": {"type": "number"}})


def choice_schema() -> str:
    """Return the JSON schema of a choice as text."""
    return _schema({"reasoning": {"type": "string"}, "winner": {"type": "string", "enum": ["A", "B", "tie"]}})


def _schema(properties: dict[str, Any]) -> str:
    # The order of keys is the order of writing, so it is not sorted: a judge must reason before it rates.
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


def parse_json_rating(text: str, finish: Finish, scale: tuple[float, float], answers: Sequence[str]) -> ParsedRating:
    """Return the `rating` of an object, or what `parse_rating` finds in a text that is none.

    >>> parse_json_rating('{"reasoning": "short [[10]]", "rating": 4}', "stop", (1, 10), []).score
    4.0
    """
    row = _row(text)
    if row is None or finish == "length":
        return parse_rating(text, finish, scale, answers)
    value = row.get("rating")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ParsedRating(status="unparsed", score=None, reason="no_rating")
    return rating_on_scale(value, scale)


def parse_json_choice(text: str, finish: Finish, answers: Sequence[str]) -> ParsedChoice:
    """Return the `winner` of an object, or what `parse_choice` finds in a text that is none.

    >>> parse_json_choice('{"reasoning": "", "winner": "tie"}', "stop", []).choice
    'tie'
    """
    row = _row(text)
    if row is None or finish == "length":
        return parse_choice(text, finish, answers)
    letter = _WINNERS.get(str(row.get("winner")).strip().upper())
    if letter is None:
        return ParsedChoice(status="unparsed", choice=None, reason="no_winner")
    return ParsedChoice(status="ok", choice=as_choice(letter))


def holds_object(text: str) -> bool:
    """Say whether a text is an object as a whole, fenced or not."""
    return _row(text) is not None


def _row(text: str) -> dict[str, Any] | None:
    body = text.strip()
    if body.startswith(_FENCE) and body.endswith(_FENCE) and "\n" in body:
        # A pattern would try every line feed of a judge that writes them to its limit against every other.
        first, _, rest = body.partition("\n")
        if first.strip().lower() in (_FENCE, f"{_FENCE}json"):
            body = rest.removesuffix(_FENCE).strip()
    try:
        return parse_object(body, "a verdict")
    except DataError:
        return None
