"""A run folder that is being written.

In: a manifest, then items, records and judgments as they are made. Out: files that are whole after any crash.
May not know: engines, clocks, progress bars.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.records import Item, JudgeRun, Judgment, Manifest, Record, canonical_json, parse_object
from evalkit.redaction import redact_text
from evalkit.store.checked import file_digest, forget_sums, read_sums, write_sums
from evalkit.store.cleaning import clean_judge, clean_judgment, clean_manifest, clean_record
from evalkit.store.door import exists, refuse_irregular
from evalkit.store.identity import check_judge, merge_manifests
from evalkit.store.layout import LOCK, MANIFEST, TIMINGS, Kind, task_file
from evalkit.store.lines import append_lines, cut_torn_tail, sort_lines, write_atomic
from evalkit.store.lock import FolderLock, acquire
from evalkit.store.reading import (
    Run,
    judgment_key,
    parsed,
    read_items,
    read_manifest,
    read_records,
    read_run,
    record_keys,
)


class RunFolder:
    """One run, held by one writing process.

    Attributes:
        path: the folder.
        repairs: what a crash had left behind and was put right on opening, one sentence each.
    """

    def __init__(self, path: Path, manifest: Manifest, lock: FolderLock, repairs: Sequence[str]) -> None:
        self.path = path
        self.repairs = tuple(repairs)
        self._manifest = manifest
        self._lock: FolderLock | None = lock
        self._sums = read_sums(path)

    @classmethod
    def create_or_resume(cls, path: Path, manifest: Manifest) -> RunFolder:
        """Open a folder for writing: a new run, or one that was begun with the same identity.

        A task not yet in the folder's manifest is added to it. A line cut off by a crash is dropped and reported.

        Raises:
            IdentityMismatchError: engine, policy or a task's definition differs; names every field and both values.
            StoreError: another process writes here (named with its host), or the disk fails.
            DataError: the folder's manifest is damaged, or something in the folder is a link or no regular file.
        """
        refuse_irregular(path)
        lock = acquire(path / LOCK)
        try:
            merged = clean_manifest(manifest)
            if exists(path / MANIFEST):
                found = read_manifest(path)
                merged = merge_manifests(path, found, merged)
                if merged.to_json() != found.to_json():
                    forget_sums(path, [MANIFEST])
                    write_atomic(path / MANIFEST, [merged.to_json()])
            else:
                write_atomic(path / MANIFEST, [merged.to_json()])
            return cls(path, merged, lock, _repair(path, merged, lock))
        except BaseException:
            lock.release()
            raise

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on disk."""
        return self._manifest

    def write_items(self, task: str, items: Sequence[Item]) -> None:
        """Write a task's items, whole or not at all; a file that is there already is kept.

        It can only hold the same items: the manifest's digests of items and prompts were compared on opening.

        Raises:
            StoreError: the disk is full or the file cannot be written.
        """
        file = self._file("items", task)
        if not exists(file):
            write_atomic(file, (item.to_json() + "\n" for item in items))

    def items(self, task: str) -> tuple[Item, ...]:
        """Read a task's items back."""
        return read_items(self.path, task)

    def done_keys(self, task: str) -> frozenset[str]:
        """Return the `Record.key` of every record on disk, failed ones included; errors as `record_keys`."""
        return record_keys(self.path, task)

    def append_records(self, task: str, records: Sequence[Record]) -> None:
        """Append records with one write and one flush to the disk, whole or not at all.

        Raises:
            StoreError: the disk is full; says what is kept and how to resume.
        """
        self._unseal("records", task)
        append_lines(self._file("records", task), [clean_record(record).to_json() for record in records])

    def records(self, task: str) -> tuple[Record, ...]:
        """Read a task's records back, sorted by key."""
        return read_records(self.path, task)

    def each_record(self, task: str) -> Iterator[Record]:
        """Yield a task's records one at a time, in the order in which they lie on the disk; errors as `read_run`."""
        return (record for _, record in parsed(self._file("records", task), task, Record.from_json))

    def drop_failed(self, task: str) -> int:
        """Remove a task's failed records, so that they are asked again; return how many there were."""
        self._unseal("records", task)
        return sort_lines(self._file("records", task), _record_key, lambda line: _status(line) != "failed")

    def finish(self, task: str) -> None:
        """Put a task's records in key order and record the digests of its files.

        Equal replies are then equal bytes, whatever the order of work.
        """
        sort_lines(self._file("records", task), _record_key)
        self._seal("items", "records", task=task)

    def set_judge(self, task: str, judge: JudgeRun) -> None:
        """Say who judges a task's answers, before the first judgment; `task` may be any `judging_name`.

        Raises:
            IdentityMismatchError: the answers were judged by another judge, in other words or another number of times.
        """
        judge = clean_judge(judge)
        check_judge(self.path, task, self._manifest.judges.get(task), judge)
        changed = replace(self._manifest, judges={**self._manifest.judges, task: judge})
        if changed.to_json() != self._manifest.to_json():
            self._unseal_names([MANIFEST])
            write_atomic(self.path / MANIFEST, [changed.to_json()])
        self._manifest = changed

    def judgments(self, task: str) -> tuple[Judgment, ...]:
        """Read a task's judgments back, in the order in which they were written."""
        return tuple(value for _, value in parsed(self._file("judgments", task), task, Judgment.from_json))

    def drop_failed_judgments(self, task: str) -> int:
        """Remove judgments for which the judge gave no reply, so that it is asked again; return how many there were."""
        return self.drop_judgments(task, lambda judgment: judgment.status != "api_error")

    def drop_judgments(self, task: str, keep: Callable[[Judgment], bool]) -> int:
        """Remove judgments that are not to be kept, such as those of an answer that is no longer there."""
        self._unseal("judgments", task)
        return sort_lines(
            self._file("judgments", task),
            lambda line: judgment_key(Judgment.from_json(line)),
            lambda line: keep(Judgment.from_json(line)),
        )

    def append_judgments(self, task: str, judgments: Sequence[Judgment]) -> None:
        """Append judgments with one write and one flush to the disk, whole or not at all; errors as for records."""
        self._unseal("judgments", task)
        append_lines(self._file("judgments", task), [clean_judgment(judgment).to_json() for judgment in judgments])

    def finish_judgments(self, task: str) -> None:
        """Put a task's judgments in key order and record the digest of the file."""
        sort_lines(self._file("judgments", task), lambda line: judgment_key(Judgment.from_json(line)))
        self._seal("judgments", task=task)

    def note_smaller_batches(self, lines: Sequence[str]) -> None:
        """Write into the manifest how a lack of memory changed batches; what is there already stays.

        Raises:
            StoreError: the disk is full or the file cannot be written.
        """
        known = self._manifest.smaller_batches
        fresh = [redact_text(line) for line in dict.fromkeys(lines)]
        fresh = [line for line in fresh if line not in known]
        if fresh:
            self._unseal_names([MANIFEST])
            self._manifest = replace(self._manifest, smaller_batches=(*known, *fresh))
            write_atomic(self.path / MANIFEST, [self._manifest.to_json()])

    def append_timing(self, row: Mapping[str, Any]) -> None:
        """Append one line to the sidecar of clock readings, the only file of a run that holds any."""
        append_lines(self.path / TIMINGS, [canonical_json(row)])

    def read(self) -> Run:
        """Read the whole run back."""
        return read_run(self.path)

    def close(self) -> None:
        """Free the folder for other processes; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _seal(self, *kinds: Kind, task: str) -> None:
        """Record digests of finished files; what is recorded already is not blessed again, whatever it holds now."""
        names = [MANIFEST, *(self._file(kind, task).relative_to(self.path).as_posix() for kind in kinds)]
        new = {
            name: file_digest(self.path / name, below=self.path)
            for name in names
            if name not in self._sums and exists(self.path / name)
        }
        if new:
            self._sums |= new
            write_sums(self.path, self._sums)

    def _unseal(self, kind: Kind, task: str) -> None:
        self._unseal_names([self._file(kind, task).relative_to(self.path).as_posix()])

    def _unseal_names(self, names: Sequence[str]) -> None:
        """Forget the digests of files before they are written to; a crash then leaves none that is wrong.

        Raises:
            DataError: such a file is not as it was when it was finished, and is not built upon.
        """
        if any(name in self._sums for name in names):
            forget_sums(self.path, names)
            self._sums = {name: sha256 for name, sha256 in self._sums.items() if name not in names}

    def _file(self, kind: Kind, task: str) -> Path:
        return task_file(self.path, kind, task)


def _record_key(line: str) -> str:
    return Record.from_json(line).key


def _status(line: str) -> str:
    return Record.from_json(line).status


def _repair(path: Path, manifest: Manifest, lock: FolderLock) -> list[str]:
    found = [f"{path}: {lock.left_by} had died while it held this run"] if lock.left_by else []
    for task in manifest.tasks:
        cut = cut_torn_tail(task_file(path, "records", task), Record.from_json)
        found += [cut] if cut else []
    for task in manifest.judges:
        cut = cut_torn_tail(task_file(path, "judgments", task), Judgment.from_json)
        found += [cut] if cut else []
    cut = cut_torn_tail(path / TIMINGS, lambda line: parse_object(line, "a timing"))
    found += [cut] if cut else []
    for temporary in path.rglob(".*.tmp"):
        temporary.unlink(missing_ok=True)
    return found
