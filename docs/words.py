"""Words that docs/glossary.md bans: found in documents, help texts, errors and docstrings.

In: the table under "Words that are not used" of the glossary. Out: one sentence for each place that has one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

HEADING = "## Words that are not used"


def banned(glossary: str) -> dict[str, str]:
    """Return each banned pattern, which stands in backticks in a row of the table, with what to write instead."""
    table = glossary.partition(HEADING)[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+?) \|$", table, re.MULTILINE)
    return {pattern.replace(r"\|", "|"): instead for pattern, instead in rows}


def faults(root: Path, names: Iterable[str]) -> Iterator[str]:
    """Yield every place of the named files that has a banned word."""
    patterns = banned((root / "docs" / "glossary.md").read_text("utf-8"))
    for name in names:
        for line, text in _texts(root / name):
            for pattern, instead in patterns.items():
                found = re.search(rf"\b(?:{pattern})\b", text, re.IGNORECASE)
                if found:
                    where = line + text.count("\n", 0, found.start())
                    yield f"{name}:{where}: '{' '.join(found[0].split())}': write {instead} (docs/glossary.md)"


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of what people read: a document without its code, the strings of a module."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield 1, re.sub(r"```.*?```", lambda code: "\n" * code[0].count("\n"), text.split(HEADING)[0], flags=re.DOTALL)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
