"""What records say of each item, by item key.

In: records of one task and the name of a mark. Out: marks as a watch wants them.
May not know: which run is the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable

from evalkit.comparison.coverage import NON_FINITE, failure_kind
from evalkit.errors import DataError
from evalkit.nightly.watch import Marks
from evalkit.records import Record


def item_key(record: Record) -> str:
    """Return the key of the item that a record answers."""
    return f"{record.task}/{record.subject}/{record.item_sha256}/{record.occurrence}"


def designated(records: Iterable[Record]) -> dict[str, Record]:
    """Return item key to the one record that counts: the first sample."""
    return {item_key(record): record for record in records if record.sample == 0}


def marks_of(records: Iterable[Record], metric: str) -> Marks:
    """Return item key to 1, 0 or None.

    Raises:
        DataError: a mark is neither 0 nor 1, so a night cannot watch it.
    """
    found: dict[str, float | None] = {}
    for key, record in designated(records).items():
        mark = record.marks.get(metric) if record.status == "ok" else None
        if mark not in (None, 0.0, 1.0):
            raise DataError(
                f"{key}: the mark '{metric}' is {mark!r}; a night watches marks that are 0 or 1; next step: leave the "
                "endpoint to full runs"
            )
        found[key] = None if mark is None else float(mark)
    return found


def broken(records: Iterable[Record]) -> Record | None:
    """Return a record that shows a broken engine (a number that is not finite, a missing token), or None."""
    found = [record for record in records if record.status == "failed" and failure_kind(record) in NON_FINITE]
    return min(found, key=lambda record: record.key) if found else None
