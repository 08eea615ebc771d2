"""Items on the disk, for task files with more of them than the memory should hold.

In: items in any order. Out: a sequence of the same items in canonical order, read one at a time.
May not know: tasks, prompts, engines.

The file has no name and goes with the process; a place in it is all that stays in memory of an item.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from evalkit.records import Item

Rank = tuple[str, bytes, int]


class SpooledItems(Sequence[Item]):
    """Many items, sorted by `rank_of`."""

    def __init__(self, items: Iterable[Item]) -> None:
        """Write the items down.

        Raises:
            OSError: the folder for temporary files is full.
        """
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the items do
        weakref.finalize(self, self._file.close)
        starts, ranks, end = array("Q"), [], 0
        for item in items:
            starts.append(end)
            ranks.append(rank_of(item))
            end += self._file.write(item.to_json().encode() + b"\n")
        self._file.flush()
        starts.append(end)
        places = sorted(range(len(ranks)), key=ranks.__getitem__)
        self._starts = array("Q", (starts[place] for place in places))
        self._ends = array("Q", (starts[place + 1] for place in places))

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, place: int) -> Item: ...

    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...

    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[at] for at in range(*place.indices(len(self)))]
        start, end = self._starts[place], self._ends[place]
        return Item.from_json(os.pread(self._file.fileno(), end - start - 1, start).decode())

    def __iter__(self) -> Iterator[Item]:
        return (self[place] for place in range(len(self)))


def rank_of(item: Item) -> Rank:
    """Return what items are sorted by: subject, digest, occurrence."""
    return item.subject, item.item_sha256.encode(), item.occurrence
