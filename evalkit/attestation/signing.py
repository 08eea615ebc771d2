"""Signing a certificate: only what was checked is signed.

In: the folder of a certificate, a private key. Out: the text of a signed envelope.
May not know: where a key comes from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.attestation.checking import Check, check_folder
from evalkit.attestation.covering import ENVELOPE, covered_files, digests
from evalkit.attestation.envelope import Envelope, parse_envelope, sign
from evalkit.attestation.statement import statement_text
from evalkit.errors import DataError, StoreError
from evalkit.store.door import read_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["ENVELOPE", "dropped_keys", "sign_folder"]


def sign_folder(folder: Path, key: Ed25519PrivateKey) -> tuple[Envelope, Check]:
    """Check a certificate without a signature and sign what it rests on.

    Signatures that the folder already has over the same statement stay, so several people can sign.

    Raises:
        DataError: the certificate does not hold; the message names everything that is wrong.
        StoreError: a file cannot be read.
    """
    check = check_folder(folder, None, signing=True)
    if not check.sound or check.document is None:
        lines = [f"{found.code}: {found.where}: {found.message}" for found in check.findings]
        raise DataError("\n  - ".join((f"{folder}: not signed, because the certificate does not hold", *lines)))
    files = {}
    for name, found in digests(folder, covered_files(check.document, folder)):
        if found is None:
            raise StoreError(f"{folder / name}: vanished while it was signed; next step: sign again")
        files[name] = found
    payload = statement_text(check.document, files).encode()
    return sign(payload, key, _signatures(folder / ENVELOPE, payload)), check


def _signatures(path: Path, payload: bytes) -> tuple[tuple[str, bytes], ...]:
    """Return the signatures that are there already, if they are over the same statement."""
    envelope = _envelope(path)
    return envelope.signatures if envelope is not None and envelope.payload == payload else ()


def dropped_keys(path: Path, envelope: Envelope) -> tuple[str, ...]:
    """Return the keys whose signatures in a file an envelope will not hold: they are over another statement."""
    before = _envelope(path)
    kept = {name for name, _ in envelope.signatures}
    return tuple(name for name, _ in before.signatures if name not in kept) if before is not None else ()


def _envelope(path: Path) -> Envelope | None:
    """Read the envelope that is there.

    Raises:
        DataError: the file is no envelope, so it is somebody's, and is not written over.
    """
    try:
        return parse_envelope(read_text(path), path.name)
    except FileNotFoundError:
        return None
    except DataError as error:
        raise DataError(f"{path}: no signature of evalkit, left as it is ({error}); next step: move it away") from error
