"""The ledger's file: one JSON line an entry, each with the digest of the one before it.

In: a kind and its data. Out: entries, checked as a chain; the citation of an entry in a run folder.
Must not depend on: what an entry says.

Each entry carries two digests. `sha256` is over everything, its time too, and is what the next entry and a run folder
cite. `content` is over kind and data and the `content` before it, without a clock: certificates cite it, so that equal
histories give equal certificates.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from evalkit.errors import DataError, StoreError
from evalkit.records.canonical import build, canonical_json, digest, parse_object, tuple_of
from evalkit.store.door import read_document
from evalkit.store.lines import acquire, append_lines, cut_torn_tail, read_lines, sealed_line, write_atomic

if TYPE_CHECKING:
    from evalkit.history.ledgers import LedgerRow

LEDGER = "ledger.jsonl"
COPY = "certificate.ledger.jsonl"
"""Beside a certificate: the ledger as it was when the certificate was decided."""

SIDECAR = "ledger.json"
"""In a run folder: the entries that say when the run began."""

Kind = Literal[
    "opened",
    "run-begun",
    "run-completed",
    "judging-begun",
    "judging-done",
    "trial-begun",
    "trial",
    "certificate",
    "seal",
    "import",
    "night-begun",
    "night",
    "recalled",
]
KINDS: tuple[str, ...] = get_args(Kind)

_NOTHING = "0" * 64
_WAIT_S = 30.0
FIELDS = {"sequence", "kind", "data", "time", "nonce", "before", "content", "sha256"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that happened.

    Attributes:
        sequence: 0 for the first.
        kind: what happened.
        data: the facts, JSON data without clock readings.
        time: UTC, ISO 8601; for people.
        nonce: random, so that no two entries of two ledgers are the same.
        before: `sha256` of the entry before; zeros for the first.
        content: digest of everything up to here, without times and nonces.
        sha256: digest of all of the above.
    """

    sequence: int
    kind: Kind
    data: Mapping[str, Any]
    time: str
    nonce: str
    before: str
    content: str
    sha256: str

    def to_json(self) -> str:
        """Return the entry's line."""
        return canonical_json({name: getattr(self, name) for name in sorted(FIELDS)})


@dataclass(frozen=True, kw_only=True)
class Citation:
    """An entry that a run folder cites: `Entry.sequence` and `Entry.sha256`."""

    sequence: int
    sha256: str


class Mirror(Protocol):
    """Where a ledger is copied to."""

    @property
    def place(self) -> str:
        """Return where the ledger lies, as the history is to know it."""

    def keep(self, entries: Sequence[Entry]) -> None:
        """Copy every entry of a ledger that is not there yet.

        Raises:
            StoreError: the history cannot be written; nothing was.
        """

    def rows(self) -> Sequence[LedgerRow]:
        """Return everything that the history knows of ledgers, in the order in which it came.

        Raises:
            StoreError: the history cannot be read.
        """


class Ledger:
    """A ledger on the disk.

    Args:
        path: its file; it is made by the first entry.
        passed_over: another ledger, which lies above the outputs and would have been theirs; None for none.
        mirror: where every entry is copied to; None for nowhere.
        warn: takes one line for people: an entry that could not be copied now is copied with the next one.
    """

    def __init__(
        self,
        path: Path,
        *,
        passed_over: Path | None = None,
        mirror: Mirror | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.path, self.passed_over, self.mirror, self._warn = path, passed_over, mirror, warn

    def entries(self) -> tuple[Entry, ...]:
        """Read everything and check the chain.

        Raises:
            DataError: a line was changed, taken out or put in; names it.
            StoreError: it cannot be read.
        """
        return _checked(self.path, read_lines(self.path))

    def opened(self) -> tuple[Entry, ...]:
        """Read everything, after the first entry was written where there was none; errors as `append`."""
        return self.entries() or (self.append("opened", {}),)

    def append(self, kind: Kind, data: Mapping[str, Any]) -> Entry:
        """Write what happened, durably, before this returns; what a crash left unfinished is cut first.

        Raises:
            DataError: the ledger was tampered with; nothing is written.
            StoreError: it cannot be written, or another process holds it for long.
        """
        try:
            lock = acquire(self.path.with_suffix(".lock"), wait_s=_WAIT_S)
        except StoreError as error:
            raise StoreError(
                f"{error}; what happens must be on record: another place is named with --ledger"
            ) from error
        try:
            cut_torn_tail(self.path, lambda line: parse_object(line, "an entry"))
            entries = self.entries()
            new: tuple[Entry, ...] = ()
            if not entries:
                new = (next_entry(None, "opened", {"others": _others(self.path)}),)
            if kind != "opened":
                new = (*new, next_entry((*entries, *new)[-1], kind, data))
            append_lines(self.path, [entry.to_json() for entry in new])
        finally:
            lock.release()
        self._copy((*entries, *new))
        return (*entries, *new)[-1]

    def _copy(self, entries: Sequence[Entry]) -> None:
        """Bring everything that the mirror lacks; a mirror that is down costs a line, never an entry."""
        if self.mirror is None:
            return
        try:
            self.mirror.keep(entries)
        except StoreError as error:
            if self._warn is not None:
                self._warn(f"WARNING: the ledger is not copied: {error}")


def next_entry(last: Entry | None, kind: Kind, data: Mapping[str, Any]) -> Entry:
    """Return the entry that follows another one; None for the first."""
    row = {
        "sequence": 0 if last is None else last.sequence + 1,
        "kind": kind,
        "data": json.loads(canonical_json(data)),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "nonce": secrets.token_hex(8),
        "before": _NOTHING if last is None else last.sha256,
    }
    row["content"] = _content(row, _NOTHING if last is None else last.content)
    return Entry(**row, sha256=digest(row))


def _content(row: Mapping[str, Any], before: str) -> str:
    return digest([before, row["sequence"], row["kind"], row["data"]])


def parse_entries(text: str, where: str | Path) -> tuple[Entry, ...]:
    """Read a ledger, or the beginning of one, from its text; errors as `Ledger.entries`."""
    return _checked(where, enumerate(text.removesuffix("\n").split("\n") if text else (), start=1))


_AGAIN = "restore it from a copy (one lies beside every certificate); a ledger begun anew says so"


def _checked(where: str | Path, lines: Iterable[tuple[int, str]]) -> tuple[Entry, ...]:
    found: list[Entry] = []
    before = content = _NOTHING
    for number, line in lines:
        try:
            row = parse_object(line, f"{where}:{number}")
        except DataError as error:
            raise DataError(f"{error}; next step: {_AGAIN}") from error
        wrong = _wrong(row, len(found), before, content)
        if wrong:
            raise DataError(
                f"{where}:{number}: {wrong}: the ledger was edited, or lines were taken out or put in; "
                f"next step: {_AGAIN}"
            )
        found.append(Entry(**row))
        before, content = row["sha256"], row["content"]
    return tuple(found)


def _wrong(row: Mapping[str, Any], sequence: int, before: str, content: str) -> str:
    """Say what is wrong with an entry in its place; "" for nothing."""
    try:
        build(Entry, row)
    except DataError as error:
        return f"no entry of a ledger ({error})"
    if row["sequence"] != sequence:
        return f"entry {row['sequence']!r} stands where entry {sequence} belongs"
    if row["before"] != before:
        return f"entry {sequence} does not follow the entry before it"
    whole = {name: value for name, value in row.items() if name != "sha256"}
    if row["content"] != _content(row, content) or row["sha256"] != digest(whole):
        return f"entry {sequence} has another digest than its content"
    return ""


def place_of(folder: Path, *, named: Path | None, default: Path) -> Path:
    """Return which ledger outputs belong to.

    Args:
        folder: where outputs lie: the nearest ledger in it, or in a folder above it, is theirs.
        named: the file that was asked for; then it is that one.
        default: the file to make where there is none.
    """
    if named is not None:
        return named
    above = folder.absolute()
    return next((one / LEDGER for one in (above, *above.parents) if is_ledger(one / LEDGER)), default)


def is_ledger(path: Path) -> bool:
    """Say whether a file begins as a ledger does; a file of this name may be somebody else's."""
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline(1 << 20))
        return isinstance(row, dict) and row.get("sequence") == 0 and row.get("kind") == "opened"
    except (OSError, ValueError):
        return False


def _others(path: Path) -> list[dict[str, Any]]:
    """Return what lies below a new ledger and cites another one: it is not the first here."""
    found = []
    for pattern in (f"*/{SIDECAR}", f"*/*/{SIDECAR}", COPY, f"*/{COPY}"):
        for file in sorted(path.parent.glob(pattern)):
            try:
                last: Citation = _last_cited(file) if file.name == COPY else citations(file.parent)[-1]
            except (DataError, StoreError, IndexError):
                continue
            name = file.relative_to(path.parent).parent.as_posix()
            found.append({"in": name, "sequence": last.sequence, "sha256": last.sha256})
    return found


def _last_cited(copy: Path) -> Citation:
    last = _checked(copy, read_lines(copy))[-1]
    return Citation(sequence=last.sequence, sha256=last.sha256)


def cite(run: Path, entry: Entry) -> None:
    """Write into a run folder that an entry is about it; those it cites already stay.

    Raises:
        StoreError: it cannot be written.
        DataError: what is there already is no list of citations.
    """
    cited = (*citations(run), Citation(sequence=entry.sequence, sha256=entry.sha256))
    rows = [{"sequence": one.sequence, "sha256": one.sha256} for one in cited]
    write_atomic(run / SIDECAR, [sealed_line({"entries": rows}) + "\n"])


def citations(run: Path) -> tuple[Citation, ...]:
    """Return which entries a run folder cites; none where it was made without a ledger.

    Raises:
        DataError: the file is damaged.
        StoreError: it cannot be read.
    """
    file = run / SIDECAR
    try:
        row = read_document(file, again="restore the file", below=run)
    except FileNotFoundError:
        return ()
    try:
        if row.keys() != {"entries"}:
            raise DataError(f"unknown field(s) {', '.join(sorted(row.keys() - {'entries'}))}")
        return tuple(build(Citation, one) for one in tuple_of(row, "entries"))
    except DataError as error:
        raise DataError(f"{file}: no list of ledger entries: {error}; next step: restore the file") from error
