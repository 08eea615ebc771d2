"""Which files an attestation covers, and their digests.

In: a certificate as data, the folder it lies in. Out: file names and sha256 digests.
May not know: signatures, what a file says.

Every file of every run folder is covered but the lock, which only says who is writing; so a changed byte, a removed
record and an added file all show. A link would put what it names outside of every digest, so there may be none. Names
are relative to the certificate's folder, with "/" on every system.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from evalkit.attestation.findings import Finding
from evalkit.certify.deciding import QUALIFICATIONS, qualifications_in
from evalkit.errors import DataError, StoreError
from evalkit.ledger import COPY, LEDGER
from evalkit.store.door import exists, irregular, open_plain
from evalkit.store.layout import LOCK

CERTIFICATE = "certificate.json"
REPORTS = ("report.md", "report.html")
BESIDE = ("throughput.json", COPY)
"""What a report may show beside the certificate, and the ledger that it cites."""
ENVELOPE = "certificate.dsse.json"
"""The signature, beside the certificate."""

_PARTS = (CERTIFICATE, *REPORTS, *BESIDE, ENVELOPE)
_LEDGER = (LEDGER, Path(LEDGER).with_suffix(".lock").name)
"""The ledger where it lies beside a certificate; it is compared with the copy of it."""
_SHOWN = (".html", ".htm", ".xhtml", ".svg", ".pdf", ".mhtml")
"""Endings of what a person opens by a click, and would take for the report."""


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
    names = [CERTIFICATE, *(name for name in (*REPORTS, *BESIDE) if exists(folder / name))]
    for run in run_folder_names(document).values():
        names += files_of_run(folder, run)
    names += [path.relative_to(folder).as_posix() for path in qualifications_in(folder)]
    return sorted(names)


def files_of_run(folder: Path, run: str) -> list[str]:
    """Return the names of a run's files, relative to the certificate's folder; empty where there is no folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in (folder / run).rglob("*")
        if (path.is_symlink() or path.is_file()) and not (path.name == LOCK and path.parent == folder / run)
    )


def irregular_parts(document: Mapping[str, Any], folder: Path) -> Iterator[Finding]:
    """Yield every link and device among what a certificate rests on, the lock of a run included."""
    below = [*run_folder_names(document).values(), QUALIFICATIONS]
    wanted = {*_PARTS, *below}
    found: list[tuple[Path, str]] = []
    for entry in _entries(folder):
        if entry.name in wanted and (entry.is_symlink() or not (entry.is_file() or entry.is_dir())):
            found.append((Path(entry.path), "a link" if entry.is_symlink() else "no regular file"))
        elif entry.name in below and entry.is_dir():
            found += irregular(Path(entry.path))
    for path, what in found:
        message = f"it is {what}: what it leads to is covered by no digest; next step: put the file itself there"
        yield Finding(code="file-irregular", where=path.relative_to(folder).as_posix(), message=message)


def strangers(document: Mapping[str, Any], folder: Path) -> tuple[list[Finding], list[str]]:
    """Return what lies beside a certificate and is no part of it: what could be taken for one, and all else by name."""
    parts = {*_PARTS, *run_folder_names(document).values(), QUALIFICATIONS, *_LEDGER}
    others = [entry.name for entry in _entries(folder) if entry.name not in parts]
    taken = [name for name in others if _reads_like_a_part(name, parts)]
    message = "it is no part of the certificate, and nobody checked what it says; next step: move it elsewhere"
    findings = [Finding(code="file-stranger", where=name, message=message) for name in taken]
    return findings, [name for name in others if name not in taken]


def _reads_like_a_part(name: str, parts: set[str]) -> bool:
    folded = _folded(name)
    if folded.endswith(_SHOWN) or folded in {_folded(part) for part in parts}:
        return True
    stems = {_folded(part).partition(".")[0] for part in _PARTS}
    return not folded.startswith(".") and any(folded.startswith(stem) for stem in stems)


def _folded(name: str) -> str:
    """Return a name as a reader sees it: compatible letters and case made one, invisible characters left out."""
    shown = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char)[0] != "C")
    return shown.casefold().strip()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror or error}") from error


def digests(folder: Path, names: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each name with the sha256 of its file; None where there is no such file."""
    for name in names:
        yield name, file_sha256(folder / name, below=folder)


def file_sha256(path: Path, *, below: Path | None = None) -> str | None:
    """Return the sha256 of a file; None where there is none.

    Raises:
        DataError: it is a link or no regular file.
        StoreError: it is there and cannot be read.
    """
    total = hashlib.sha256()
    try:
        with os.fdopen(open_plain(path, below=below), "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                total.update(block)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
    return total.hexdigest()
