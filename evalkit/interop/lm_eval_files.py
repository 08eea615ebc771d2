"""Finding and parsing lm-eval's output files.

In: a folder, or one results file. Out: the results object and the samples file of each task.
May not know: records, what a row means.

lm-eval writes the bare words NaN and Infinity, which are not JSON. They are read as text that no statistic can use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, StoreError, UsageError


class NotFinite(str):
    """A bare `NaN`, `Infinity` or `-Infinity`, kept as the word it was."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class LmEvalFiles:
    """One run of lm-eval on disk.

    Attributes:
        results_file: its `results_*.json`.
        stamp: the time in the file names.
        results: content of the results file.
        samples: lm-eval task to its samples file; tasks without one are missing.
    """

    results_file: Path
    stamp: str
    results: Mapping[str, Any]
    samples: Mapping[str, Path]


def find_files(where: Path) -> LmEvalFiles:
    """Find one run of lm-eval.

    Args:
        where: lm-eval's `--output_path`, the folder of a model in it, or one results file.

    Raises:
        UsageError: no results file, or several.
        DataError: the results file cannot be understood.
        StoreError: a file cannot be read.
    """
    file = where if where.is_file() else _only(where)
    stamp = file.stem.rpartition("_")[2]
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror or error}") from error
    results = parse(text, f"{file}")
    suffix = f"_{stamp}.jsonl"
    samples = {
        path.name.removeprefix("samples_").removesuffix(suffix): path
        for path in sorted(file.parent.glob("samples_*.jsonl"))
        if path.name.endswith(suffix)
    }
    return LmEvalFiles(results_file=file, stamp=stamp, results=results, samples=samples)


def _only(folder: Path) -> Path:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; next step: name lm-eval's --output_path or a results_*.json in it")
    found = sorted(folder.glob("results_*.json")) or sorted(folder.glob("*/results_*.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{folder}: no results_*.json here or one folder below; next step: name lm-eval's --output_path"
        )
    names = ", ".join(str(path.relative_to(folder)) for path in found)
    raise UsageError(f"{folder}: {len(found)} runs of lm-eval ({names}); next step: name one of these files")


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse one JSON object; bare non-finite words become `NotFinite`.

    Raises:
        DataError: not a JSON object; names `where`.
    """
    try:
        value = json.loads(text, parse_constant=NotFinite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; next step: restore the file") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: a JSON object is expected, not {type(value).__name__}")
    return value


def count_not_finite(value: Any) -> int:
    """Count the bare non-finite words in a parsed value."""
    if isinstance(value, Mapping):
        return sum(map(count_not_finite, value.values()))
    return sum(map(count_not_finite, value)) if isinstance(value, list) else int(isinstance(value, NotFinite))


def file_sha256(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises:
        StoreError: it cannot be read.
    """
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def field(row: Mapping[str, Any], name: str, where: str, check: Callable[[Any], bool], wanted: str) -> Any:
    """Return a field of a row.

    Raises:
        DataError: it is missing or not what is wanted; names `where`.
    """
    if name not in row:
        raise DataError(f"{where}: the field {name!r} is missing")
    if not check(row[name]):
        raise DataError(f"{where}: {name!r} must be {wanted}, not {row[name]!r:.80}")
    return row[name]
