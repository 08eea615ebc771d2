"""Sections of a report, and the two ways to write them.

In: titles, paragraphs and tables. Out: Markdown or terminal text.
May not know: what they say.

Text from outside (names, model output) may hold anything: control characters never reach a terminal or a file, and
Markdown's own characters are escaped in tables.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

WIDTH = 112


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
    r"""Replace control characters, which could command a terminal, by their code; line feeds and tabs stay.

    >>> printable("a" + chr(27) + "[2J")
    'a\\x1b[2J'
    """
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs", "Co", "Cn") else f"\\x{ord(char):02x}"
        for char in text
    )


def as_markdown(sections: Sequence[Section]) -> str:
    """Write sections as Markdown."""
    parts = []
    for section in sections:
        parts.append(f"{'#' * section.level} {_inline(section.title)}")
        for part in section.body:
            parts.append(_markdown_table(part) if isinstance(part, Table) else printable(part))
    return _joined(parts) + "\n"


def as_text(sections: Sequence[Section]) -> str:
    """Write sections for a terminal."""
    parts = []
    for section in sections:
        title = printable(section.title)
        parts.append(title if section.level > 2 else f"{title}\n{('=' if section.level == 1 else '-') * len(title)}")
        for part in section.body:
            if isinstance(part, Table):
                parts.append(_text_table(part))
            else:
                indent = "  " if part.startswith("- ") else ""
                parts.append(textwrap.fill(printable(part), WIDTH, subsequent_indent=indent, break_long_words=False))
    return _joined(parts) + "\n"


def _joined(parts: Sequence[str]) -> str:
    """Join with blank lines, but keep list items together."""
    text = ""
    for before, part in zip(("", *parts), parts, strict=False):
        together = before.startswith("- ") and part.startswith("- ")
        text += ("\n" if together else "\n\n" if text else "") + part
    return text


def _inline(text: str) -> str:
    escaped = printable(text).replace("\n", " ")
    for char in "\\|<>`*_[]":
        escaped = escaped.replace(char, f"\\{char}" if char not in "<>" else {"<": "&lt;", ">": "&gt;"}[char])
    return escaped


def _markdown_table(table: Table) -> str:
    rows = [[_inline(cell) for cell in row] for row in table.rows]
    text = tabulate(rows, headers=list(table.headers), tablefmt="pipe", disable_numparse=True)
    return f"{text}\n\n{table.caption}" if table.caption else text


def _text_table(table: Table) -> str:
    rows = [[printable(cell).replace("\n", " ") for cell in row] for row in table.rows]
    text = tabulate(rows, headers=list(table.headers), tablefmt="simple", disable_numparse=True)
    return f"{text}\n{textwrap.fill(table.caption, WIDTH)}" if table.caption else text
