"""Brings a remote folder down: every file whole, pieces joined, as of one moment.

In: a remote folder, a local one. Out: the local one, equal to what the remote one held.
Must not depend on: what the files hold; who may write.

A reader takes no lease, so a writer may be at work: what was listed may be gone before it is read, and replaced by
something that holds the same. The folder is listed again after everything was read; if what counted then still counts,
it was read as of that moment, and if not, it is read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evalkit.errors import DataError, StoreError
from evalkit.store.mirror.lease import FOLDER as LEASES
from evalkit.store.mirror.remote import Entry, MissingFileError, RemoteFolder

# A file of lines as pieces: what an object store can hold of a file that grows.
#
# An object cannot be appended to, so a growing file `x.jsonl` is sent as numbered pieces in `.x.jsonl.parts/` beside
# it:
#
# 00000003-00000001-9f2c41d0.whole    the file as it was when its writer first sent it
#     00000003-00000002-9f2c41d0.part     lines that were appended since
#     00000003-00000003-9f2c41d0.done     a note: up to here the file lies in `x.jsonl` itself, with this digest
#
# The first number is the epoch of the writer's lease. What counts begins at the latest `whole` or `done`; earlier
# pieces are void, even those that a writer who had lost its lease sends late. So a crash between any two steps leaves
# a file that reads as before or as after, and deleting void pieces changes nothing.


Kind = Literal["part", "whole", "done"]

_PIECE = re.compile(r"(\d{8})-(\d{8})-([0-9a-f]{8})\.(part|whole|done)")
_FOLDER = re.compile(r"(?:(.*)/)?\.([^/]+)\.parts/([^/]+)")


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """One piece; pieces are in the order in which they count.

    Attributes:
        epoch: of its writer's lease.
        number: within the epoch, over all files.
        holder: whose lease it was.
        kind: see the module.
    """

    epoch: int
    number: int
    holder: str
    kind: Kind

    def name(self, file: str) -> str:
        """Return the name of the object.

        >>> Piece(3, 1, "9f2c41d0", "whole").name("records/quiz.jsonl")
        'records/.quiz.jsonl.parts/00000003-00000001-9f2c41d0.whole'
        """
        folder, slash, last = file.rpartition("/")
        return f"{folder}{slash}.{last}.parts/{self.epoch:08d}-{self.number:08d}-{self.holder}.{self.kind}"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file can be read now.

    Attributes:
        base: where what counts begins; None for `x.jsonl` alone, without any piece.
        parts: what follows it, in order.
        void: pieces that no longer count.
    """

    base: Piece | None
    parts: tuple[Piece, ...] = ()
    void: tuple[Piece, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether the plain file is all there is to read."""
        return not self.parts and (self.base is None or self.base.kind == "done")

    @property
    def from_plain_file(self) -> bool:
        """Whether reading begins with the plain file."""
        return self.base is None or self.base.kind == "done"


def piece_of(name: str) -> tuple[str, Piece] | None:
    """Return the file and the piece that an object's name stands for; None for any other object.

    >>> piece_of("records/.quiz.jsonl.parts/00000003-00000001-9f2c41d0.whole")
    ('records/quiz.jsonl', Piece(epoch=3, number=1, holder='9f2c41d0', kind='whole'))
    """
    place = _FOLDER.fullmatch(name)
    piece = _PIECE.fullmatch(place[3]) if place else None
    if place is None or piece is None:
        return None
    kind: Kind = piece[4]  # type: ignore[assignment]
    file = f"{place[1]}/{place[2]}" if place[1] else place[2]
    return file, Piece(epoch=int(piece[1]), number=int(piece[2]), holder=piece[3], kind=kind)


def layout_of(pieces: Iterable[Piece]) -> Layout:
    """Return how a file with these pieces is read.

    >>> old, whole, new = Piece(1, 4, "a" * 8, "part"), Piece(2, 1, "b" * 8, "whole"), Piece(2, 2, "b" * 8, "part")
    >>> layout_of([new, old, whole]) == Layout(base=whole, parts=(new,), void=(old,))
    True
    """
    ordered = sorted(pieces)
    base = max((piece for piece in ordered if piece.kind != "part"), default=None)
    parts = tuple(piece for piece in ordered if piece.kind == "part" and (base is None or piece > base))
    void = tuple(piece for piece in ordered if piece != base and piece not in parts)
    return Layout(base=base, parts=parts, void=void)


def grows(name: str) -> bool:
    """Say whether a file of an outputs folder grows line by line; all others are written whole.

    >>> grows("a/records/quiz.jsonl"), grows("a/timings.jsonl"), grows("a/items/quiz.jsonl"), grows("a/manifest.json")
    (True, True, False, False)
    """
    return name.endswith(".jsonl") and not f"/{name}".rpartition("/")[0].endswith("/items")


def stays_here(name: str) -> bool:
    """Say whether a file belongs to the local folder alone: locks, and what a crash left half written.

    >>> stays_here("a/lock"), stays_here("_judgments/x.lock"), stays_here("a/.x.12.tmp"), stays_here("a/blockade")
    (True, True, True, False)
    """
    last = name.rpartition("/")[2]
    return last == "lock" or last.endswith(".lock") or (last.startswith(".") and last.endswith(".tmp"))


_TURNS = 20
_DOUBTS = 4
"""A digest that does not fit may be a file that is being replaced; looked at so often, it is another file."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a remote folder holds.

    Attributes:
        plain: files under their own names.
        pieces: file to its pieces.
    """

    plain: Mapping[str, Entry]
    pieces: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Every file, whether plain, in pieces, or both; sorted."""
        return sorted({*self.plain, *self.pieces})

    def layout(self, name: str) -> Layout:
        """Return how a file can be read."""
        return layout_of(self.pieces.get(name, ()))

    def still(self, later: Shape) -> bool:
        """Say whether everything that counted here counts in a later listing too; files may have grown meanwhile."""
        return all(self._still(name, later) for name in self.names)

    def _still(self, name: str, later: Shape) -> bool:
        mine, then = self.layout(name), later.layout(name)
        same_base = mine.base == then.base and mine.parts == then.parts[: len(mine.parts)]
        return same_base and (not mine.from_plain_file or self.plain.get(name) == later.plain.get(name))


def shape_of(remote: RemoteFolder) -> Shape:
    """List a remote folder.

    Raises:
        StoreError: it cannot be listed.
    """
    plain: dict[str, Entry] = {}
    pieces: dict[str, list[Piece]] = {}
    for name, entry in remote.find().items():
        found = piece_of(name)
        if found is not None:
            pieces.setdefault(found[0], []).append(found[1])
        elif f"/{LEASES}/" not in f"/{name}" and not stays_here(name):
            plain[name] = entry
    return Shape(plain=plain, pieces={name: tuple(sorted(found)) for name, found in pieces.items()})


def read_file(remote: RemoteFolder, name: str, shape: Shape) -> bytes:
    """Read one file, its pieces joined.

    Raises:
        MissingFileError: something that was listed is gone.
        DataError: the plain file is not the one its note speaks of.
        StoreError: it cannot be read.
    """
    layout = shape.layout(name)
    if layout.base is not None and layout.base.kind == "whole":
        data = remote.read(layout.base.name(name))
    else:
        data = remote.read(name) if name in shape.plain or layout.base is not None else b""
    if layout.base is not None and layout.base.kind == "done":
        _check(remote, name, data, remote.read(layout.base.name(name)))
    return data + b"".join(remote.read(part.name(name)) for part in layout.parts)


def note_of(data: bytes) -> bytes:
    """Return the content of a `done` piece: what the plain file must be."""
    return json.dumps({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}, sort_keys=True).encode()


def _check(remote: RemoteFolder, name: str, data: bytes, note: bytes) -> None:
    if note_of(data) != note:
        raise DataError(
            f"{remote.url}/{name}: is not the file that evalkit wrote (its digest is another); next step: restore it, "
            f"or delete it together with the folder of its pieces beside it, and repeat the run"
        )


@dataclass(frozen=True, kw_only=True)
class Known:
    """A file as it lay here and there when both were last equal."""

    mark: str
    size: int
    mtime_ns: int


def fetch(
    remote: RemoteFolder,
    folder: Path,
    known: Mapping[str, Known] | None = None,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Shape:
    """Make a local folder equal to a remote one; files that are known to be equal are not read again.

    Raises:
        DataError: a file was changed by something else than evalkit.
        StoreError: the folder cannot be read, or changes faster than it can be read.
    """
    fault: StoreError | DataError | None = None
    for turn in range(_TURNS):
        shape = shape_of(remote)
        try:
            for name in shape.names:
                if not _same(folder / name, name, shape, known or {}):
                    write_local(folder / name, read_file(remote, name, shape))
        except MissingFileError as error:
            fault = error
        except DataError as error:
            if turn >= _DOUBTS:
                raise
            fault = error
        else:
            if shape.still(shape_of(remote)):
                _drop_strangers(folder, set(shape.names))
                return shape
        sleep(min(0.05 * 2**turn, 2.0))
    raise fault or StoreError(f"{remote.url}: changes faster than it can be read; next step: try again later")


def equal_now(folder: Path, shape: Shape) -> dict[str, Known]:
    """Return what to remember of files that are equal here and there, where a listing tells when they no longer are."""
    found = {}
    for name in shape.names:
        if name in shape.plain and shape.plain[name].sure and shape.layout(name).settled and (folder / name).exists():
            stat = (folder / name).stat()
            found[name] = Known(mark=shape.plain[name].mark, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    return found


def write_local(path: Path, data: bytes) -> None:
    """Write a file of the local folder, whole or not at all.

    Raises:
        StoreError: the disk is full or the file cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}; next step: make space, or name another folder "
            "with --spool"
        ) from error


def _same(path: Path, name: str, shape: Shape, known: Mapping[str, Known]) -> bool:
    found = known.get(name)
    if found is None or name not in shape.plain or not shape.layout(name).settled or not path.exists():
        return False
    stat = path.stat()
    return (found.mark, found.size, found.mtime_ns) == (shape.plain[name].mark, stat.st_size, stat.st_mtime_ns)


def _drop_strangers(folder: Path, names: set[str]) -> None:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in names and not stays_here(name):
            path.unlink()


def unequal(remote: RemoteFolder, folder: Path, shape: Shape) -> list[str]:
    """Return the local files that are not what lies there; what lies there alone is brought down.

    Raises:
        StoreError: a file cannot be read.
    """
    found = []
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted({*here, *shape.names}):
        if stays_here(name):
            continue
        try:
            data = read_file(remote, name, shape) if name in shape.names else None
        except (MissingFileError, DataError):  # whoever wrote it died between two steps; what is here is whole
            data = None
        if name not in here:
            if data is not None:
                write_local(folder / name, data)
        elif data != (folder / name).read_bytes():
            found.append(name)
    return found
