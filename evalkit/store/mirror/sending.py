"""Sends up what is written: appended lines as pieces, replaced files whole, in an order that any crash leaves readable.

In: word of each write, from the thread that writes. Out: objects of the remote folder, from the thread that sends.
Must not depend on: what the files hold; when to send.

A file that grows is sent whole when this writer first adds to it, then piece by piece. When it was replaced (a task was
finished), or when the folder is closed, it is settled: the plain file is written beside the pieces, then the note that
says so, and only then are the pieces deleted.

The digests of a run's finished files (`SHA256SUMS`) are never there before what they speak of: a file that will change
loses its line first, and a line goes up once the file it names has gone up with that content.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from evalkit.errors import StoreError
from evalkit.store.lines import MANIFEST, SUMS
from evalkit.store.mirror.fetching import Kind, Layout, Piece, Shape, grows, layout_of, note_of, stays_here
from evalkit.store.mirror.lease import Lease

_MOST_PIECES = 256
"""Pieces of a file after which it is sent whole again: so many can still be read in seconds."""


@dataclass(frozen=True, slots=True)
class _Write:
    """What is known of the writes to a file that are not sent.

    Attributes:
        inode, size: of the file after the last one; what lies beyond the size is not written yet.
        turns: how often it was replaced or cut.
        first, last: when the oldest and the latest were made, seconds.
    """

    inode: int
    size: int
    turns: int
    first: float
    last: float


@dataclass(slots=True)
class _Sent:
    """What of a growing file lies there.

    Attributes:
        pieces: its pieces, void ones too.
        size: bytes sent, all told; -1 if the next sending must be of everything.
        written: inode and size of the file up to which it was sent.
        doubtful: pieces that may be there: the answer to their writing never came.
    """

    pieces: tuple[Piece, ...] = ()
    size: int = -1
    written: tuple[int, int] = (-1, -1)
    doubtful: tuple[Piece, ...] = ()

    @property
    def layout(self) -> Layout:
        return layout_of(self.pieces)


class Outbox:
    """Everything of one folder that is not there yet."""

    def __init__(self, root: Path, lease: Lease, shape: Shape) -> None:
        """Begin with a local folder that is equal to the remote one.

        Args:
            root: the local folder.
            lease: under which everything is sent.
            shape: what lies there.
        """
        self.root, self._lease, self._remote = root, lease, lease.remote
        self._guard = threading.Lock()
        self._sending = threading.Lock()
        self._writes: dict[str, _Write] = {}
        self._plain = {name: _stamp(root / name) for name in shape.plain if (root / name).exists()}
        self._sent = {name: _Sent(pieces=pieces) for name, pieces in shape.pieces.items()}
        self._sums = {name: _sums_in((root / name).read_bytes()) for name in self._plain if _is_sums(name)}
        self._hashes: dict[str, hashlib._Hash] = {}
        self._numbers = itertools.count(1)

    def grown(self, name: str, size: int, now: float) -> None:
        """Note that a file was appended to, and flushed."""
        self._note(name, size, now, turns=0)

    def replaced(self, name: str, now: float) -> None:
        """Note that a file is there anew, or was cut."""
        if not stays_here(name):
            self._note(name, (self.root / name).stat().st_size, now, turns=1)

    def doubt(self, names: Iterable[str], now: float) -> None:
        """Note that files are not what lies there."""
        for name in names:
            if _is_sums(name) and name in self._plain:
                self._sums[name] = _sums_in(self._remote.read(name))
            self._plain.pop(name, None)
            if grows(name):
                self._note(name, _whole_lines(self.root / name), now, turns=1)

    def waiting_since(self) -> float | None:
        """Return when the oldest write was made that is not sent; None if everything is."""
        with self._guard:
            return min((write.first for write in self._writes.values()), default=None)

    def waiting(self) -> list[str]:
        """Return the files that are not sent, or not in full."""
        with self._guard:
            return sorted(self._writes)

    def send(self) -> None:
        """Send everything that was written until now.

        Raises:
            LeaseLostError: somebody else writes to the folder; nothing was sent since.
            StoreError: the file system failed; what is not sent is sent next time.
        """
        with self._sending:
            for name in self._due():
                self._send(name)

    def settle(self) -> None:
        """Send everything, also what changed without a word, and leave plain files alone behind; errors as `send`."""
        with self._sending:
            self.doubt([name for name in self._names() if grows(name) and self._unheard(name)], math.inf)
            for name in self._due():
                self._send(name)
            for name in sorted(self._sent):
                self._settle(name, None)
            for name in [name for name in self._names() if _is_sums(name) and self._changed(name)]:
                self._put_sums(name, _sums_in((self.root / name).read_bytes()))
                self._plain[name] = _stamp(self.root / name)

    def _note(self, name: str, size: int, now: float, *, turns: int) -> None:
        inode = (self.root / name).stat().st_ino
        with self._guard:
            before = self._writes.get(name)
            self._writes[name] = _Write(
                inode=inode,
                size=size,
                turns=turns + (before.turns if before is not None else 0),
                first=before.first if before is not None else now,
                last=now,
            )

    def _due(self) -> list[str]:
        """Return what is to be sent: a record is never there before its run, a certificate never before its records."""
        with self._guard:
            names = set(self._writes)
        names |= {name for name in self._names() if not grows(name) and self._changed(name)}
        return sorted(names, key=_rank)

    def _names(self) -> list[str]:
        found = []
        for folder, _, files in os.walk(self.root):
            names = ((Path(folder) / file).relative_to(self.root).as_posix() for file in files)
            found += [name for name in names if not stays_here(name)]
        return found

    def _changed(self, name: str) -> bool:
        try:
            return self._plain.get(name) != _stamp(self.root / name)
        except FileNotFoundError:
            return False

    def _unheard(self, name: str) -> bool:
        sent, write, stat = self._sent.get(name), self._writes.get(name), (self.root / name).stat()
        if write is not None:
            return write.inode != stat.st_ino or write.size > stat.st_size
        if sent is None or sent.size < 0:
            return self._changed(name)
        return sent.written != (stat.st_ino, stat.st_size)

    def _send(self, name: str) -> None:
        with self._guard:
            write = self._writes.get(name)
        if not (self.root / name).exists():
            self._forget(name, write)
        elif _is_sums(name):
            self._send_sums(name, write)
        elif grows(name):
            self._send_growing(name, write)
        else:
            self._send_plain(name, write)

    def _send_plain(self, name: str, write: _Write | None) -> None:
        stamp = _stamp(self.root / name)
        if self._plain.get(name) != stamp:
            data = (self.root / name).read_bytes()
            self._unseal(name)
            self._put(name, data)
            self._hashes[name] = hashlib.sha256(data)
            self._plain[name] = stamp
        self._forget(name, write)

    def _send_sums(self, name: str, write: _Write | None) -> None:
        """Send the digests of what lies there already; the others follow their files."""
        stamp, folder = _stamp(self.root / name), PurePosixPath(name).parent
        wanted = _sums_in((self.root / name).read_bytes())
        with self._guard:
            waiting = set(self._writes)
        kept = {}
        for file, sha256 in wanted.items():
            full = (folder / file).as_posix()
            known = self._hashes.get(full)
            if full not in waiting and (known is None or known.hexdigest() == sha256):
                kept[file] = sha256
        if kept != self._sums.get(name):
            self._put_sums(name, kept)
        if kept == wanted:
            self._plain[name] = stamp
        else:
            self._plain.pop(name, None)
        self._forget(name, write)

    def _unseal(self, name: str) -> None:
        """Take the digest of a file away before the file changes."""
        for folder in PurePosixPath(name).parents:
            sums, file = (folder / SUMS).as_posix(), PurePosixPath(name).relative_to(folder).as_posix()
            if file in self._sums.get(sums, {}):
                self._put_sums(sums, {key: sha256 for key, sha256 in self._sums[sums].items() if key != file})
                self._plain.pop(sums, None)

    def _put_sums(self, name: str, sums: Mapping[str, str]) -> None:
        self._put(name, "".join(f"{sha256}  {file}\n" for file, sha256 in sums.items()).encode())
        self._sums[name] = dict(sums)

    def _send_growing(self, name: str, write: _Write | None) -> None:
        sent = self._sent.setdefault(name, _Sent())
        whole = write is None or write.turns > 0 or sent.size < 0 or len(sent.pieces) >= _MOST_PIECES
        data = None if write is None else _read_as_written(self.root / name, write, 0 if whole else sent.size)
        if write is None or data is None:  # replaced just now; word of it is on its way
            return
        if data or whole:
            self._unseal(name)
        if whole:
            self._add(name, sent, "whole", data)
            self._hashes[name] = hashlib.sha256(data)
            self._clear(name, sent)
        elif data:
            self._add(name, sent, "part", data)
            if name in self._hashes:
                self._hashes[name].update(data)
        sent.size, sent.written = write.size, (write.inode, write.size)
        if write.turns:
            self._settle(name, data)
        self._forget(name, write)

    def _settle(self, name: str, data: bytes | None) -> None:
        """Leave the plain file alone behind; `data` is its content if it is at hand."""
        sent = self._sent[name]
        if data is None and not (self.root / name).exists():
            return
        if not sent.layout.settled:
            content = (self.root / name).read_bytes() if data is None else data
            if sent.layout.from_plain_file or sent.size < 0:
                self._add(name, sent, "whole", content)
            self._put(name, content)
            self._add(name, sent, "done", note_of(content))
            sent.size = len(content)
            self._plain[name] = _stamp(self.root / name)
        self._clear(name, sent)

    def _add(self, name: str, sent: _Sent, kind: Kind, data: bytes) -> None:
        claim = self._lease.claim
        piece = Piece(epoch=claim.epoch, number=next(self._numbers), holder=self._lease.piece_holder, kind=kind)
        try:
            self._put(piece.name(name), data)
        except StoreError:
            sent.size, sent.doubtful = -1, (*sent.doubtful, piece)
            raise
        sent.pieces = (*sent.pieces, piece)

    def _clear(self, name: str, sent: _Sent) -> None:
        """Delete the pieces that no longer count."""
        void = (*sent.layout.void, *sent.doubtful)
        if void:
            self._lease.ensure()
            self._remote.remove([piece.name(name) for piece in void])
            sent.pieces, sent.doubtful = tuple(piece for piece in sent.pieces if piece not in void), ()

    def _put(self, name: str, data: bytes) -> None:
        self._lease.ensure()
        self._remote.put(name, data)

    def _forget(self, name: str, write: _Write | None) -> None:
        """Take writes as sent; what was written meanwhile stays due."""
        with self._guard:
            now = self._writes.get(name)
            if write is None or now is None:
                return
            if now == write:
                del self._writes[name]
            else:
                self._writes[name] = replace(now, turns=now.turns - write.turns, first=write.last)


def _is_sums(name: str) -> bool:
    return PurePosixPath(name).name == SUMS


def _sums_in(data: bytes) -> dict[str, str]:
    """Return the digests of a `SHA256SUMS` by file; a line that is none is left out here and named by its reader."""
    found = {}
    for line in data.decode(errors="replace").splitlines():
        sha256, _, file = line.partition("  ")
        found.update({file: sha256} if file else {})
    return found


def _rank(name: str) -> tuple[bool, bool, bool, str]:
    return not name.endswith(MANIFEST), "items/" not in name, not grows(name), name


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _whole_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def _read_as_written(path: Path, write: _Write, start: int) -> bytes | None:
    """Return a file from an offset on as it was after a write; None if it was replaced or cut since."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_ino != write.inode:
            return None
        file.seek(start)
        data = file.read(write.size - start)
    return data if len(data) == write.size - start else None
