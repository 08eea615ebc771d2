"""A run written as lm-eval writes its results: `results_*.json` and `samples_*.jsonl`.

In: a run folder. Out: files that readers of lm-eval's output understand, and a count of what could not be written.
May not know: baselines, verdicts.

An item without a score is left out and counted; it is never written as wrong. The files carry `evalkit_version` and no
`lm_eval_version`, so that nobody takes them for a run of lm-eval. The same run gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError
from evalkit.interop.column_order import ColumnOrders
from evalkit.interop.lm_eval_format import MEAN_METRICS, sanitised, split_mark, stamp_of
from evalkit.interop.lm_eval_parts import Part, parts_of
from evalkit.interop.lm_eval_results import model_name, results_of
from evalkit.interop.lm_eval_rows import sample_rows
from evalkit.store import read_run
from evalkit.store.lines import write_atomic


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and what was not.

    Attributes:
        files: results file first, then one samples file for each of lm-eval's tasks.
        written: evalkit task to items written.
        failed: evalkit task to items left out because their record holds no score.
        absent: evalkit task to items left out because they have no record.
        notes: what a reader must know besides, one sentence each.
    """

    files: tuple[Path, ...]
    written: Mapping[str, int]
    failed: Mapping[str, int]
    absent: Mapping[str, int]
    notes: tuple[str, ...]


def export_lm_eval(run_path: Path, folder: Path, *, tasks: Sequence[str] | None = None) -> Exported:
    """Write `<folder>/<model>/results_<time>.json` and `samples_<task>_<time>.jsonl`.

    `n-samples.original` counts the items of the run, `effective` those with a score. A group's row is weighted by size.

    Args:
        run_path: a run folder.
        folder: where to write; made if it is missing.
        tasks: tasks of the run to write; None for all that come from lm-eval.

    Raises:
        UsageError: no run here, an unknown task, nothing that lm-eval has a format for, two tasks that are one in
            lm-eval, or a file is there already with other content.
        DataError: the run is damaged.
        StoreError: a file cannot be written.
    """
    run = read_run(run_path).trusted()
    parts, notes = parts_of(run, tasks)
    rows: dict[str, list[dict[str, Any]]] = {}
    unordered = 0
    for part in parts:
        rows[part.name], lost = _rows(part)
        unordered += lost
    notes += _remarks(parts, unordered)
    target = folder / sanitised(model_name(run.manifest.engine))
    stamp = stamp_of(run.manifest.created_at)
    files = {target / f"results_{stamp}.json": _json(results_of(run.manifest, parts, rows), indent=2)}
    for name, lines in rows.items():
        files[target / f"samples_{name}_{stamp}.jsonl"] = "".join(_json(line) + "\n" for line in lines)
    for file, text in files.items():
        _write(file, text)
    return Exported(
        files=tuple(files),
        written=_count(parts, lambda part: len(part.scored)),
        failed=_count(parts, lambda part: len(part.items) - len(part.scored) - part.absent),
        absent=_count(parts, lambda part: part.absent),
        notes=tuple(notes),
    )


def _rows(part: Part) -> tuple[list[dict[str, Any]], int]:
    """Return a part's rows, by filter and then by row number, and how many rows could not be put in column order."""
    orders, lost = ColumnOrders(), 0
    rows = []
    for item, record in part.scored:
        doc = orders.restore(item.doc, item.details["doc_hash"])
        lost += doc is None
        rows += sample_rows(item, record, item.doc if doc is None else doc)
    return sorted(rows, key=lambda row: str(row["filter"])), lost


def _remarks(parts: Sequence[Part], unordered: int) -> list[str]:
    notes = []
    marks = {name for part in parts for _, record in part.scored for name in record.marks}
    others = sorted(name for name in marks if split_mark(name)[0] not in MEAN_METRICS)
    if others:
        notes.append(f"no totals for {', '.join(others)}: lm-eval does not average them over items")
    if any(part.run.kind == "text" for part in parts):
        notes.append("filtered_resps of generated answers is empty: records keep marks, not what a filter extracted")
    if unordered:
        notes.append(f"{unordered} rows have their columns in another order than the one doc_hash was made from")
    return notes


def _count(parts: Sequence[Part], number: Callable[[Part], int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for part in parts:
        counts[part.task] = counts.get(part.task, 0) + number(part)
    return counts


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)


def _write(file: Path, text: str) -> None:
    if file.exists():
        if file.read_text(encoding="utf-8") == text:
            return
        raise UsageError(f"{file}: is there already with other content; next step: name another folder with --output")
    write_atomic(file, [text])
