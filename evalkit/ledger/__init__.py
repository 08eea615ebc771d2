"""What was tried before: an append-only, hash-chained record beside the outputs.

In: facts of runs, imports, nights, judgings, trials of judges, certificates and seals, as they happen. Out: the same in
their order, and what a certificate must say of what came before it.
Must not depend on: how anything is run or decided.
"""

from evalkit.ledger.book import COPY, LEDGER, SIDECAR, Entry, Ledger, Mirror, citations, cite, parse_entries, place_of
from evalkit.ledger.mirroring import recall

__all__ = [
    "COPY",
    "LEDGER",
    "SIDECAR",
    "Entry",
    "Ledger",
    "Mirror",
    "citations",
    "cite",
    "parse_entries",
    "place_of",
    "recall",
]
