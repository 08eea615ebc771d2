"""History: what runs, comparisons, verdicts and nights have shown over time, in a database.

In: plain entries. Out: the same, by recipe and in order of time.
Must not depend on: how an outcome was reached, or how a trend is shown.

SQLite in one file, or PostgreSQL by URL for several machines. Every entry has a natural key, so what is written twice
is kept once: a night that was killed and repeated counts once. Entries of ledgers are copied here too, where whoever
holds a ledger's file cannot take them back.
"""

from __future__ import annotations

from evalkit.history.database import History, open_history
from evalkit.history.entries import ComparisonEntry, IdentityEntry, NightEntry, RunEntry, VerdictEntry, Written
from evalkit.history.ledgers import LedgerRow, read_ledgers, write_ledger
from evalkit.history.reading import (
    CompareRow,
    NightRow,
    known_nights,
    read_comparisons,
    read_nights,
    write_certificate_run,
    write_night,
)

__all__ = [
    "CompareRow",
    "ComparisonEntry",
    "History",
    "IdentityEntry",
    "LedgerRow",
    "NightEntry",
    "NightRow",
    "RunEntry",
    "VerdictEntry",
    "Written",
    "known_nights",
    "open_history",
    "read_comparisons",
    "read_ledgers",
    "read_nights",
    "write_certificate_run",
    "write_ledger",
    "write_night",
]
