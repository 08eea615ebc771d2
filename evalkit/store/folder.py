"""A run folder that is being written.

In: a manifest, then items, records and judgments as they are made. Out: files that are whole after any crash.
Must not depend on: engines, clocks, progress bars.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit.errors import DataError, IdentityMismatchError
from evalkit.records.canonical import canonical_json, digest, parse_object
from evalkit.records.manifest import EngineIdentity, JudgeRun, Manifest
from evalkit.records.record import Item, Judgment, Record
from evalkit.redaction import redact_settings, redact_text
from evalkit.store.checked import file_digest, forget_sums, read_sums, write_sums
from evalkit.store.door import exists, refuse_irregular
from evalkit.store.lines import (
    LOCK,
    MANIFEST,
    SERVER_LOG,
    TIMINGS,
    FolderLock,
    Kind,
    acquire,
    append_lines,
    count_lines,
    cut_torn_tail,
    sealed_line,
    sort_lines,
    task_file,
    write_atomic,
)
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

# Does a run folder belong to what is asked for now?


_ABSENT = "absent"
_PROCESSOR = "engine.processor"


def merge_manifests(path: Path, found: Manifest, asked: Manifest) -> Manifest:
    """Return the manifest of a resumed run: the folder's own with the tasks and judges newly asked for.

    Raises:
        IdentityMismatchError: engine, policy, or a task or judge in both differs, or the files that were imported do;
            names each field and both values.
    """
    faults = [
        *_differences("engine", asdict(found.engine), asdict(asked.engine)),
        *_differences("policy_sha256", found.policy_sha256, asked.policy_sha256),
    ]
    for name in sorted(set(found.tasks) & set(asked.tasks)):
        faults += _differences(f"tasks.{name}", asdict(found.tasks[name]), asdict(asked.tasks[name]))
    for name in sorted(set(found.judges) & set(asked.judges)):
        faults += _differences(f"judges.{name}", asdict(found.judges[name]), asdict(asked.judges[name]))
    _refuse(path, faults)
    _refuse_other_import(path, found.requested.get("imported"), asked.requested.get("imported"))
    return replace(
        found,
        tasks={**found.tasks, **asked.tasks},
        judges={**found.judges, **asked.judges},
        requested=asked.requested or found.requested,
    )


def _refuse_other_import(path: Path, found: Any, asked: Any) -> None:
    """Refuse files of another tool in a folder that other ones were imported into, or that a run was written into.

    An import is not resumed: its records are what its source files hold, so the digests of these are its identity.
    """
    if asked is None and found is None:
        return
    faults = list(_differences("imported", found or _ABSENT, asked or _ABSENT))
    if faults:
        raise IdentityMismatchError(
            "\n  - ".join(
                (f"{path}: the folder holds what was imported from other files and is left as it is:", *faults)
            )
            + "\nnext step: name another output folder, or move this one away"
        )


def check_judge(path: Path, task: str, found: JudgeRun | None, asked: JudgeRun) -> None:
    """Refuse a second judge for a task's answers; how the same judge was asked for does not matter.

    Raises:
        IdentityMismatchError: names each field that differs.
    """
    if found is not None:
        _refuse(path, list(_differences(f"judges.{task}", _judge(found), _judge(asked))))


def _judge(judge: JudgeRun) -> dict[str, Any]:
    return {name: value for name, value in asdict(judge).items() if name != "requested"}


def _refuse(path: Path, faults: list[str]) -> None:
    if faults:
        step = "name another output folder, or move this one away"
        if any(fault.startswith(_PROCESSOR) for fault in faults):
            step += "; a run is finished on the processor on which it was begun, since another one rounds otherwise"
        raise IdentityMismatchError(
            "\n  - ".join((f"{path}: the folder belongs to another run and is left as it is:", *faults))
            + f"\nnext step: {step}"
        )


def _differences(name: str, found: Any, asked: Any) -> Iterator[str]:
    left, right = dict(_leaves(name, _plain(found))), dict(_leaves(name, _plain(asked)))
    for field in sorted(set(left) | set(right)):
        a, b = left.get(field, _ABSENT), right.get(field, _ABSENT)
        if a != b:
            yield f"{field}: folder has {a!r}, asked for {b!r}"


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back, so that a tuple equals the list it became on disk."""
    return json.loads(canonical_json(value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value


# Secrets taken out of what a run folder is given, before it is compared or written.
#
# Numbers, prompts and answers are evidence and stay as they are; only what was asked for, how, and what went wrong can
# carry a key: settings, addresses, commands, failures.


def clean_manifest(manifest: Manifest) -> Manifest:
    """Return a manifest without secrets."""
    return replace(
        manifest,
        engine=clean_identity(manifest.engine),
        judges={name: clean_judge(judge) for name, judge in manifest.judges.items()},
        requested=redact_settings(manifest.requested),
        command=redact_text(manifest.command),
    )


def clean_identity(identity: EngineIdentity) -> EngineIdentity:
    """Return an identity without secrets."""
    return replace(
        identity,
        model=redact_text(identity.model),
        quantization=redact_settings(identity.quantization),
        options=redact_settings(identity.options),
    )


def clean_judge(judge: JudgeRun) -> JudgeRun:
    """Return who judged, without secrets."""
    return replace(judge, identity=clean_identity(judge.identity), requested=redact_settings(judge.requested))


def clean_record(record: Record) -> Record:
    """Return a record whose failure, if it has one, holds no secret."""
    return record if record.failure is None else replace(record, failure=redact_text(record.failure))


def clean_judgment(judgment: Judgment) -> Judgment:
    """Return a judgment whose failure, if it is one, holds no secret."""
    return replace(judgment, details=redact_settings(judgment.details)) if judgment.status == "api_error" else judgment


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
        self._whole: set[str] = set()  # tasks whose items are known to be there
        self._held: dict[str, Record] | None = None
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
        """Write a task's items, whole or not at all; a file that holds as many already is kept.

        It can only hold the same items: the manifest's digests of items and prompts were compared on opening.

        Args:
            task: name.
            items: all items of the task, not only those that are asked now: exports and checks need them all.

        Raises:
            DataError: these are not the items that the manifest names by digest; nothing is written.
            StoreError: the disk is full or the file cannot be written.
        """
        file = self._file("items", task)
        if task in self._whole or (exists(file) and count_lines(file) == len(items)):
            self._whole.add(task)
            return
        if exists(file):
            self._unseal("items", task)
        write_atomic(file, self._checked_lines(task, items))
        self._whole.add(task)

    def _checked_lines(self, task: str, items: Sequence[Item]) -> Iterator[str]:
        keys = []
        for item in items:
            keys.append(item.key)
            yield item.to_json() + "\n"
        wanted = self._manifest.tasks[task].item_set_sha256
        if digest(sorted(keys)) != wanted:
            raise DataError(
                f"{self._file('items', task)}: {len(keys):,} items have not the digest {wanted[:12]}... of the "
                f"manifest's item set: they are others, or only a part; next step: repeat the run in another folder"
            )

    def hold_records(self) -> None:
        """Keep what is parsed of records, so that a folder that is looked at again and again parses each line once."""
        self._held = self._held or {}

    def _record(self, line: str) -> Record:
        if self._held is None:
            return Record.from_json(line)
        found = self._held.get(line)
        if found is None:
            found = self._held[line] = Record.from_json(line)
        return found

    def items(self, task: str) -> tuple[Item, ...]:
        """Read a task's items back."""
        return read_items(self.path, task)

    def done_keys(self, task: str) -> frozenset[str]:
        """Return the `Record.key` of every record on disk, failed ones included; errors as `record_keys`."""
        return record_keys(self.path, task, self._record)

    def append_records(self, task: str, records: Sequence[Record]) -> None:
        """Append records with one write and one flush to the disk, whole or not at all.

        Raises:
            StoreError: the disk is full; says what is kept and how to resume.
        """
        self._unseal("records", task)
        clean = [clean_record(record) for record in records]
        lines = [record.to_json() for record in clean]
        append_lines(self._file("records", task), lines)
        if self._held is not None:
            self._held.update(zip(lines, clean, strict=True))

    def records(self, task: str) -> tuple[Record, ...]:
        """Read a task's records back, sorted by key."""
        return read_records(self.path, task, self._record)

    def each_record(self, task: str) -> Iterator[Record]:
        """Yield a task's records one at a time, in the order in which they lie on the disk; errors as `read_run`."""
        return (record for _, record in parsed(self._file("records", task), task, self._record))

    def drop_failed(self, task: str) -> int:
        """Remove a task's failed records, so that they are asked again; return how many there were."""
        self._unseal("records", task)
        records = self._file("records", task)
        return sort_lines(records, lambda line: self._record(line).key, lambda line: self._record(line).status == "ok")

    def finish(self, task: str) -> None:
        """Put a task's records in key order and record the digests of its files.

        Equal replies are then equal bytes, whatever the order of work.
        """
        sort_lines(self._file("records", task), lambda line: self._record(line).key)
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
        append_lines(self.path / TIMINGS, [sealed_line(row)])

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


def keep_log(path: Path, log: Path) -> Path:
    """Move a server's log into a run folder, behind what its log holds already; without a folder it stays where it is.

    It is no evidence and has no digest: a run may have had many servers, and no number comes from it.
    """
    if not path.is_dir() or not log.is_file():
        return log
    kept = path / SERVER_LOG
    with kept.open("a", encoding="utf-8") as into, log.open(encoding="utf-8", errors="replace") as out:
        into.writelines(redact_text(line) for line in out)
    log.unlink()
    return kept
