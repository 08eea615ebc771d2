"""Which files an attestation covers, and their digests.

In: a certificate as data, the folder it lies in. Out: file names and sha256 digests.
May not know: signatures, what a file says.

Every file of every run folder is covered but the lock, which only says who is writing; so a changed byte, a removed
record and an added file all show. Names are relative to the certificate's folder, with "/" on every system.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.certify.deciding import qualifications_in
from evalkit.errors import DataError, StoreError
from evalkit.store.layout import LOCK

CERTIFICATE = "certificate.json"
REPORTS = ("report.md", "report.html")
BESIDE = ("throughput.json",)
"""What a report may show beside the certificate."""


def run_folder_names(document: Mapping[str, Any]) -> dict[str, str]:
    """Return name of a run in the certificate to the name of its folder.

    Raises:
        DataError: a folder's name is a path, or two runs share one.
    """
    found: dict[str, str] = {}
    for name, run in document["runs"].items():
        folder = str(run["folder"])
        if not folder or folder in (".", "..") or PurePosixPath(folder).name != folder or "\\" in folder:
            raise DataError(f"runs.{name}.folder: {folder!r} is no plain name of a folder beside the certificate")
        if folder in found.values():
            raise DataError(f"runs.{name}.folder: {folder!r} is the folder of another run too")
        found[name] = folder
    return found


def covered_files(document: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the names of the files an attestation must cover, sorted.

    Raises:
        DataError: a folder's name in the certificate is no plain name.
    """
    names = [CERTIFICATE, *(name for name in (*REPORTS, *BESIDE) if (folder / name).exists())]
    for run in run_folder_names(document).values():
        names += files_of_run(folder, run)
    names += [path.relative_to(folder).as_posix() for path in qualifications_in(folder)]
    return sorted(names)


def files_of_run(folder: Path, run: str) -> list[str]:
    """Return the names of a run's files, relative to the certificate's folder; empty where there is no folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / run).rglob("*")
        if path.is_file() and not (path.name == LOCK and path.parent == folder / run)
    )


def digests(folder: Path, names: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each name with the sha256 of its file; None where there is no such file."""
    for name in names:
        yield name, file_sha256(folder / name)


def file_sha256(path: Path) -> str | None:
    """Return the sha256 of a file; None where there is none.

    Raises:
        StoreError: it is there and cannot be read.
    """
    total = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()
