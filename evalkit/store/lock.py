"""One writer for each run folder.

In: the path of a lock file. Out: a lock that the operating system frees when its process dies.
May not know: what is protected.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import StoreError
from evalkit.store.door import open_plain
from evalkit.store.lines import make_folder


@dataclass(frozen=True, kw_only=True)
class FolderLock:
    """A held lock.

    Attributes:
        path: the lock file; its content names the holder while it is held and is empty otherwise.
        descriptor: open file descriptor that carries the lock.
        left_by: what a dead holder had left in the file, else None.
    """

    path: Path
    descriptor: int
    left_by: str | None

    def release(self) -> None:
        """Empty the file and free the lock."""
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


_LOOK_S = 0.02
"""Seconds between two looks at a lock that somebody holds."""


def acquire(path: Path, *, wait_s: float = 0.0) -> FolderLock:
    """Take the lock, or say who holds it.

    The kernel's lock decides; the content of the file is for people. A file that names a dead process is free.

    Args:
        path: the lock file.
        wait_s: seconds to wait for whoever holds it; 0 for a file that one process writes for hours.

    Raises:
        StoreError: another process holds the lock (named with its host), or the file system cannot lock.
        DataError: the lock is a link or no regular file.
    """
    try:
        make_folder(path.parent)
        descriptor = open_plain(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
    try:
        _locked(descriptor, wait_s)
    except BlockingIOError:
        holder = _holder(descriptor)
        os.close(descriptor)
        raise StoreError(
            f"{path.parent}: {holder or 'another process'} is writing here; next step: wait for it or stop it"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path}: this file system cannot lock files ({error.strerror or error}); "
            "next step: write the run to a local folder and move it afterwards"
        ) from error
    try:
        left_by = _holder(descriptor)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}; "
            "next step: make space or rights, then repeat the same command to resume"
        ) from error
    return FolderLock(path=path, descriptor=descriptor, left_by=left_by)


def _locked(descriptor: int, wait_s: float) -> None:
    import fcntl  # noqa: PLC0415 (absent on Windows, where runs can still be read)

    last = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= last:
                raise
            time.sleep(_LOOK_S)


def _holder(descriptor: int) -> str | None:
    try:
        row = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {row['pid']} on host {row['host']}"
    except (ValueError, KeyError, TypeError):
        return None
