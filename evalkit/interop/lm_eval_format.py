"""What lm-eval's files are called and how their hashes are made (lm-eval 0.4.13).

In: names, rows, times. Out: file names, stamps, hashes.
May not know: runs, records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from evalkit.errors import DataError
from evalkit.records import text_digest

MEAN_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""Metrics that lm-eval averages over items, and of which more is better."""

NO_MARKS = ("bypass",)
"""Metrics that are none: with --predict_only lm-eval writes 999 for every item, and marks nothing."""

HASHES = ("doc_hash", "prompt_hash", "target_hash")
"""The hashes in each sample row."""

PLAIN_FILTER = "none"
"""lm-eval's name for a filter that takes the response as it is."""


def sanitised(model_name: str) -> str:
    """Return the folder name that lm-eval makes of a model name.

    >>> sanitised("org/model: v2")
    'org__model__ v2'
    """
    return re.sub(r'["<>:/|\\?*\[\]]+', "__", model_name)


def stamp_of(created_at: str) -> str:
    """Return a run's time as lm-eval writes times in file names; UTC, so that it is the same everywhere.

    >>> stamp_of("2026-01-02T03:04:05+00:00")
    '2026-01-02T03-04-05.000000'
    """
    return _utc(created_at).replace(tzinfo=None).isoformat(timespec="microseconds").replace(":", "-")


def unix_time(created_at: str) -> float:
    """Return a run's time in seconds since 1970.

    >>> unix_time("1970-01-01T00:01:00+00:00")
    60.0
    """
    return _utc(created_at).timestamp()


def _utc(created_at: str) -> datetime:
    try:
        # Python 3.10 does not read the letter Z.
        moment = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", created_at))
    except ValueError as error:
        raise DataError(f"the run's time {created_at!r} is not ISO 8601: {error}") from error
    return moment.astimezone(timezone.utc) if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def doc_hash(doc: Any) -> str:
    """Return lm-eval's hash of a row; the order of its columns counts."""
    return text_digest(json.dumps(doc, indent=2, ensure_ascii=False))


def task_hash(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return lm-eval's hash of a task from the (doc, prompt, target) hashes of its rows in file order."""
    return text_digest("".join("".join(hashes) for hashes in rows))


def split_mark(name: str) -> tuple[str, str]:
    """Split the name of a mark into metric and filter.

    >>> split_mark("acc"), split_mark("exact_match,strict-match")
    (('acc', 'none'), ('exact_match', 'strict-match'))
    """
    metric, comma, part = name.partition(",")
    return metric, part if comma else PLAIN_FILTER
