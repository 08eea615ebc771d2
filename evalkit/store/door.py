"""The one door to files of a folder that may be somebody else's.

In: a folder that a user named, the path of a file below it. Out: descriptors and whole texts of regular files.
Must not depend on: what a file holds.

Whoever makes a run folder can put links and devices into it. A link below the folder would let evalkit read, sign or
overwrite what lies outside, a FIFO or a device would hold it for ever. So every part of a path below the folder that
the user named is opened without following links, and only regular files are opened. The folder itself may be a link.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, StoreError
from evalkit.records.canonical import parse_object, unsealed

LARGEST = 1 << 26
"""Bytes of one document, at most: parsed, it takes about ten times as many."""

WHOLE = 1 << 28
"""Bytes that are read at once, at most; no manifest, certificate or report is nearly as large."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_BY_PARTS = os.open in os.supports_dir_fd and bool(_NO_LINK)
_KINDS = {
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
_NEXT = "next step: put a regular file in its place, or leave it out"


def open_plain(path: Path, flags: int = os.O_RDONLY, *, below: Path | None = None, mode: int = 0o644) -> int:
    """Open a regular file without following a link; return its descriptor.

    Args:
        path: the file.
        flags: as for `os.open`.
        below: the folder that a user named, above the file; by default the one the file lies in.
        mode: rights of a new file.

    Raises:
        DataError: the file, or a folder between it and `below`, is a link or no regular file, or a file that is to be
            written has another name too (a hard link); named.
        OSError: as `os.open`.
    """
    root = path.parent if below is None else below
    parts = path.relative_to(root).parts
    flags |= _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)  # a FIFO would wait for a writer
    if not _BY_PARTS:
        for at in range(len(parts)):
            _refuse_irregular(root.joinpath(*parts[: at + 1]), folder=at + 1 < len(parts))
        return _regular(os.open(path, flags, mode), path, flags)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for at, part in enumerate(parts[:-1]):
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK, dir_fd=folder)
            except OSError as error:
                _told(error, root.joinpath(*parts[: at + 1]), folder=True)
                raise
            os.close(folder)
            folder = inner
        try:
            return _regular(os.open(parts[-1], flags, mode, dir_fd=folder), path, flags)
        except OSError as error:
            _told(error, path, folder=False)
            raise
    finally:
        os.close(folder)


def read_whole(path: Path, *, below: Path | None = None, limit: int = WHOLE) -> bytes:
    """Read a whole file.

    Raises:
        DataError: a link, no regular file, or larger than `limit` bytes; named.
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read.
    """
    try:
        with os.fdopen(open_plain(path, below=below), "rb") as file:
            data = file.read(limit + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(str(path)) from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) > limit:
        raise DataError(f"{path}: larger than {limit:,} bytes, which no file of this kind is; next step: restore it")
    return data


def read_text(path: Path, *, below: Path | None = None, limit: int = WHOLE) -> str:
    """Read a whole UTF-8 text, line ends as they are; errors as `read_whole`, and DataError if it is not UTF-8."""
    try:
        return read_whole(path, below=below, limit=limit).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; next step: restore the file") from error


def read_document(path: Path, *, again: str, below: Path | None = None) -> dict[str, Any]:
    """Read a whole document, one JSON object: the way in for every such file that evalkit wrote.

    Args:
        path: the file. One that a user names may be a link; below a folder of somebody else's (`below`) none may.
        again: what to do about a damaged one, after "next step: ".
        below: as for `open_plain`.

    Raises:
        DataError: no UTF-8, no strict JSON object (`parse_object`), a changed one (`sealed`), too large, or no regular
            file; names the file and ends in `again`.
        FileNotFoundError: there is no such file.
        StoreError: it cannot be read.
    """
    try:
        data = read_whole(path if below is not None else path.resolve(), below=below, limit=LARGEST)
        return unsealed(parse_object(data.decode(), f"{path}"), f"{path}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; next step: {again}") from error
    except DataError as error:
        step = "" if "next step" in str(error) else f"; next step: {again}"
        raise DataError(f"{error}{step}") from error


def exists(path: Path) -> bool:
    """Say whether there is anything of this name, links that lead nowhere included."""
    return os.path.lexists(path)


def irregular(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield everything below a folder that is neither a folder nor a regular file, with what it is; sorted by name."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from error
    for entry in entries:
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
        if kind == stat.S_IFDIR:
            yield from irregular(Path(entry.path))
        elif kind != stat.S_IFREG:
            yield Path(entry.path), _KINDS.get(kind, "no regular file")


def refuse_irregular(folder: Path) -> None:
    """Refuse a folder in which something is a link or no regular file.

    Raises:
        DataError: names the first.
    """
    for path, what in irregular(folder):
        raise DataError(f"{path}: {what}, and a run folder holds regular files only; {_NEXT}")


def _regular(descriptor: int, path: Path, flags: int) -> int:
    found = os.fstat(descriptor)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFREG and not (flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1):
        return descriptor
    os.close(descriptor)
    if kind == stat.S_IFREG:
        raise DataError(
            f"{path}: a hard link, so writing here would change a file of another name too; next step: put a copy in "
            "its place"
        )
    raise DataError(f"{path}: {_KINDS.get(kind, 'no regular file')}, and a regular file belongs here; {_NEXT}")


def _told(error: OSError, path: Path, *, folder: bool) -> None:
    """Say by name what stands in a file's way; another error of the system is left as it is."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EMLINK, errno.EISDIR):
        _refuse_irregular(path, folder=folder)


def _refuse_irregular(path: Path, *, folder: bool) -> None:
    try:
        kind = stat.S_IFMT(os.lstat(path).st_mode)
    except OSError:
        return
    if kind != (stat.S_IFDIR if folder else stat.S_IFREG):
        wanted = "a folder" if folder else "a regular file"
        raise DataError(f"{path}: {_KINDS.get(kind, 'no regular file')}, and {wanted} belongs here; {_NEXT}")
