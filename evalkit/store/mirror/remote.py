"""A folder on any file system that fsspec knows: listed, read, written whole, deleted.

In: a URL. Out: bytes by name, or an error that names the URL and the next step.
Must not depend on: what the files hold.

fsspec is imported when a URL is opened, and not before.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from evalkit.errors import MissingExtraError, StoreError, UsageError
from evalkit.redaction import redact_text

T = TypeVar("T")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_WHOLE_AT_ONCE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"})
"""Protocols whose `put` is seen whole or not at all; on all others a file is written aside and renamed."""

_TRIES = 4
_LASTING = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)


class MissingFileError(StoreError):
    """A file that was listed is not there any more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file as a listing shows it.

    Attributes:
        size: bytes.
        mark: changes with the content, as well as the file system can tell.
        sure: it follows from the content, and not from a clock.
    """

    size: int
    mark: str
    sure: bool = False


def is_url(text: str) -> bool:
    r"""Say whether a text names a place by URL.

    >>> is_url("s3://bucket/runs"), is_url("outputs/a"), is_url("C:\\runs")
    (True, False, False)
    """
    return _URL.match(text) is not None


def shown_url(url: str) -> str:
    """Return a URL as it may be shown and written: without secrets, without a slash at the end.

    >>> shown_url("sftp://me:pass@host/runs/?token=abc")
    'sftp://[redacted]@host/runs'
    """
    return redact_text(url).split("?", 1)[0].rstrip("/")


class RemoteFolder:
    """A folder behind a URL.

    Attributes:
        url: as it may be shown.
    """

    def __init__(self, fs: Any, root: str, url: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url = url
        self._fs, self._root, self._sleep = fs, root.rstrip("/"), sleep
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        self._at_once = bool(protocols & _WHOLE_AT_ONCE)
        self._local = bool(protocols & {"file", "local"})

    def find(self, below: str = "") -> dict[str, Entry]:
        """List every file below the folder, or below a folder in it, by its name relative to the folder.

        Raises:
            StoreError: it cannot be listed, or a name in it leads out of the folder.
        """
        start = f"{self._root}/{below}" if below else self._root
        found = self._call("be listed", below, lambda: self._fs.find(start, detail=True))
        entries = {}
        for path, info in found.items():
            name = str(path)[len(self._root) + 1 :]
            if info.get("type") == "directory" or not name or name.endswith("/") or _aside(name):
                continue
            if set(name.split("/")) & {"", ".", ".."}:
                raise StoreError(
                    f"{self.url}: holds a file named {name!r}, which leads out of it; next step: delete it"
                )
            tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
            clock = info.get("LastModified") or info.get("mtime") or info.get("created")
            entries[name] = Entry(size=int(info.get("size") or 0), mark=str(tag or clock), sure=bool(tag))
        return entries

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            MissingFileError: it is not there.
            StoreError: it cannot be read.
        """
        data: bytes = self._call("be read", name, lambda: self._fs.cat_file(self._path(name)))
        return data

    def put(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StoreError: it cannot be written.
        """
        self._call("be written", name, lambda: self._put(self._path(name), data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a file that must not be there yet; return whether it is this one that is there now.

        S3, Google's and Azure's stores and local folders let exactly one of two writers win. On other file systems two
        that write in the same moment may both be told that they won; the later one's bytes are there then.

        Raises:
            StoreError: it cannot be written.
        """
        try:
            self._create(self._path(name), data)
        except Exception as error:  # noqa: BLE001 (every file system refuses in words of its own)
            try:
                return self.read(name) == data
            except MissingFileError:
                raise self._fault("be written", name, error) from error
        return True

    def remove(self, names: Sequence[str]) -> None:
        """Delete files; one that is gone already is no fault.

        Raises:
            StoreError: one cannot be deleted.
        """
        for name in names:
            try:
                self._call("be deleted", name, lambda name=name: self._fs.rm_file(self._path(name)))  # type: ignore[misc]
            except MissingFileError:
                continue

    def above(self) -> list[RemoteFolder]:
        """Return the folders around this one, the nearest first; a bucket itself is the last."""
        folders, root, url = [], PurePosixPath(self._root), self.url
        while len(root.parts) > 1 and str(root.parent) not in ("/", "."):
            root, url = root.parent, url.rsplit("/", 1)[0]
            folders.append(RemoteFolder(self._fs, str(root), url, sleep=self._sleep))
        return folders

    def inside(self, name: str) -> RemoteFolder:
        """Return a folder in this one."""
        return RemoteFolder(self._fs, self._path(name), f"{self.url}/{name}", sleep=self._sleep)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, path: str, data: bytes) -> None:
        if self._at_once:
            self._fs.pipe_file(path, data)
            return
        parent, _, last = path.rpartition("/")
        aside = f"{parent}/.{last}.{uuid.uuid4().hex[:8]}.tmp"
        self._fs.makedirs(parent, exist_ok=True)
        self._fs.pipe_file(aside, data)
        self._fs.mv(aside, path)

    def _create(self, path: str, data: bytes) -> None:
        if not self._local:
            self._fs.pipe_file(path, data, mode="create")
            return
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with self._fs.open(path, "xb") as file:
            file.write(data)

    def _call(self, what: str, name: str, work: Callable[[], T]) -> T:
        """Do something, again after a fault that may pass."""
        for turn in range(1, _TRIES + 1):
            try:
                return work()
            except Exception as error:
                if turn == _TRIES or isinstance(error, _LASTING) or _needs_a_key(error):
                    raise self._fault(what, name, error) from error
                self._sleep(0.5 * 2**turn)
        raise AssertionError("the last turn returns or raises")

    def _fault(self, what: str, name: str, error: Exception) -> StoreError:
        if isinstance(error, StoreError):
            return error
        place = f"{self.url}/{name}" if name else self.url
        said = redact_text(f"{type(error).__name__}: {error}")
        kind = MissingFileError if isinstance(error, FileNotFoundError) else StoreError
        return kind(f"{place}: cannot {what} ({said}); next step: {_next_step(error)}")


def open_remote(url: str) -> RemoteFolder:
    """Open the folder behind a URL; nothing is asked of it yet.

    Raises:
        MissingExtraError: fsspec, or what it needs for this kind of URL, is not installed.
        UsageError: the URL is of no kind that fsspec knows, or names no folder.
    """
    shown, kind = shown_url(url), url.partition("://")[0]
    if "::" in url:
        raise UsageError(f"{shown}: chained URLs are not supported; next step: name the folder itself")
    try:
        import fsspec  # noqa: PLC0415 (an extra, needed for URLs alone)
    except ImportError as error:
        raise MissingExtraError(f"a folder behind a URL ({shown})", "fsspec", "remote") from error
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        if kind in ("s3", "s3a"):
            raise MissingExtraError(f"a folder behind a URL ({shown})", "s3fs", "remote") from error
        raise UsageError(f"{shown}: {redact_text(str(error))}; next step: pip install what it names") from error
    except ValueError as error:
        raise UsageError(f"{shown}: {redact_text(str(error))}; next step: s3://, gs:// or another of fsspec") from error
    if not root.strip("/"):
        raise UsageError(f"{shown}: names no folder; next step: {kind}://bucket/folder")
    return RemoteFolder(fs, root, shown)


def _aside(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.startswith(".") and last.endswith(".tmp")


def _needs_a_key(error: Exception) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "HttpError403")


def _next_step(error: Exception) -> str:
    if isinstance(error, PermissionError) or _needs_a_key(error):
        return (
            "give this machine credentials with the right to list, read, write and delete there (for S3: a role, a "
            "profile, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
        )
    if isinstance(error, FileNotFoundError):
        return "check the name; a bucket must be made before it is used"
    return "check address and network (S3-compatible servers: AWS_ENDPOINT_URL), then repeat the command, which resumes"
