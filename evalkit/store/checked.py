"""A task's files held against one another: items against their texts, records against items, files against digests.

In: a run folder, the records of a task with the lines they stand on. Out: contradictions by file and line.
Must not depend on: runs that are compared, verdicts.

Reading five worked examples before each of 14,042 questions takes as long as everything else of a comparison, and all
runs of a release have the same file of items. So what was found of a file is kept by the digest of its bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import DataError, StoreError
from evalkit.records.canonical import digest
from evalkit.records.consistency import (
    Checked,
    ItemFacts,
    KnownItem,
    check_records,
    item_contradictions,
    item_facts,
    known_of,
)
from evalkit.records.manifest import TaskRun
from evalkit.records.record import Item, Record
from evalkit.store.door import exists, open_plain
from evalkit.store.lines import SUMS, read_lines, task_file, write_atomic

_SUM = re.compile(r"([0-9a-f]{64})  (manifest\.json|(?:items|records|judgments)/[A-Za-z0-9%._~-]+\.jsonl)")

_KEPT = 4
"""Files of items that are remembered, at most."""


@dataclass(frozen=True, kw_only=True)
class TaskCheck:
    """What came of a task's check.

    Attributes:
        contradictions: one sentence each, with file, line, item, stored and recomputed value.
        unchecked: what could not be computed again, one sentence each.
    """

    contradictions: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ItemFile:
    """What a file of items says, whoever's run it lies in.

    Attributes:
        known: item key to what records are held against.
        facts: item key to what items share with others.
        faults: (line, sentence) of every contradiction within an item; line 0 for the whole file.
        set_sha256, prompts_sha256: as in `TaskRun`, of these items.
    """

    known: Mapping[str, KnownItem]
    facts: Mapping[str, ItemFacts]
    faults: tuple[tuple[int, str], ...]
    set_sha256: str
    prompts_sha256: str


_known: dict[tuple[str, str], ItemFile] = {}


def file_digest(path: Path, *, below: Path) -> str:
    """Return the sha256 of a file's bytes.

    Raises:
        DataError: it is a link or no regular file.
        StoreError: it cannot be read.
    """
    total = hashlib.sha256()
    try:
        with os.fdopen(open_plain(path, below=below), "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


def read_sums(path: Path) -> dict[str, str]:
    """Return the digests of a run's finished files by name; empty for a folder of before there were any.

    Raises:
        DataError: a line is none of `sha256sum`.
    """
    found: dict[str, str] = {}
    for number, line in read_lines(path / SUMS, below=path):
        match = _SUM.fullmatch(line)
        if match is None or match[2] in found:
            raise DataError(f"{path / SUMS}:{number}: no digest of a file of this run; next step: restore the file")
        found[match[2]] = match[1]
    return found


def write_sums(path: Path, sums: Mapping[str, str]) -> None:
    """Write the digests of a run's finished files, in the form of `sha256sum`."""
    write_atomic(path / SUMS, [f"{sums[name]}  {name}\n" for name in sorted(sums)])


def forget_sums(path: Path, names: Sequence[str]) -> None:
    """Forget the digests of files that are about to be written.

    Raises:
        DataError: such a file is not as it was when it was finished.
    """
    sums = read_sums(path)
    for name, why in changed_files(path).items():
        if name in names:
            raise DataError(f"{why}; next step: restore the file, or move the run away")
    if any(name in sums for name in names):
        write_sums(path, {name: sha256 for name, sha256 in sums.items() if name not in names})


def changed_files(path: Path) -> dict[str, str]:
    """Return each finished file that is not as it was when it was finished, with what is wrong."""
    wrong = {}
    for name, sha256 in read_sums(path).items():
        found = file_digest(path / name, below=path) if exists(path / name) else None
        if found != sha256:
            now = f"its sha256 is {found}" if found else "it is not there"
            where = f"{path.resolve().name}/{name}"
            wrong[name] = f"{where}: changed since it was finished: {now}, {sha256} was recorded in {SUMS}"
    return wrong


def item_file(path: Path, task: str) -> ItemFile | None:
    """Read the items of a task and hold each against its own text; None where the run has none.

    Raises:
        DataError: a line is no item of this task; names file and line.
        StoreError: the file cannot be read.
    """
    file = task_file(path, "items", task)
    if not exists(file):
        return None
    key = (task, file_digest(file, below=path))
    if key not in _known:
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = _read(file, path, task)
    return _known[key]


def _read(file: Path, path: Path, task: str) -> ItemFile:
    found: dict[str, KnownItem] = {}
    facts: dict[str, ItemFacts] = {}
    faults: list[tuple[int, str]] = []
    for number, line in read_lines(file, below=path):
        try:
            item = Item.from_json(line)
            key = item.key
            if item.task != task:
                raise DataError(f"a line of task {item.task!r} among those of {task!r}")
            faults += [(number, str(found)) for found in item_contradictions(item, line)]
            again = key in found
            found[key], facts[key] = known_of(item), item_facts(item)
        except DataError as error:
            raise DataError(f"{file}:{number}: {error}; next step: restore the file") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file}:{number}: no whole item ({error!r}); next step: restore the file") from error
        if again:
            faults.append((number, f"item {key} stands twice"))
    return ItemFile(
        known=found,
        facts=facts,
        faults=tuple(faults),
        set_sha256=digest(sorted(found)),
        prompts_sha256=digest(sorted([key, known.prompt_sha256] for key, known in found.items())),
    )


def checked_task(path: Path, task: str, run: TaskRun, records: Sequence[tuple[int, Record]]) -> TaskCheck:
    """Hold a task's records, with the lines they stand on, against their items and replies.

    Raises:
        DataError: a line of the items is no item.
    """
    items = item_file(path, task)
    here = Path(path.resolve().name)  # a certificate may cite this, and holds no path of a machine
    place = task_file(here, "items", task)
    whole = items is not None and len(items.known) * _generations(run) >= run.planned
    found: list[str] = []
    if items is not None:
        found += [f"{place}:{number}: {text}" for number, text in items.faults]
        if whole:
            found += _wrong_set(place, run, items)
    checked: Checked = check_records(
        [record for _, record in records], items.known if items is not None else None, run.settings, whole=whole
    )
    file = task_file(here, "records", task)
    found += [f"{file}:{records[at][0]}: {wrong}" for at, wrong in checked.contradictions]
    return TaskCheck(contradictions=tuple(found), unchecked=checked.unchecked)


def _generations(run: TaskRun) -> int:
    found = run.settings.get("generations", 1)
    return found if isinstance(found, int) and found > 0 else 1


def _wrong_set(place: Path, run: TaskRun, items: ItemFile) -> Iterator[str]:
    for field, stored, given in (
        ("item_set_sha256", run.item_set_sha256, items.set_sha256),
        ("prompts_sha256", run.prompts_sha256, items.prompts_sha256),
    ):
        if stored != given:
            yield f"{place}: the manifest's {field} is {stored}, these items give {given}"
