"""The ledger that a certificate cites: its copy beside the certificate, and the ledger itself where it is at hand.

In: a certificate as data, its folder. Out: findings and notes.
May not know: signatures; what follows for a verdict.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.attestation.envelope import parse_envelope, trusted_signers
from evalkit.attestation.findings import Finding
from evalkit.attestation.statement import STATEMENT_TYPE
from evalkit.errors import DataError
from evalkit.ledger import COPY, LEDGER, Entry, Ledger, parse_entries, place_of
from evalkit.records import canonical_json
from evalkit.store.door import exists, read_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Data = Mapping[str, Any]


def cited_ledger(document: Data, folder: Path) -> tuple[Entry, ...] | None:
    """Return the ledger as the decision saw it; None where the certificate cites none.

    Raises:
        DataError: it is no chain of entries.
    """
    if "entries" not in (document.get("ledger") or {}):
        return None
    try:
        return parse_entries(read_text(folder / COPY, below=folder), COPY)
    except FileNotFoundError:
        return ()


_NOT_HERE = (
    "the ledger itself is not here, only its copy beside the certificate: whether it was continued, deleted or begun "
    "anew cannot be seen"
)
_ANOTHER = (
    "the ledger above this folder is another one than the certificate cites: it was deleted and begun anew, or the "
    "certificate came from elsewhere"
)


def ledger_findings(document: Data, folder: Path) -> tuple[list[Finding], list[str]]:
    """Check the chain of the copy against what the certificate cites, and the ledger itself against the copy."""
    said = document.get("ledger") or {}
    if "entries" not in said:
        return [], ["the certificate cites no ledger: earlier runs and certificates cannot be excluded"]
    if not exists(folder / COPY):
        return [Finding(code="ledger-missing", where=COPY, message=f"{said['entries']} entries are cited")], []
    where = COPY
    try:
        copy = cited_ledger(document, folder) or ()
        wrong = _against(copy, said, COPY)
        place = place_of(folder, named=None, default=folder.absolute().parent / LEDGER)
        if wrong or not place.exists():
            return wrong, [] if wrong else [_NOT_HERE]
        where = place.name
        live = Ledger(place).entries()
    except DataError as error:
        return [Finding(code="ledger-edited", where=where, message=str(error))], []
    if copy and live and live[0].sha256 != copy[0].sha256:
        return [], [_ANOTHER]
    return _against(live, said, where), []


SEAL_TYPE = "urn:evalkit:policy-seal:1"
"""`predicateType` of a signed seal."""


def seal_payload(data: Data) -> bytes:
    """Return the in-toto statement that is signed of a seal: the policy, for whom, and after which ledger entry."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": f"policy/{data['name']}", "digest": {"sha256": data["policy_sha256"]}}],
        "predicateType": SEAL_TYPE,
        "predicate": {"policy": data["policy"], "release": data["release"], "after": data["after"]},
    }
    return canonical_json(statement).encode()


def seal_findings(
    document: Data, folder: Path, keys: Sequence[Ed25519PublicKey] | None
) -> tuple[list[Finding], list[str]]:
    """Check the signatures of the seals that a certificate cites; one by a key that one trusts is told."""
    copy = cited_ledger(document, folder) or ()
    findings: list[Finding] = []
    notes: list[str] = []
    for cited in (document.get("ledger") or {}).get("seals") or ():
        seal = copy[cited["sequence"]]
        where = f"{COPY}, entry {seal.sequence}"
        if seal.data["envelope"] is None:
            continue
        envelope = parse_envelope(json.dumps(seal.data["envelope"]), where)
        earlier = {entry.sha256 for entry in copy[: seal.sequence]}
        if envelope.payload != seal_payload(seal.data) or seal.data["after"] not in earlier:
            message = "what was signed is not what the entry says, or not where it stands"
            findings.append(Finding(code="seal-invalid", where=where, message=message))
            continue
        signers, wrong = trusted_signers(envelope, keys, where) if keys is not None else ((), [])
        broken = [one.message for one in wrong if one.code == "signature-invalid"]
        findings += [Finding(code="seal-invalid", where=where, message=message) for message in broken]
        if signers:
            told = ", ".join(name[:16] for name in signers)
            notes.append(f"entry {seal.sequence} of the ledger seals a policy, signed by key {told}")
        elif not broken:
            notes.append(f"entry {seal.sequence} of the ledger seals a policy; no key that you named signed it")
    return findings, notes


def _against(entries: Sequence[Entry], said: Data, where: str) -> list[Finding]:
    """Compare a ledger with the number of entries and the head that a certificate cites."""
    n = int(said["entries"])
    if len(entries) < n or (where == COPY and len(entries) != n):
        message = f"it holds {len(entries)} entries, the certificate was decided after {n}"
        return [Finding(code="ledger-truncated", where=where, message=message)]
    if n and entries[n - 1].content != said["head"]:
        message = f"entry {n - 1} is {entries[n - 1].content}, the certificate cites {said['head']}"
        return [Finding(code="ledger-forked", where=where, message=message)]
    return []
