"""`evalkit sign keygen`: a key pair to sign certificates with.

In: a file name. Out: a private and a public key.
Must not depend on: how keys work.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from evalkit.cli.options import any_path, out, verb
from evalkit.errors import StoreError, UsageError

PASSWORD_VARIABLE = "EVALKIT_SIGNING_KEY_PASSWORD"  # noqa: S105 (the name of a variable)


@verb(example="evalkit sign keygen release-manager.pem")
@click.argument("private", type=any_path)
def command(private: Path) -> None:
    """Make an Ed25519 key pair: PRIVATE, readable by you alone, and PRIVATE with the ending .pub.pem for everybody.

    If $EVALKIT_SIGNING_KEY_PASSWORD is set, the private key is encrypted with it. A file that exists is never replaced.
    """
    from evalkit.attestation.envelope import key_id, make_keys, read_public

    public = private.with_suffix(".pub.pem")
    for path in (private, public):
        if path.exists():
            raise UsageError(f"{path}: exists; next step: choose another name, keys are never replaced")
    secret, shown = make_keys(os.environ.get(PASSWORD_VARIABLE) or None)
    _write(private, secret, 0o600)
    _write(public, shown, 0o644)
    out(f"private key: {private} (keep it; whoever has it can sign in your name)")
    out(f"public key:  {public} (give it to everyone who checks)")
    out(f"key id:      {key_id(read_public(shown, str(public)))}")


def _write(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error
