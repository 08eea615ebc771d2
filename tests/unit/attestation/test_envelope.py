"""DSSE envelopes and Ed25519 keys."""

from __future__ import annotations

import base64
import json

import pytest

pytest.importorskip("cryptography")

from evalkit.attestation.envelope import (
    PAYLOAD_TYPE,
    Envelope,
    key_id,
    make_keys,
    parse_envelope,
    public_pem,
    read_private,
    read_public,
    sign,
    signed_bytes,
    trusted_signers,
)
from evalkit.errors import DataError, UsageError


@pytest.fixture(scope="module")
def keys():
    return [read_private(make_keys()[0], "made") for _ in range(2)]


def test_what_is_signed_names_type_and_lengths() -> None:
    """The example of the DSSE protocol page, with in-toto's type: SP is one space, lengths count bytes."""
    text = "hellö".encode()
    assert signed_bytes(text) == b"DSSEv1 28 application/vnd.in-toto+json 6 " + text


def test_a_signature_is_found_by_its_key_and_by_no_other(keys) -> None:
    envelope = parse_envelope(sign(b"{}", keys[0]).to_json(), "x")
    assert envelope.payload == b"{}"
    assert trusted_signers(envelope, [keys[0].public_key()], "x") == ((key_id(keys[0].public_key()),), [])
    signers, (finding,) = trusted_signers(envelope, [keys[1].public_key()], "x")
    assert signers == ()
    assert finding.code == "stranger-key"
    assert key_id(keys[0].public_key())[:16] in finding.message


def test_the_same_statement_and_key_give_the_same_bytes(keys) -> None:
    assert sign(b"{}", keys[0]).to_json() == sign(b"{}", keys[0]).to_json()


def test_two_people_sign_and_each_is_enough(keys) -> None:
    both = sign(b"{}", keys[1], sign(b"{}", keys[0]).signatures)
    assert len(both.signatures) == 2
    for key in keys:
        assert trusted_signers(both, [key.public_key()], "x")[0] == (key_id(key.public_key()),)
    everyone = [key.public_key() for key in (*keys, keys[0])]
    assert trusted_signers(both, everyone, "x")[0] == tuple(key_id(key.public_key()) for key in keys)
    doubled = Envelope(payload=both.payload, signatures=(*both.signatures, *both.signatures))
    assert len(trusted_signers(doubled, everyone, "x")[0]) == 2, "a key counts once, however often it signed"
    one_broken = Envelope(payload=both.payload, signatures=(both.signatures[0], (both.signatures[1][0], b"0" * 64)))
    assert trusted_signers(one_broken, everyone, "x")[0] == (key_id(keys[0].public_key()),)
    assert len(sign(b"{}", keys[1], both.signatures).signatures) == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("signatures"),
        lambda row: row.update(more=1),
        lambda row: row.update(payloadType="application/json"),
        lambda row: row.update(payload="no base64!"),
        lambda row: row.update(payload=5),
        lambda row: row.update(signatures=[{"keyid": "x"}]),
        lambda row: row.update(signatures=["x"]),
        lambda row: row.update(signatures={}),
    ],
)
def test_a_broken_envelope_is_refused(keys, change) -> None:
    row = json.loads(sign(b"{}", keys[0]).to_json())
    change(row)
    with pytest.raises(DataError):
        parse_envelope(json.dumps(row), "x")


def test_the_format_is_the_one_other_tools_read(keys) -> None:
    row = json.loads(sign(b"{}", keys[0]).to_json())
    assert row["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    assert base64.b64decode(row["payload"]) == b"{}"
    (signature,) = row["signatures"]
    keys[0].public_key().verify(base64.b64decode(signature["sig"]), signed_bytes(b"{}"))


def test_a_key_with_a_password_needs_it_and_is_never_quoted() -> None:
    secret, public = make_keys("correct horse")
    assert "ENCRYPTED" in secret
    key = read_private(secret, "k", "correct horse")
    assert public_pem(key.public_key()) == public
    for wrong in (None, "wrong horse"):
        with pytest.raises(UsageError) as caught:
            read_private(secret, "k", wrong)
        assert secret.splitlines()[1] not in str(caught.value)
        assert "horse" not in str(caught.value)


def test_keys_of_another_kind_and_swapped_keys_are_refused() -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret, _ = make_keys()
    with pytest.raises(UsageError, match="another kind"):
        read_private(pem, "k")
    with pytest.raises(UsageError, match="another kind"):
        read_public(public.decode(), "k")
    with pytest.raises(UsageError, match="private key"):
        read_public(secret, "k")
    with pytest.raises(UsageError, match="no private key"):
        read_private("nonsense", "k")
