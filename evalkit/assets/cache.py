"""The cache: files under the digest of their content.

In: files just obtained. Out: the same files in a folder named by their digest, checked whenever they are used.
May not know: what an asset is, or where it came from.

Nothing half-written is ever seen: files are made in a scratch folder beside the cache and moved in one step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from evalkit.assets.declaration import address_of
from evalkit.errors import AssetError
from evalkit.records import text_digest

CHUNK_BYTES = 1 << 20

STAMPED_BYTES = 16 << 20
"""Files from this size on are not hashed again while size and times of modification and change stay what they were."""


class ContentCache:
    """Folders of files, each named by the digest of its content, under `<root>/assets/`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, address: str) -> Path | None:
        """Return the folder with this content, verified; None if there is none.

        A folder whose content no longer has its digest is removed, so that it is fetched again.
        """
        folder = self.root / "assets" / address
        if not folder.is_dir():
            return None
        with _disk(folder):
            if address_of(self.hashes(folder)) == address:
                return folder
            shutil.rmtree(folder)
        return None

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield an empty folder on the cache's own disk, removed afterwards whatever happens."""
        with _disk(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="partial-", dir=self.root))
        try:
            with _disk(folder):
                yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, files: Path, address: str) -> Path:
        """Move a folder of files into the cache and return where they are now."""
        target = self.root / "assets" / address
        with _disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                files.rename(target)
            except OSError as error:
                # Another process was faster; its copy has the same digest, or it is removed here.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if self.find(address) is None:
                    files.rename(target)
        return target

    def pinned(self, description: str) -> str | None:
        """Return the digest once found for a source that declares none."""
        path = self._pin(description)
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None

    def pin(self, description: str, address: str) -> None:
        """Remember the digest found for a source that declares none."""
        self._write(self._pin(description), address)

    def hashes(self, path: Path, *, stamped: bool = True) -> dict[str, str]:
        """Return relative file name to sha256 for a file or for all files of a folder.

        If `stamped`, a file of 16 MiB or more is hashed again only if its size, or its time of modification or
        change (which cannot be set), is another than the last time.

        Raises:
            AssetError: there is nothing there.
        """
        paths = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
        if not paths or not path.exists():
            raise AssetError(f"{path}: there is no such file, or the folder is empty")
        with _disk(path):
            return {
                found.relative_to(path).as_posix() if path.is_dir() else path.name: (
                    self._stamped(found) if stamped else file_sha256(found)
                )
                for found in paths
            }

    def _stamped(self, path: Path) -> str:
        stat = path.stat()
        if stat.st_size < STAMPED_BYTES:
            return file_sha256(path)
        stamp = self.root / "stamps" / f"{text_digest(str(path.resolve()))}.json"
        seen = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "ctime_ns": stat.st_ctime_ns}
        try:
            known = json.loads(stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if known.get("stat") == seen:
            return str(known["sha256"])
        sha256 = file_sha256(path)
        self._write(stamp, json.dumps({"stat": seen, "sha256": sha256}))
        return sha256

    def _pin(self, description: str) -> Path:
        return self.root / "pins" / text_digest(description)

    def _write(self, path: Path, text: str) -> None:
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
                file.write(text)
            Path(file.name).replace(path)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return copy_stream(file, None)


def copy_stream(source: IO[bytes], target: IO[bytes] | None, hasher: hashlib._Hash | None = None) -> str:
    """Copy a stream piece by piece and return the sha256 of all that went through `hasher` so far."""
    hasher = hasher or hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        hasher.update(chunk)
        if target is not None:
            target.write(chunk)
    return hasher.hexdigest()


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into an error with the next step."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            step = "free some space or choose another cache folder"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            step = "make the folder writable or choose another cache folder"
        else:
            step = "check the disk"
        raise AssetError(f"{path}: {error.strerror or error}; nothing was kept; next step: {step}") from error
