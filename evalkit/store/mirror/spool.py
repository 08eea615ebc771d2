"""The local place of a remote folder: where it is worked on before it is sent.

In: a URL and a folder for all spools. Out: one spool, held by one process, and what is remembered of it.
May not know: how anything is sent.

    <spools>/<digest of the URL>/.lock         held by the process that works here
    <spools>/<digest of the URL>/.state.json   which lease it was last in step with, and which files are known
    <spools>/<digest of the URL>/<name>/       the folder itself, under its own last name
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import quote

from evalkit.errors import DataError, StoreError
from evalkit.records import canonical_json, parse_object
from evalkit.store.lines import write_atomic
from evalkit.store.lock import FolderLock, acquire
from evalkit.store.mirror.fetching import Known
from evalkit.store.mirror.remote import shown_url

_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class State:
    """What a spool remembers.

    Attributes:
        url: of the folder, for people.
        lease: id of the claim under which the folder here was last equal to the one there; None for a reader.
        clean: everything that was written here was sent.
        files: what is known to be equal.
    """

    url: str
    lease: str | None = None
    clean: bool = True
    files: Mapping[str, Known] = field(default_factory=dict)


class Spool:
    """A spool that this process holds; `folder` is where to read and write."""

    def __init__(self, home: Path, url: str, lock: FolderLock) -> None:
        self.home, self.url = home, url
        self.folder = home / folder_name(url)
        self._lock: FolderLock | None = lock

    def state(self) -> State | None:
        """Return what is remembered; None for a new spool, or one whose memory is damaged."""
        try:
            row = dict(parse_object((self.home / ".state.json").read_text("utf-8"), ".state.json"))
            files = {name: Known(**known) for name, known in row.pop("files").items()}
            return State(**row, files=files)
        except (OSError, DataError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
            return None

    def remember(self, *, lease: str | None, clean: bool, files: Mapping[str, Known] | None = None) -> None:
        """Write down what the next process here must know."""
        state = State(url=self.url, lease=lease, clean=clean, files=files or {})
        write_atomic(self.home / ".state.json", [canonical_json(asdict(state))])

    def forget(self) -> None:
        """Forget everything: the folder is about to be made equal to the one there."""
        (self.home / ".state.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Free the spool for other processes; a second call does nothing."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def spool_home(spools: Path, url: str) -> Path:
    """Return the folder of a URL's spool; a password or token in the URL does not count."""
    return spools / hashlib.sha256(shown_url(url).encode()).hexdigest()[:_DIGITS]


def spool_folder(spools: Path, url: str) -> Path:
    """Return where the folder behind a URL is worked on.

    >>> spool_folder(Path("spool"), "s3://bucket/runs/fp8/").as_posix()
    'spool/3f64e2cc6c83ffc5/fp8'
    """
    return spool_home(spools, url) / folder_name(url)


def folder_name(url: str) -> str:
    """Return the last name of a URL, as a folder's."""
    name = quote(shown_url(url).rpartition("/")[2], safe=" ,+=@()[]")
    return f"_{name}" if name.startswith(".") or not name else name


def hold(spools: Path, url: str) -> Spool:
    """Take a URL's spool.

    Raises:
        StoreError: another process of this machine works with it.
    """
    home = spool_home(spools, url)
    try:
        lock = acquire(home / ".lock")
    except StoreError as error:
        raise StoreError(f"{shown_url(url)}: {error}") from error
    return Spool(home, shown_url(url), lock)
