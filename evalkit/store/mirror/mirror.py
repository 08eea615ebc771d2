"""A remote folder, worked on here: brought down on opening, sent up while it is written, given back on closing.

In: a URL. Out: a local folder that the store, the comparison and the report use as any other.
Must not depend on: what a run is.

A reply counts when it is on the local disk and was sent. The first happens before the store's call returns; the second
every `SEND_S` seconds in a thread of its own, so a machine that vanishes takes the replies of the last seconds with it,
and whoever resumes asks for those again. While the file system cannot be reached, work goes on for `LAG_S` seconds and
is then stopped; the same command on the same machine sends what was left.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from evalkit.errors import DataError, StoreError, UsageError
from evalkit.records.canonical import build, object_of
from evalkit.store.door import read_document
from evalkit.store.lines import FolderLock, acquire, sealed_line, unwatch, watch, write_atomic
from evalkit.store.mirror.fetching import Known, Shape, equal_now, fetch, shape_of, unequal
from evalkit.store.mirror.lease import TTL_S, Clock, LeaseLostError, take
from evalkit.store.mirror.remote import RemoteFolder, open_remote, shown_url
from evalkit.store.mirror.sending import Outbox

# The local place of a remote folder: where it is worked on before it is sent.
#
# <spools>/<digest of the URL>/.lock         held by the process that works here
#     <spools>/<digest of the URL>/.state.json   which lease it was last in step with, and which files are known
#     <spools>/<digest of the URL>/<name>/       the folder itself, under its own last name


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
            row = read_document(self.home / ".state.json", again="delete the file", below=self.home)
            files = {name: build(Known, known) for name, known in object_of(row, "files").items()}
            return build(State, {**row, "files": files})
        except (FileNotFoundError, StoreError, DataError):
            return None

    def remember(self, *, lease: str | None, clean: bool, files: Mapping[str, Known] | None = None) -> None:
        """Write down what the next process here must know."""
        state = State(url=self.url, lease=lease, clean=clean, files=files or {})
        write_atomic(self.home / ".state.json", [sealed_line(asdict(state)) + "\n"])

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


# A remote folder brought down to be read: no lease, nothing sent, whoever may be writing.


@contextmanager
def brought_down(url: str, spools: Path) -> Iterator[Path]:
    """Bring a remote folder down to read it.

    Raises:
        UsageError: the URL cannot be used, or there is nothing behind it.
        DataError: a file was changed by something else than evalkit.
        StoreError: it cannot be read.
    """
    remote = open_remote(url)
    spool = _free_spool(spools, url)
    if spool is None:  # a process here writes to it, or left something that is not sent: read beside it
        aside = Path(tempfile.mkdtemp(prefix="reading-", dir=spools))
        try:
            folder = aside / folder_name(url)
            folder.mkdir()
            yield _checked(remote, folder, fetch(remote, folder))
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return
    try:
        state = spool.state()
        spool.forget()
        spool.folder.mkdir(parents=True, exist_ok=True)
        shape = fetch(remote, spool.folder, state.files if state is not None else {})
        spool.remember(lease=None, clean=True, files=equal_now(spool.folder, shape))
        yield _checked(remote, spool.folder, shape)
    finally:
        spool.close()


def _free_spool(spools: Path, url: str) -> Spool | None:
    spools.mkdir(parents=True, exist_ok=True)
    try:
        spool = hold(spools, url)
    except StoreError:
        return None
    state = spool.state()
    if state is None or state.clean:
        return spool
    spool.close()
    return None


def _checked(remote: RemoteFolder, folder: Path, shape: Shape) -> Path:
    if not shape.names:
        raise UsageError(f"{remote.url}: there is nothing behind this URL; next step: check its spelling")
    return folder


SEND_S = 2.0
"""Seconds a reply on the local disk waits to be sent."""

LAG_S = 600.0
"""Seconds for which work goes on while nothing can be sent."""

CLOSE_S = 120.0
"""Seconds for which closing tries again to send what is left."""

_BEATS = 6
"""Renewals of a lease within its time to live."""


class Mirror:
    """A remote folder that this process writes, as a context.

    Attributes:
        url: as it may be shown.
        root: the local folder, once it is open.
    """

    def __init__(
        self,
        url: str,
        spools: Path,
        *,
        say: Callable[[str], None] = lambda _line: None,
        ttl_s: float = TTL_S,
        clock: Clock | None = None,
        by_itself: bool = True,
    ) -> None:
        """Say what to open; nothing is done yet.

        Args:
            url: of the folder.
            spools: where folders are worked on.
            say: writes one line for people.
            ttl_s: seconds after which others may take this process for dead.
            clock: time.
            by_itself: send and renew in threads; otherwise only when `send` is called, and on closing.
        """
        self.url, self._given, self._spools = shown_url(url), url, spools
        self._say, self._ttl_s, self._by_itself = say, ttl_s, by_itself
        self._clock = clock or Clock()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lost: LeaseLostError | None = None

    def __enter__(self) -> Mirror:
        """Take the folder and make both sides equal.

        Raises:
            UsageError: the URL cannot be used.
            DataError: a file there was changed by something else than evalkit.
            StoreError: somebody else writes to the folder, or it cannot be reached.
        """
        remote = open_remote(self._given)
        self._spool = hold(self._spools, self._given)
        try:
            self._open(remote)
        except BaseException:
            self._spool.close()
            raise
        watch(self)
        for work, pause_s in ((self.send, SEND_S), (self._beat, self._ttl_s / _BEATS)) if self._by_itself else ():
            thread = threading.Thread(target=self._repeat, args=(work, pause_s), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def _open(self, remote: RemoteFolder) -> None:
        self.root = self._spool.folder.absolute()
        state = self._spool.state() or State(url=self.url)
        self._lease, before = take(remote, ttl_s=self._ttl_s, dead=state.lease, say=self._say, clock=self._clock)
        try:
            self._outbox = self._equalled(remote, state, before)
        except BaseException:
            with suppress(StoreError):
                self._lease.release()
            raise

    def _equalled(self, remote: RemoteFolder, state: State, before: str | None) -> Outbox:
        """Make both sides equal: by sending, where the last writer was a process here that died; else by bringing down.

        Args:
            remote: the folder there.
            state: what was remembered of the folder here.
            before: id of the last writer's claim.
        """
        lease = self._lease
        if not state.clean and state.lease == before:
            self._spool.remember(lease=lease.claim.id, clean=False)
            shape = shape_of(remote)
            outbox = Outbox(self.root, lease, shape)
            outbox.doubt(unequal(remote, self.root, shape), self._clock.now())
            return outbox
        if not state.clean:
            self._say(f"{self.url}: another process has gone on meanwhile; what was not sent from here is dropped")
        self._spool.remember(lease=lease.claim.id, clean=True)  # nothing here is to be sent, whatever happens now
        self.root.mkdir(parents=True, exist_ok=True)
        shape = fetch(remote, self.root, state.files if state.clean else {})
        self._spool.remember(lease=lease.claim.id, clean=False)
        return Outbox(self.root, lease, shape)

    def grown(self, path: Path, size: int) -> None:
        """Hear of appended lines; stop whoever writes if nothing can be sent any more.

        Raises:
            LeaseLostError: somebody else writes to the folder.
            StoreError: nothing could be sent for too long.
        """
        self._outbox.grown(self._name(path), size, self._clock.now())
        self._check()

    def replaced(self, path: Path) -> None:
        """Hear of a file that is there anew; errors as for `grown`."""
        self._outbox.replaced(self._name(path), self._clock.now())
        self._check()

    def send(self) -> None:
        """Send what was written until now; errors as `Outbox.send`."""
        self._outbox.send()

    def close(self) -> None:
        """Send what is left, leave plain files behind, and give the folder back.

        Raises:
            LeaseLostError: somebody else writes to the folder now; nothing was sent since.
            StoreError: something could not be sent; it is kept here.
        """
        unwatch(self)
        self._stop.set()
        try:
            for thread in self._threads:
                thread.join()
            if self._lost is not None:
                raise self._lost
            self._settle()
            equal = equal_now(self.root, shape_of(self._lease.remote))
            self._spool.remember(lease=self._lease.claim.id, clean=True, files=equal)
            self._lease.release()
        finally:
            self._spool.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except (StoreError, DataError) as fault:
            if error is None:
                raise
            if fault is not error:  # what went wrong first is what is told
                self._say(str(fault))

    def _settle(self) -> None:
        """Send the rest, again and again for a while."""
        begun = self._clock.now()
        while True:
            try:
                self._outbox.settle()
            except LeaseLostError:
                raise
            except StoreError as error:
                if self._clock.now() - begun > CLOSE_S:
                    raise StoreError(
                        f"{error}\n{self.url}: what was written last could not be sent and is kept in "
                        f"{self.root.parent}; next step: repeat the same command on this machine"
                    ) from error
                self._clock.sleep(SEND_S)
            else:
                return

    def _check(self) -> None:
        if self._lost is not None:
            raise self._lost
        since = self._outbox.waiting_since()
        if since is not None and self._clock.now() - since > LAG_S:
            raise StoreError(
                f"{self.url}: nothing could be sent for {LAG_S:g} s; what was written is kept in {self.root.parent}; "
                "next step: see that the address can be reached, then repeat the same command on this machine"
            )

    def _beat(self) -> None:
        self._lease.renew()

    def _repeat(self, work: Callable[[], None], pause_s: float) -> None:
        """Do something again and again; a fault that may pass is tried again, a lost lease ends it."""
        while not self._stop.wait(pause_s):
            try:
                work()
            except LeaseLostError as error:
                self._lost = error
                return
            except (StoreError, OSError):
                continue

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()
