"""The whole check of a signed certificate.

In: the folder of a certificate, the public keys one trusts. Out: `Check`: every finding, and what was checked.
May not know: how a finding is shown. Nothing here needs an engine, the network, or the machine that made the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import __version__
from evalkit.attestation.covering import CERTIFICATE, covered_files, digests, files_of_run, run_folder_names
from evalkit.attestation.envelope import parse_envelope, trusted_signer
from evalkit.attestation.findings import Finding
from evalkit.attestation.recomputing import recomputed
from evalkit.attestation.rewriting import rewritten
from evalkit.attestation.statement import Statement, parse_statement, predicate
from evalkit.errors import DataError, StoreError
from evalkit.records import parse_object
from evalkit.store.layout import MANIFEST

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

ENVELOPE = "certificate.dsse.json"
"""The signature, beside the certificate."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """What a check found.

    Attributes:
        findings: everything that is wrong; empty if the certificate holds.
        notes: what a reader must also know.
        signer: name of the trusted key that signed; None without a signature.
        files: how many files were compared with the signed statement.
        document: the certificate, if it can be read.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    signer: str | None
    files: int
    document: Mapping[str, Any] | None

    @property
    def sound(self) -> bool:
        """Nothing is wrong."""
        return not self.findings


def check_folder(folder: Path, keys: Sequence[Ed25519PublicKey] | None) -> Check:
    """Check a certificate: signature, digests of every file, every statistic, the verdict, the reports.

    Args:
        folder: where the certificate, its reports, its signature and its run folders lie.
        keys: public keys that one trusts; None checks everything but the signature.

    Raises:
        StoreError: a file cannot be read.
    """
    findings: list[Finding] = []
    notes: list[str] = []
    signer, statement = None, None
    if keys is None:
        notes.append("no signature was checked: anyone may have made these files")
    else:
        signer, statement, found = _signed(folder, keys)
        findings += found
    document, found = _certificate(folder)
    findings += found
    files = 0
    if statement is not None:
        findings += _files(folder, statement)
        files = len(statement.files)
    if document is not None:
        try:
            findings += _against(folder, document, statement)
            runs = list(_absent_runs(folder, document))
            findings += runs or recomputed(document, folder)
            if not runs:
                again, more = rewritten(document, folder)
                findings += again
                notes += more
        except (AttributeError, DataError, KeyError, TypeError) as error:
            findings.append(
                Finding(code="certificate-format", where=CERTIFICATE, message=f"no whole certificate: {error}")
            )
        if document.get("evalkit") != __version__:
            notes.append(f"decided by evalkit {document.get('evalkit')}, checked by evalkit {__version__}")
    return Check(findings=tuple(findings), notes=tuple(notes), signer=signer, files=files, document=document)


def _signed(folder: Path, keys: Sequence[Ed25519PublicKey]) -> tuple[str | None, Statement | None, list[Finding]]:
    """Return the signer, and the statement only if a trusted key signed it."""
    path = folder / ENVELOPE
    text = _text(path)
    if text is None:
        message = "next step: evalkit sign, or --unsigned to check the numbers alone"
        return None, None, [Finding(code="envelope-missing", where=ENVELOPE, message=message)]
    try:
        envelope = parse_envelope(text, ENVELOPE)
    except DataError as error:
        return None, None, [Finding(code="envelope-format", where=ENVELOPE, message=str(error))]
    signer, findings = trusted_signer(envelope, keys, ENVELOPE)
    if signer is None:
        return None, None, findings
    try:
        return signer, parse_statement(envelope.payload, ENVELOPE), []
    except DataError as error:
        return signer, None, [Finding(code="statement-format", where=ENVELOPE, message=str(error))]


def _certificate(folder: Path) -> tuple[Mapping[str, Any] | None, list[Finding]]:
    try:
        text = _text(folder / CERTIFICATE)
        if text is None:
            raise DataError("there is no certificate here")
        document = parse_object(text, CERTIFICATE)
        if document.get("certificate_version") != 1:
            raise DataError(f"certificate_version is {document.get('certificate_version')!r}, not 1")
        run_folder_names(document)
    except (AttributeError, KeyError, TypeError) as error:
        return None, [Finding(code="certificate-format", where=CERTIFICATE, message=f"no whole certificate: {error!r}")]
    except DataError as error:
        return None, [Finding(code="certificate-format", where=CERTIFICATE, message=str(error))]
    return document, []


def _files(folder: Path, statement: Statement) -> Iterator[Finding]:
    """Compare every signed file with its digest."""
    for name, found in digests(folder, sorted(statement.files)):
        expected = statement.files[name]
        if found is None:
            yield Finding(code="file-missing", where=name, message=f"signed with sha256 {expected}, and not there")
        elif found != expected:
            yield Finding(code="file-changed", where=name, message=f"sha256 is {found}, {expected} was signed")


def _against(folder: Path, document: Mapping[str, Any], statement: Statement | None) -> Iterator[Finding]:
    """Compare the statement with the certificate, and the files with what the statement covers."""
    if statement is None:
        return
    expected = predicate(document)
    for key in sorted({*expected, *statement.predicate}):
        if statement.predicate.get(key) != expected.get(key):
            message = f"signed: {statement.predicate.get(key)!r}; the certificate: {expected.get(key)!r}"
            yield Finding(code="statement-differs", where=f"predicate.{key}", message=message[:400])
    for name in covered_files(document, folder):
        if name not in statement.files:
            run = name.split("/", 1)[0]
            signed_run = any(other.startswith(f"{run}/") for other in statement.files)
            code = "file-added" if "/" in name and signed_run else "not-covered"
            yield Finding(code=code, where=name, message="it is not in the signed statement")
    for name, run in run_folder_names(document).items():
        if f"{run}/{MANIFEST}" not in statement.files and not files_of_run(folder, run):
            yield Finding(code="not-covered", where=run, message=f"the run '{name}' is not in the signed statement")


def _absent_runs(folder: Path, document: Mapping[str, Any]) -> Iterator[Finding]:
    for name, run in run_folder_names(document).items():
        if not (folder / run / MANIFEST).exists():
            message = f"the certificate cites it as '{name}'; without it nothing can be computed again"
            yield Finding(code="run-missing", where=run, message=message)


def _text(path: Path) -> str | None:
    """Return a file's text; None where there is no file.

    Raises:
        DataError: not UTF-8.
        StoreError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror or error}") from error
