"""Entries of ledgers, kept where the one who holds a ledger's file cannot take them back.

In: entries as lines. Out: the same, in the order in which they came here.
Must not depend on: what an entry says, files.

An entry is known by its own digest: what is written twice is kept once, nothing is ever changed or taken out, and a
ledger that was rewritten stands here beside what it was before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import select

from evalkit.history.database import LEDGER_ENTRIES, History
from evalkit.history.reading import insert_once


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One entry of a ledger.

    Attributes:
        sha256: the entry's own digest.
        ledger: digest of the first entry of its ledger.
        place: where that ledger lay when the entry was copied.
        sequence, kind: of the entry.
        line: the entry as its ledger has it.
    """

    sha256: str
    ledger: str
    place: str
    sequence: int
    kind: str
    line: str


def write_ledger(history: History, rows: Sequence[LedgerRow]) -> int:
    """Keep the entries that are not there yet; return how many those were.

    Raises:
        StoreError: the database failed; nothing was written.
    """
    if not rows:
        return 0
    with history.transaction() as connection:
        ledgers = {row.ledger for row in rows}
        there = select(LEDGER_ENTRIES.c.sha256).where(LEDGER_ENTRIES.c.ledger.in_(ledgers))
        known = set(connection.execute(there).scalars())
        new = [row for row in rows if row.sha256 not in known]
        return sum(insert_once(connection, LEDGER_ENTRIES, asdict(row), ("sha256",)) for row in new)


def read_ledgers(history: History) -> list[LedgerRow]:
    """Return every entry of every ledger, in the order in which they were copied."""
    names = ("sha256", "ledger", "place", "sequence", "kind", "line")
    query = select(*(LEDGER_ENTRIES.c[name] for name in names)).order_by(LEDGER_ENTRIES.c.id)
    with history.transaction() as connection:
        return [LedgerRow(**row) for row in connection.execute(query).mappings()]
