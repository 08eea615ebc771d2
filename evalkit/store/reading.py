"""Read run folders: no lock, no repair, everything checked.

In: a folder. Out: a manifest with its records and judgments, in one order whatever the order of work was.
Must not depend on: whether a run is complete enough to judge.
"""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from evalkit.errors import DataError, UsageError
from evalkit.records.canonical import build, parse_object
from evalkit.records.consistency import ItemFacts
from evalkit.records.manifest import Manifest
from evalkit.records.record import Item, Judgment, JudgmentStatus, Record, judged_task
from evalkit.store.checked import changed_files, checked_task, item_file
from evalkit.store.door import exists, read_text, refuse_irregular
from evalkit.store.lines import (
    MANIFEST,
    TIMINGS,
    FolderLock,
    Kind,
    acquire,
    append_lines,
    cut_torn_tail,
    read_lines,
    read_rows,
    sealed_line,
    task_file,
    task_of,
)

# A judgment store: what a judge said once to a question is never paid for again.
#
# The digest is the address: a changed answer, reference, profile, judge or repeat is another question. One file for
# each judge and profile, one writer at a time.


_DIGITS = 16
_RATINGS_AGAIN = "restore the file or move it away: what is missing is asked again"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rating:
    key: str
    status: JudgmentStatus
    score: float | None
    text: str
    details: Mapping[str, Any]


class RatingStore:
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
            cut_torn_tail(self.file, lambda line: parse_object(line, "a rating"))
        except BaseException:
            self.close()
            raise

    def find(self, keys: Collection[str]) -> dict[str, Mapping[str, Any]]:
        """Return the rows with the given keys; reads one line at a time.

        Raises:
            DataError: a line is no rating; names file and line.
        """
        found: dict[str, Mapping[str, Any]] = {}
        for number, row in read_rows(self.file, again=_RATINGS_AGAIN):
            try:
                rating = build(_Rating, row)
            except DataError as error:
                raise DataError(f"{self.file}:{number}: not a rating: {error}; next step: {_RATINGS_AGAIN}") from error
            if rating.key in keys:
                found.setdefault(rating.key, row)
        return found

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows with one write and one flush to the disk, whole or not at all."""
        append_lines(self.file, [sealed_line(row) for row in rows])

    def close(self) -> None:
        """Free the file for other processes; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> RatingStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Line(Protocol):
    @property
    def task(self) -> str: ...


T = TypeVar("T", bound=_Line)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as it lies on disk.

    Attributes:
        path: its folder.
        manifest: what the folder says of itself.
        records: task name to records sorted by `Record.key`; a task without records has an empty tuple.
        judgments: judging name to judgments sorted by `judgment_key`; only judged tasks.
        items: task name to items, for conversations alone: what is said about answers needs their questions.
        contradictions: task name to what its records contradict, or are contradicted by: one sentence each, with file
            and line. Nothing may be decided on such a task.
        unchecked: task name to what no check could compute again, one sentence each.
    """

    path: Path
    manifest: Manifest
    records: Mapping[str, tuple[Record, ...]]
    judgments: Mapping[str, tuple[Judgment, ...]]
    items: Mapping[str, tuple[Item, ...]] = field(default_factory=dict)
    contradictions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unchecked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def facts(self, task: str) -> Mapping[str, ItemFacts]:
        """Return item key to what the item shares with others; empty where the folder holds no items.

        Raises:
            DataError: a line is torn or garbled; names file and line.
            StoreError: the file cannot be read.
        """
        found = item_file(self.path, task)
        return found.facts if found is not None else {}

    def records_sha256(self, task: str) -> str:
        """Digest of a task's record lines in sorted order: equal for equal replies, whatever the order of work."""
        return _lines_sha256(record.to_json() for record in self.records[task])

    def trusted(self) -> Run:
        """Return the run itself, if nothing in it contradicts what it was made from.

        Raises:
            DataError: names the first contradiction.
        """
        for task, found in self.contradictions.items():
            more = f", and {len(found) - 1:,} more" if len(found) > 1 else ""
            raise DataError(f"{self.path}: task '{task}': {found[0]}{more}; next step: restore the run folder")
        return self

    def judgments_sha256(self, task: str) -> str:
        """Digest of a task's judgment lines in sorted order."""
        return _lines_sha256(judgment.to_json() for judgment in self.judgments[task])


def judgment_key(judgment: Judgment) -> str:
    """Return what one judgment is about; its own `key` may be shared by equal answers."""
    return (
        f"{judgment.task}/{judgment.subject}/{judgment.item_sha256}/{judgment.occurrence}/{judgment.sample}"
        f"/{judgment.turn}/{judgment.repeat}"
    )


def begun_manifest(path: Path) -> Manifest | None:
    """Read the manifest of a run if it was begun; None if there is none here. Other errors as `read_manifest`."""
    return read_manifest(path) if (path / MANIFEST).exists() else None


def read_manifest(path: Path) -> Manifest:
    """Read a folder's manifest.

    Raises:
        UsageError: there is no run in this folder.
        DataError: the manifest is damaged or of another format.
        StoreError: it cannot be read.
    """
    file = path / MANIFEST
    try:
        text = read_text(file, below=path)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: no run here ({MANIFEST} is missing); next step: name a folder that 'evalkit run' wrote"
        ) from None
    try:
        return Manifest.from_json(text)
    except DataError as error:
        raise DataError(f"{file}: {error}; next step: restore the file, or repeat the run in another folder") from error


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        UsageError: there is no run in this folder.
        DataError: a line is torn or garbled, two lines share a key, a file belongs to no task of the manifest, or
            something in the folder is a link; names file and line.
        StoreError: a file cannot be read.
    """
    refuse_irregular(path)
    manifest = read_manifest(path)
    _refuse_strangers(path, manifest)
    with _collector_paused():
        numbered = {task: _numbered(path, task) for task in sorted(manifest.tasks)}
        checked = {task: checked_task(path, task, manifest.tasks[task], found) for task, found in numbered.items()}
        changed = changed_files(path)
        rotten = {
            task: tuple(why for name, why in changed.items() if name == MANIFEST or _task_named(name) == task)
            for task in manifest.tasks
        }
        return Run(
            path=path,
            manifest=manifest,
            records={task: tuple(record for _, record in found) for task, found in numbered.items()},
            contradictions={
                task: (*found.contradictions, *rotten[task])
                for task, found in checked.items()
                if rotten[task] or found.contradictions
            },
            unchecked={task: found.unchecked for task, found in checked.items() if found.unchecked},
            judgments={task: read_judgments(path, task) for task in sorted(manifest.judges)},
            items={
                task: read_items(path, task)
                for task, run in sorted(manifest.tasks.items())
                if run.kind == "conversation" and exists(task_file(path, "items", task))
            },
        )


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cycle collector from walking records that hold no cycles again and again while they pile up."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def _task_named(name: str) -> str:
    return judged_task(task_of(Path(name)))


def _refuse_strangers(path: Path, manifest: Manifest) -> None:
    for kind, known in (("records", manifest.tasks), ("judgments", manifest.judges)):
        for file in sorted((path / kind).glob("*.jsonl")):
            if task_of(file) not in known:
                raise DataError(f"{file}: task {task_of(file)!r} is not in {path / MANIFEST}")


def read_records(path: Path, task: str, parse: Callable[[str], Record] = Record.from_json) -> tuple[Record, ...]:
    """Read one task's records, sorted by key; errors as `read_run`."""
    return tuple(record for _, record in _sorted_unique(path, "records", task, parse, lambda record: record.key))


def _numbered(path: Path, task: str) -> list[tuple[int, Record]]:
    """Return a task's records with the lines they stand on, sorted by key."""
    return _sorted_unique(path, "records", task, Record.from_json, lambda record: record.key)


def record_keys(path: Path, task: str, parse: Callable[[str], Record] = Record.from_json) -> frozenset[str]:
    """Return the `Record.key` of every record of a task, failed ones included; holds one line at a time.

    Raises:
        DataError: a line is garbled or two lines share a key; names file and line.
    """
    file = task_file(path, "records", task)
    keys: set[str] = set()
    for number, record in parsed(file, task, parse):
        key = record.key
        if key in keys:
            raise DataError(f"{file}:{number}: a second line with the key {key!r}; next step: restore the file")
        keys.add(key)
    return frozenset(keys)


def read_judgments(path: Path, task: str) -> tuple[Judgment, ...]:
    """Read the judgments of one judging (a task, or `judging_name`), sorted by `judgment_key`; errors as `read_run`."""
    return tuple(found for _, found in _sorted_unique(path, "judgments", task, Judgment.from_json, judgment_key))


def read_items(path: Path, task: str) -> tuple[Item, ...]:
    """Read one task's items in the order in which they were written; errors as `read_run`."""
    file = task_file(path, "items", task)
    if not exists(file):
        raise DataError(f"{file}: the items of task {task!r} are missing; next step: restore the file")
    return tuple(item for _, item in parsed(file, task, Item.from_json))


def parsed(file: Path, task: str, parse: Callable[[str], T]) -> Iterator[tuple[int, T]]:
    """Yield (line number, value) of each line of a task's file, one at a time.

    Raises:
        DataError: names file, line and what is wrong.
    """
    for number, line in read_lines(file, below=file.parent.parent):
        try:
            value = parse(line)
        except DataError as error:
            raise DataError(f"{file}:{number}: {error}; next step: restore the file") from error
        if value.task != judged_task(task):
            raise DataError(f"{file}:{number}: a line of task {value.task!r} among those of {task!r}")
        yield number, value


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long one batch of a run took: one line of `timings.jsonl`, the only file of a run with clock readings.

    Attributes:
        task: task of the batch.
        items: records that were written.
        failed: those without a reply.
        seconds: since the batch before, at least 0.
        at: UTC time, ISO 8601.
    """

    task: str
    items: int
    failed: int = 0
    seconds: float
    at: str = ""

    def __post_init__(self) -> None:
        if not (0 <= self.failed <= self.items and 0.0 <= self.seconds < math.inf):
            raise DataError(f"Timing: no batch has items {self.items}, failed {self.failed}, seconds {self.seconds!r}")


_TIMINGS_AGAIN = "restore the file, or move it away: it holds clock readings, which decide nothing"


def read_timings(path: Path) -> Iterator[Timing]:
    """Yield the clock readings of a run folder; nothing where there are none.

    Raises:
        DataError: a line is damaged or was changed; names file, line and field.
        StoreError: the file cannot be read.
    """
    for number, row in read_rows(path / TIMINGS, again=_TIMINGS_AGAIN, below=path):
        try:
            yield build(Timing, row)
        except DataError as error:
            raise DataError(f"{path / TIMINGS}:{number}: {error}; next step: {_TIMINGS_AGAIN}") from error


def _sorted_unique(
    path: Path, kind: Kind, task: str, parse: Callable[[str], T], key: Callable[[T], str]
) -> list[tuple[int, T]]:
    """Return a file's values with the lines they stand on, sorted by key."""
    file = task_file(path, kind, task)
    found: dict[str, tuple[int, T]] = {}
    for number, value in parsed(file, task, parse):
        name = key(value)
        if name in found:
            raise DataError(f"{file}:{number}: a second line with the key {name!r}; next step: restore the file")
        found[name] = (number, value)
    return [found[name] for name in sorted(found)]


def _lines_sha256(lines: Iterator[str]) -> str:
    total = hashlib.sha256()
    for line in lines:
        total.update(line.encode() + b"\n")
    return total.hexdigest()
