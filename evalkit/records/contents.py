"""What an item asks, apart from what it is called; and the labels it shares with others.

In: an `Item`. Out: `ItemFacts`: a digest of what is asked, and every short field of its source row by name.
May not know: runs, marks, which field is a cluster.

Two rows that put the same question with the same options are one question, whatever subject, number or file they carry:
a model that flips one flips the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from evalkit.records.canonical import digest, text_digest
from evalkit.records.items import Item

ROW = "row"
"""Label of an item's place in its source: parallel subjects (one file for each language) share it."""

SUBJECT, CONTENT = "subject", "content"

_NAMING = re.compile(
    r"(^|_)(id|idx|ids|index|uid|uuid|guid|hash|sha\d*|md5|key|number|num|no|row|subject|topic|category|group|"
    r"source|split|dataset|config|version|name|lang|language|canary)$"
)
"""Fields that say what an item is called or where it belongs, and nothing of what is asked."""

_LONGEST_LABEL = 64
_WORDS = 3
"""Words that a shown text must have before it can be the question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemFacts:
    """What an item shares with others.

    Attributes:
        content: digest of what is asked.
        labels: field of the source row to its value as text (nested fields as `a.b`; a long text by its digest), and
            `row`, the place of the item in its source.
    """

    content: str
    labels: Mapping[str, str]


def item_facts(item: Item) -> ItemFacts:
    """Return what an item shares with others."""
    fields = dict(_fields(item.doc))
    labels = {name: _label(value) for name, value in fields.items() if isinstance(value, (str, int, float))}
    row = item.details.get("doc_id")
    return ItemFacts(content=_content(item, fields), labels=labels if row is None else {**labels, ROW: str(row)})


def _fields(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _label(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_LABEL else text_digest(text)


def _content(item: Item, fields: Mapping[str, Any]) -> str:
    """Digest the texts of the row that are shown to the model: order, case, white space and names do not count.

    Worked examples and a line that names the subject stand in the prompt, not in the row, or only as a name; a field
    that the model never sees (an identifier under any name) cannot make a question another one.
    """
    if item.turns:
        return digest(["turns", *(_plain(turn) for turn in item.turns)])
    shown = "\n".join((item.context or "", *item.details.get("contexts", ()), *item.continuations))
    names = {_plain(item.subject), _plain(item.subject.replace("_", " "))}
    asked: set[str] = set()
    hidden: list[str] = []
    for name, value in fields.items():
        if not _names(name):
            for text in _texts(value):
                if text.strip() not in shown:
                    hidden.append(text)
                elif (plain := _plain(text)) not in names:
                    asked.add(plain)
    if not any(len(text.split()) >= _WORDS for text in asked) or any(_rewritten(text, shown) for text in hidden):
        contexts = item.details.get("contexts") or [item.context or ""]
        return digest(["prompt", *map(_plain, contexts), *sorted(map(_plain, item.continuations))])
    return digest(["row", *sorted(asked)])


@cache
def _names(field: str) -> bool:
    return _NAMING.search(field.rsplit(".", 1)[-1].lower()) is not None


def _rewritten(text: str, shown: str) -> bool:
    """Is a text of the row shown in other form, as a sentence with its gap filled? Then the prompt says what is asked.

    Nearly all of its words are there, though not in one piece.
    """
    words = [word for word in text.split() if any(letter.isalnum() for letter in word)]  # a gap is no word
    return len(words) >= _WORDS and sum(word in shown for word in words) >= 0.9 * len(words)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(list(part.values()) if isinstance(part, Mapping) else part)


def _plain(text: str) -> str:
    """Fold case and white space; punctuation at the ends does not make a text another one."""
    return " ".join(text.casefold().split()).strip(" .,:;!?\"'()[]*_-")
