"""The ledger that a certificate cites: its copy beside the certificate, and the ledger itself where it is at hand.

In: a certificate as data, its folder. Out: findings and notes.
May not know: signatures; what follows for a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.attestation.findings import Finding
from evalkit.errors import DataError
from evalkit.ledger import COPY, LEDGER, Entry, Ledger, parse_entries, place_of
from evalkit.store.door import exists, read_text

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
