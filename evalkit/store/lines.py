"""Files of lines that survive a crash: whole lines or nothing.

In: lines of text without line feeds. Out: the same lines, numbered; repairs are reported, never silent.
May not know: what a line means.

A line is ended by one line feed and by nothing else: model answers hold other Unicode line separators.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from evalkit.errors import DataError, StoreError
from evalkit.redaction import redact_values

_BLOCK = 1 << 16


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines with one write and one flush to the disk; on failure the file is as it was before.

    Raises:
        StoreError: the disk is full or the file cannot be written.
    """
    if not lines:
        return
    data = redact_values("\n".join(lines) + "\n").encode()
    try:
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            _write_all(descriptor, data)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot write {len(lines)} line(s): {error.strerror or error}; "
            f"the {count_lines(path)} line(s) before them are kept; "
            "next step: make space or rights, then repeat the same command to resume"
        ) from error


def _write_all(descriptor: int, data: bytes) -> None:
    before = os.fstat(descriptor).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def count_lines(path: Path) -> int:
    """Return the number of whole lines of a file; 0 where there is no file."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (1-based line number, line) one at a time; nothing where there is no file.

    Raises:
        DataError: a line is not UTF-8, or the last one has no line feed.
        StoreError: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, _decoded(path, number, raw)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if not raw.endswith(b"\n"):
        raise DataError(
            f"{path}:{number}: the line was cut off while it was written; "
            "next step: repeat the command that made the run, it drops the line and resumes"
        )
    try:
        return raw[:-1].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 at byte {error.start}; next step: restore the file") from error


def cut_torn_tail(path: Path, parse: Callable[[str], object]) -> str | None:
    """Cut a last line that a crash left unfinished or unreadable; return what was cut as a sentence, else None.

    Raises:
        StoreError: the file cannot be read or cut.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb+") as file:
            start, tail = _last_line(file.fileno())
            if tail.endswith(b"\n") and _parses(tail[:-1], parse):
                return None
            if not tail:
                return None
            file.truncate(start)
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"{path}: cannot be repaired: {error.strerror or error}") from error
    return f"{path}: dropped the last line ({len(tail)} bytes), which a crash left unfinished"


def _last_line(descriptor: int) -> tuple[int, bytes]:
    """Return (offset, bytes) of the last line, whether or not it ends with a line feed."""
    end = position = os.fstat(descriptor).st_size
    tail = b""
    while position > 0:
        size = min(_BLOCK, position)
        position -= size
        tail = os.pread(descriptor, size, position) + tail
        cut = tail.rfind(b"\n", 0, len(tail) - 1)
        if cut >= 0:
            return end - len(tail) + cut + 1, tail[cut + 1 :]
    return 0, tail


def _parses(raw: bytes, parse: Callable[[str], object]) -> bool:
    try:
        parse(raw.decode())
    except (DataError, UnicodeDecodeError):
        return False
    return True


def write_atomic(path: Path, chunks: Iterable[str]) -> None:
    """Write a whole file under a temporary name and rename it: readers see the old file or the new one.

    Raises:
        StoreError: the disk is full or the file cannot be written; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(map(redact_values, chunks))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}; what was there before is kept; "
            "next step: make space or rights, then repeat the same command to resume"
        ) from error


def sort_lines(path: Path, key: Callable[[str], str], keep: Callable[[str], bool] = lambda _line: True) -> int:
    """Put a file's lines in the order of their keys and drop those not kept; return the number dropped.

    Memory grows with the keys, not with the lines. A file already in order is not touched.

    Raises:
        DataError: a line cannot be read, or two lines share a key.
        StoreError: the file cannot be written.
    """
    index: list[tuple[str, int, int]] = []
    offset = dropped = 0
    for _, line in read_lines(path):
        size = len(line.encode()) + 1
        if keep(line):
            index.append((key(line), offset, size))
        else:
            dropped += 1
        offset += size
    ordered = sorted(index)
    for before, after in pairwise(ordered):
        if before[0] == after[0]:
            raise DataError(f"{path}: two lines have the key {after[0]!r}; next step: restore the file")
    if dropped or ordered != index:
        write_atomic(path, _picked(path, ordered))
    return dropped


def _picked(path: Path, index: Sequence[tuple[str, int, int]]) -> Iterator[str]:
    with path.open("rb") as file:
        for _, offset, size in index:
            file.seek(offset)
            yield file.read(size).decode()


def sync_folder(path: Path) -> None:
    """Flush a folder's entries, so that a new or renamed file survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
