"""Sections of a report, and the two ways to write them.

In: titles, paragraphs and tables. Out: Markdown or terminal text.
May not know: what they say.

Text from outside (names, messages, model output) may hold anything: control characters never reach a terminal or a
file, Markdown's own characters are escaped wherever text is written, and a line feed never starts a new block.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

WIDTH = 112

_CONTROL = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Unicode categories that command a terminal, turn the reading direction, break a line or have no shape."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table of text.

    Attributes:
        headers: one word a column.
        rows: cells as text, as many as headers.
        caption: what the numbers are: unit, n, level.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A titled part of a report.

    Attributes:
        title: one line.
        body: paragraphs (text; one that begins with "- " is a list item) and tables.
        level: 1 for the report's title, 2 for a part, 3 below.
    """

    title: str
    body: Sequence[str | Table]
    level: int = 2


def printable(text: str) -> str:
    r"""Replace control characters, which could command a terminal or hide text, by their code.

    Line feeds and tabs stay.

    >>> printable("a" + chr(27) + "[2J")
    'a\\x1b[2J'
    """
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in _CONTROL else f"\\x{ord(char):02x}" for char in text
    )


def as_markdown(sections: Sequence[Section]) -> str:
    """Write sections as Markdown."""
    parts = []
    for section in sections:
        parts.append(f"{'#' * section.level} {_inline(section.title)}")
        for part in section.body:
            parts.append(_markdown_table(part) if isinstance(part, Table) else _block(part))
    return _joined(parts) + "\n"


def as_text(sections: Sequence[Section]) -> str:
    """Write sections for a terminal."""
    parts = []
    for section in sections:
        title = _line(section.title)
        parts.append(title if section.level > 2 else f"{title}\n{('=' if section.level == 1 else '-') * len(title)}")
        for part in section.body:
            if isinstance(part, Table):
                parts.append(_text_table(part))
            else:
                indent = "  " if part.startswith("- ") else ""
                parts.append(_filled(printable(part), indent))
    return _joined(parts) + "\n"


def _filled(text: str, indent: str = "") -> str:
    """Fill lines without breaking a name or a number, whose hyphens are part of it."""
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _joined(parts: Sequence[str]) -> str:
    """Join with blank lines, but keep list items together."""
    text = ""
    for before, part in zip(("", *parts), parts, strict=False):
        together = before.startswith("- ") and part.startswith("- ")
        text += ("\n" if together else "\n\n" if text else "") + part
    return text


def _line(text: str) -> str:
    """Return text as one printable line."""
    return " ".join(printable(text).split())


def _inline(text: str) -> str:
    r"""Return text as one line that Markdown shows as it is.

    >>> print(_inline("a|b <i> `x` [l](u) mt_bench [-0.5, +0.1]"))
    a\|b &lt;i> \`x\` [l\](u) mt_bench [-0.5, +0.1]
    """
    escaped = re.sub(r"([\\|`*~])", r"\\\1", _line(text))
    escaped = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\_", escaped)  # inside a word it means nothing
    escaped = re.sub(r"\](?=[\[(:])", r"\]", escaped)  # only these make a link or a reference
    return re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;")


def _block(text: str) -> str:
    """Return a paragraph or list item as one block of Markdown; only an item's own "- " makes an item."""
    if text.startswith("- "):
        return f"- {_started(_inline(text[2:]))}"
    return _started(_inline(text))


def _started(text: str) -> str:
    """Escape what would make a heading, list, quote or checkbox at the start of a line."""
    numbered = re.match(r"\d+(?=[.)])", text)
    if numbered:
        return f"{numbered.group()}\\{text[numbered.end() :]}"
    return f"\\{text}" if text[:1] and text[0] in "#+-=>[" else text


def _markdown_table(table: Table) -> str:
    rows = [[_inline(cell) for cell in row] for row in table.rows]
    text = tabulate(rows, headers=[_inline(head) for head in table.headers], tablefmt="pipe", disable_numparse=True)
    return f"{text}\n\n{_block(table.caption)}" if table.caption else text


def _text_table(table: Table) -> str:
    rows = [[_line(cell) for cell in row] for row in table.rows]
    text = tabulate(rows, headers=[_line(head) for head in table.headers], tablefmt="simple", disable_numparse=True)
    return f"{text}\n{_filled(printable(table.caption))}" if table.caption else text
