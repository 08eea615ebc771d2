"""DSSE: a payload and who signed it.

In: bytes, keys. Out: the envelope's JSON text, or the payload of one.
May not know: what the payload says.

Dead Simple Signing Envelope 1.0: the signature is over the type and the payload with their lengths, so neither can be
read as the other. The payload is parsed only after a trusted key's signature over exactly these bytes was found good.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.attestation.findings import Finding
from evalkit.attestation.keys import key_id
from evalkit.errors import DataError
from evalkit.records import parse_object

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A payload with signatures.

    Attributes:
        payload: the signed bytes.
        signatures: (key id, signature) pairs.
    """

    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    def to_json(self) -> str:
        """Return the envelope's text."""
        row = {
            "payloadType": PAYLOAD_TYPE,
            "payload": base64.b64encode(self.payload).decode("ascii"),
            "signatures": [
                {"keyid": name, "sig": base64.b64encode(signature).decode("ascii")}
                for name, signature in self.signatures
            ],
        }
        return json.dumps(row, indent=1) + "\n"


def signed_bytes(payload: bytes) -> bytes:
    r"""Return what is signed: DSSE's pre-authentication encoding.

    >>> signed_bytes(b"hello")
    b'DSSEv1 28 application/vnd.in-toto+json 5 hello'
    """
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: Ed25519PrivateKey, others: Sequence[tuple[str, bytes]] = ()) -> Envelope:
    """Sign a payload; signatures of other keys over the same payload stay."""
    name = key_id(key.public_key())
    kept = tuple(pair for pair in others if pair[0] != name)
    return Envelope(payload=payload, signatures=(*kept, (name, key.sign(signed_bytes(payload)))))


def parse_envelope(text: str, where: str) -> Envelope:
    """Read an envelope strictly; nothing is believed yet.

    Raises:
        DataError: no DSSE envelope of an in-toto statement.
    """
    row = parse_object(text, where)
    if set(row) != {"payloadType", "payload", "signatures"} or not isinstance(row["signatures"], list):
        raise DataError(f"{where}: no DSSE envelope: it must hold payloadType, payload and signatures, nothing else")
    if row["payloadType"] != PAYLOAD_TYPE:
        raise DataError(f"{where}: payloadType is {row['payloadType']!r}, not {PAYLOAD_TYPE!r}")
    signatures = []
    for one in row["signatures"]:
        if not isinstance(one, dict) or not {"sig"} <= set(one) <= {"sig", "keyid"}:
            raise DataError(f"{where}: a signature must hold keyid and sig")
        signatures.append((str(one.get("keyid", "")), _decoded(one["sig"], where)))
    return Envelope(payload=_decoded(row["payload"], where), signatures=tuple(signatures))


def trusted_signers(
    envelope: Envelope, keys: Sequence[Ed25519PublicKey], where: str
) -> tuple[tuple[str, ...], list[Finding]]:
    """Find the trusted keys that signed exactly this payload.

    A key counts once, however often it was named or signed.

    Returns:
        Their names, in the order of the signatures, and nothing; or none, and what is wrong.
    """
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 (an extra)

    known = {key_id(key): key for key in keys}
    good, broken = [], []
    for name, signature in envelope.signatures:
        if name not in known or name in good:
            continue
        try:
            known[name].verify(signature, signed_bytes(envelope.payload))
        except InvalidSignature:
            broken.append(name)
        else:
            good.append(name)
    if good:
        return tuple(good), []
    if broken:
        message = f"the signature of your key {_short(broken[0])} does not fit the statement: one of them was changed"
        return (), [Finding(code="signature-invalid", where=where, message=message)]
    signers = ", ".join(_short(name) for name, _ in envelope.signatures) or "nobody"
    trusted = ", ".join(_short(name) for name in known)
    message = f"signed by {signers}; you trust {trusted}"
    return (), [Finding(code="stranger-key", where=where, message=message)]


def _short(name: str) -> str:
    return f"key {name[:16]}" if name else "a key without a name"


def _decoded(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        raise DataError(f"{where}: payload and signatures must be base64 text")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError(f"{where}: not base64: {error}") from error
