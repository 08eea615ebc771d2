"""Totals of `results_*.json`: task rows and group rows, by lm-eval's formulas.

In: metric values of the scored items. Out: rows of `results` and `groups`.
May not know: files, runs. These numbers are for readers of lm-eval files; no verdict rests on them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.interop.lm_eval_format import MEAN_METRICS


def task_row(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a task's row: means, and standard errors of the mean ("N/A" for one item, as in lm-eval).

    Metrics that lm-eval does not average over items are left out.

    Args:
        name: lm-eval's task.
        rows: its sample rows.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for metric in row["metrics"]:
            if metric in MEAN_METRICS:
                values.setdefault(f"{metric},{row['filter']}", []).append(row[metric])
    total: dict[str, Any] = {"name": name, "alias": name, "sample_len": max(map(len, values.values()), default=0)}
    for key, found in values.items():
        total[key] = sum(found) / len(found)
        total[_stderr(key)] = _standard_error(found) if len(found) > 1 else "N/A"
    return total


def group_row(name: str, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a group's row: means weighted by size, and lm-eval's pooled standard errors.

    Args:
        name: the group.
        members: task rows.
    """
    row: dict[str, Any] = {
        "alias": name,
        "name": name,
        "sample_len": sum(member["sample_len"] for member in members),
        "sample_count": {},
    }
    for key in dict.fromkeys(key for member in members for key in member if "," in key and "_stderr," not in key):
        having = [member for member in members if key in member]
        sizes = [member["sample_len"] for member in having]
        row[key] = sum(member[key] * size for member, size in zip(having, sizes, strict=True)) / sum(sizes)
        row["sample_count"][key] = sum(sizes)
        row[_stderr(key)] = _pooled([member[_stderr(key)] for member in having], sizes)
    return row


def _stderr(key: str) -> str:
    metric, _, part = key.partition(",")
    return f"{metric}_stderr,{part}"


def _standard_error(values: Sequence[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)) / math.sqrt(len(values))


def _pooled(errors: Sequence[Any], sizes: Sequence[int]) -> float | str:
    if "N/A" in errors:
        return "N/A"
    squares = sum((size - 1) * error**2 * size for size, error in zip(sizes, errors, strict=True))
    return math.sqrt(squares / (sum(sizes) - len(sizes)) / sum(sizes))
