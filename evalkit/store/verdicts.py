"""A judgment store: what a judge said once to a question is never paid for again.

In: rows with the digest of everything a judge saw and is. Out: the same rows, found by digest, from any later run.
May not know: how a judge is asked, or which run an answer belongs to.

The digest is the address: a changed answer, reference, profile, judge or repeat is another question. One file for each
judge and profile, one writer at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.errors import DataError
from evalkit.records import canonical_json, parse_object
from evalkit.store.lines import append_lines, cut_torn_tail, read_lines
from evalkit.store.lock import FolderLock, acquire

_DIGITS = 16
_FIELDS = frozenset({"key", "status", "score", "text", "details"})


class VerdictStore:
    """The file of one judge and one profile, held by one writing process."""

    def __init__(self, folder: Path, judge_sha256: str, profile_sha256: str) -> None:
        """Take the file, or make it.

        Raises:
            StoreError: another process writes to it, or the disk fails.
        """
        name = f"{judge_sha256[:_DIGITS]}-{profile_sha256[:_DIGITS]}"
        self.file = folder / f"{name}.jsonl"
        self._lock: FolderLock | None = acquire(folder / f"{name}.lock")
        try:
            cut_torn_tail(self.file, lambda line: parse_object(line, "a verdict"))
        except BaseException:
            self.close()
            raise

    def find(self, keys: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """Return the rows with the given keys; reads one line at a time.

        Raises:
            DataError: a line is no verdict; names file and line.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for number, line in read_lines(self.file):
            row = parse_object(line, f"{self.file}:{number}")
            if row.keys() != _FIELDS:
                raise DataError(f"{self.file}:{number}: not a verdict; next step: restore the file or move it away")
            if row["key"] in keys:
                found.setdefault(row["key"], row)
        return found

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows with one write and one flush to the disk, whole or not at all."""
        append_lines(self.file, [canonical_json(dict(row)) for row in rows])

    def close(self) -> None:
        """Free the file for other processes; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> VerdictStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
