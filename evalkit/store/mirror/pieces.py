"""A file of lines as pieces: what an object store can hold of a file that grows.

In: names of objects. Out: which of them make up the file now.
May not know: how objects are read or written.

An object cannot be appended to, so a growing file `x.jsonl` is sent as numbered pieces in `.x.jsonl.parts/` beside it:

    00000003-00000001-9f2c41d0.whole    the file as it was when its writer first sent it
    00000003-00000002-9f2c41d0.part     lines that were appended since
    00000003-00000003-9f2c41d0.done     a note: up to here the file lies in `x.jsonl` itself, with this digest

The first number is the epoch of the writer's lease. What counts begins at the latest `whole` or `done`; earlier pieces
are void, even those that a writer who had lost its lease sends late. So a crash between any two steps leaves a file
that reads as before or as after, and deleting void pieces changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

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
