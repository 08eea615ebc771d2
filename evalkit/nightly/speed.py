"""How fast a run was asked.

In: a run folder. Out: items and seconds.
May not know: which engine it was.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import EvalkitError
from evalkit.records import parse_object
from evalkit.store.layout import TIMINGS
from evalkit.store.lines import read_lines


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Items asked and the seconds they took, loading not included."""

    items: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Items a second; None where no time was taken."""
        return self.items / self.seconds if self.items and self.seconds > 0.0 else None


def speed_of(path: Path, tasks: Collection[str]) -> Speed:
    """Add up the clock readings of some tasks of a run; a folder without any has taken no time."""
    items, seconds = 0, 0.0
    try:
        for number, line in read_lines(path / TIMINGS):
            row = parse_object(line, f"{path / TIMINGS}:{number}")
            if row.get("task") in tasks:
                items += int(row["items"])
                seconds += float(row["seconds"])
    except (EvalkitError, KeyError, TypeError, ValueError):
        return Speed(items=0, seconds=0.0)  # a sidecar that a crash cut short decides nothing
    return Speed(items=items, seconds=seconds)
