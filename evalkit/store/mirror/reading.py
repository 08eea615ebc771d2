"""A remote folder brought down to be read: no lease, nothing sent, whoever may be writing.

In: a URL. Out: a local folder for as long as the context lasts.
May not know: what the files hold.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evalkit.errors import StoreError, UsageError
from evalkit.store.mirror.fetching import Shape, equal_now, fetch
from evalkit.store.mirror.remote import RemoteFolder, open_remote
from evalkit.store.mirror.spool import Spool, folder_name, hold


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
