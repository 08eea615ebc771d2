"""One row of NeMo Evaluator's `results.jsonl`, read strictly.

In: a line. Out: `NelRow`.
May not know: runs, items.

Its own reader skips a line it cannot read; here that is an error, because a skipped line is a missing item. A row whose
`scoring_details.error_category` is set carries reward 0.0 although nothing was answered: it is missing, not wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.interop import foreign_files
from evalkit.records import canonical_json

STEP = "next step: give the rows as NeMo Evaluator wrote them, or take this row out"
"""What helps where a row is not its."""

MODELS_OWN = ("context_window_exceeded", "budget_exceeded", "turn_budget_exhausted")
"""Error categories that can be the model's own doing; they are missing like the others, and told apart."""


@dataclass(frozen=True, kw_only=True)
class NelRow:
    """One problem, asked once.

    Attributes:
        where: file and line.
        problem, repeat: its place in the run.
        prompt: what was asked, as text.
        expected: what counts as right, as text.
        response: the answer; "" for none.
        extracted: what the scorer took from it; None where it does not say.
        rewards: the reward under "reward", and those of single scorers.
        category: of the problem; "" without one.
        error: error category; None for an answer that was scored.
        tokens: of the answer; 0 where it does not say.
    """

    where: str
    problem: int
    repeat: int
    prompt: str
    expected: str
    response: str
    extracted: str | None
    rewards: Mapping[str, float]
    category: str
    error: str | None
    tokens: int


def read_rows(file: Path) -> Iterator[NelRow]:
    """Yield every row of a file.

    Raises:
        DataError: a line is not JSON, lacks a field, or has a reward that is no finite number; names file and line.
        StoreError: the file cannot be read.
    """
    for where, row in foreign_files.read_rows(file):
        try:
            yield _row(where, row)
        except DataError as error:
            raise DataError(f"{where}: {error}; {STEP}") from error


def _row(where: str, row: Mapping[str, Any]) -> NelRow:
    details = row.get("scoring_details")
    category = details.get("error_category") if isinstance(details, Mapping) else None
    rewards = {} if category else {"reward": _number(row, "reward"), **_scorers(row)}
    metadata = row.get("metadata")
    kind = metadata.get("category") if isinstance(metadata, Mapping) else None
    return NelRow(
        where=where,
        problem=_index(row, "problem_idx"),
        repeat=_index(row, "repeat"),
        prompt=_text(row, "prompt"),
        expected=_text(row, "expected_answer"),
        response=_text(row, "model_response") if row.get("model_response") is not None else "",
        extracted=None if row.get("extracted_answer") is None else _text(row, "extracted_answer"),
        rewards=rewards,
        category=str(kind or ""),
        error=str(category) if category else None,
        tokens=_tokens(row.get("tokens")),
    )


def _scorers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return rewards of single scorers; resumed rows have none."""
    found = row.get("scorer_rewards")
    if not isinstance(found, Mapping):
        return {}
    return {f"scorer/{name}": _number(found, name) for name in found}


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"'{name}' must be a finite number, not {value!r}")
    return float(value)


def _index(row: Mapping[str, Any], name: str) -> int:
    value = row.get(name, 0 if name == "repeat" else None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"'{name}' must be a whole number from 0 on, not {value!r}")
    return value


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise DataError(f"lacks '{name}'")
    value = row[name]
    return value if isinstance(value, str) else canonical_json(value)


def _tokens(value: Any) -> int:
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("completion_tokens", "output_tokens", "completion") if key in value), 0)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
