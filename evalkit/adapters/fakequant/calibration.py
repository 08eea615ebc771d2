"""Calibration: which texts a recipe sees before its scales are fixed.

In: a file of texts, a tokenizer, numbers of rows and tokens. Out: token rows and a record of what they are.
May not know: recipes beyond those two numbers, torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.records import digest

SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "library" / "calibration-texts.txt"
"""Texts written for this purpose: prose, dialogue, instructions, code and arithmetic; part of no benchmark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSet:
    """Rows of tokens of equal length.

    Attributes:
        rows: token ids, shape (samples, tokens).
        source: name of the file, or "evalkit" for the shipped texts.
    """

    rows: tuple[tuple[int, ...], ...]
    source: str

    def record(self) -> Mapping[str, Any]:
        """Return what the identity says about it: the digest is of the token ids as they were fed."""
        return {
            "source": self.source,
            "samples": len(self.rows),
            "tokens": len(self.rows[0]),
            "sha256": digest([list(row) for row in self.rows]),
        }


def calibration_rows(tokenizer: Any, *, file: Path | None, samples: int, tokens: int) -> CalibrationSet:
    """Cut texts into rows of equal length, each behind the tokenizer's own start tokens.

    Texts are joined in order and taken from the start; rows never overlap.

    Raises:
        UsageError: the file is unreadable, or too short for the rows asked for.
    """
    path = file or SHIPPED
    start = list(tokenizer("", verbose=False)["input_ids"])
    stream = tokenizer("\n\n".join(read_texts(path)), add_special_tokens=False, verbose=False)["input_ids"]
    body = max(1, tokens - len(start))
    if len(stream) < samples * body:
        raise UsageError(
            f"{path}: {len(stream)} tokens of calibration text; {samples} rows of {tokens} tokens need "
            f"{samples * body}; next step: a longer file (option calibration: {{file: ...}}), or fewer samples"
        )
    rows = tuple(tuple(start + stream[begin : begin + body]) for begin in range(0, samples * body, body))
    return CalibrationSet(rows=rows, source=path.name if file else "evalkit")


def read_texts(path: Path) -> list[str]:
    """Read texts from a `.txt` or `.jsonl` file.

    Raises:
        UsageError: no such file, another kind of file, or a line that holds no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: calibration texts cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        return [_text(path, number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]
    if path.suffix != ".txt":
        raise UsageError(f"{path}: calibration texts come as .txt or .jsonl")
    return [text.strip() for text in content.split("\n\n") if text.strip()]


def _text(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: not JSON: {error}") from error
    text = row.get("text") if isinstance(row, dict) else row
    if not isinstance(text, str):
        raise UsageError(f"{path}, line {number}: neither a text nor an object with a key 'text'")
    return text
