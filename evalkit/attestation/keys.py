"""Ed25519 keys: made, read from PEM, and named by a digest.

In: PEM text. Out: keys of the `cryptography` package.
May not know: where a key is kept.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, cast

from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def make_keys(password: str | None = None) -> tuple[str, str]:
    """Return a new private and its public key as PEM text; a password encrypts the private one.

    Raises:
        MissingExtraError: `cryptography` is not installed.
    """
    serialization, ed25519 = _library()
    private = ed25519.Ed25519PrivateKey.generate()
    secret = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    return pem.decode("ascii"), public_pem(private.public_key())


def public_pem(key: Ed25519PublicKey) -> str:
    """Return a public key as PEM text."""
    serialization, _ = _library()
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode("ascii")


def read_private(text: str, where: str, password: str | None = None) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        UsageError: no private Ed25519 key, or another password; the text itself is never quoted.
        MissingExtraError: `cryptography` is not installed.
    """
    serialization, ed25519 = _library()
    try:
        key = serialization.load_pem_private_key(text.encode(), password.encode() if password else None)
    except (TypeError, ValueError) as error:
        why = "it is encrypted, or the password is not the key's" if "password" in str(error).lower() else "not PEM"
        raise UsageError(f"{where}: no private key that can be read: {why}") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise UsageError(f"{where}: a key of another kind; next step: make an Ed25519 key with evalkit keygen")
    return cast("Ed25519PrivateKey", key)


def read_public(text: str, where: str) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        UsageError: no public Ed25519 key.
        MissingExtraError: `cryptography` is not installed.
    """
    serialization, ed25519 = _library()
    if "PRIVATE KEY" in text:
        raise UsageError(f"{where}: a private key; name the signer's public key, and keep this one to yourself")
    try:
        key = serialization.load_pem_public_key(text.encode())
    except ValueError as error:
        raise UsageError(f"{where}: no public key in PEM: {error}") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise UsageError(f"{where}: a key of another kind than Ed25519")
    return cast("Ed25519PublicKey", key)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: sha256 (64 hex digits) of its DER form."""
    serialization, _ = _library()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 (an extra)
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("signing and checking signatures", "cryptography", "sign") from error
    return serialization, ed25519
