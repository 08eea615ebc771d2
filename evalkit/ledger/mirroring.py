"""A ledger's copy in the history, and what the history knows that the ledger does not.

In: a ledger, the URL of a history. Out: rows of the history; an entry that recalls what is not in the ledger.
Must not depend on: what follows for a verdict.

Whoever holds the outputs can delete, cut or rewrite the ledger beside them. The copy stands elsewhere, and only grows.
Before a decision what it knows more is written into the ledger as one entry of its own, with all of its words: so the
decision, the copy of the ledger beside a certificate and everybody who computes it again see the same, without a
database.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import DataError
from evalkit.ledger.book import Entry, Ledger
from evalkit.records.canonical import build, digest, parse_object

if TYPE_CHECKING:
    from evalkit.history.ledgers import LedgerRow

RECALLED = -1
"""`Entry.sequence` of an entry that only the history still has."""


def parse_row(row: LedgerRow) -> dict[str, Any]:
    """Return an entry of the history as data.

    Raises:
        DataError: the row is not the entry that its digest names.
    """
    where = f"history, entry {row.sequence} of ledger {row.ledger[:12]}"
    try:
        entry = parse_object(row.line, where)
        build(Entry, entry)
    except DataError as error:
        raise DataError(f"{where}: {error}; next step: restore the history") from error
    whole = {name: value for name, value in entry.items() if name != "sha256"}
    if entry["sha256"] != row.sha256 or digest(whole) != row.sha256:
        raise DataError(f"{where}: it has another digest than its content; next step: restore the history")
    return entry


def recall(ledger: Ledger, about: Collection[str]) -> None:
    """Write into a ledger what its history knows and it does not; nothing without a history, or where it is whole.

    Args:
        ledger: what a decision is to see.
        about: weights that are decided on (see `weights_of`): entries of other ledgers are recalled if they concern
            them.

    Raises:
        StoreError: the history cannot be asked; a decision could not say what came before it.
        DataError: the ledger or the history is damaged.
    """
    if ledger.mirror is None:
        return
    rows = ledger.mirror.rows()  # first: what is copied was in the file before
    entries = ledger.opened()
    found = [
        one
        for one in missing(entries, rows, about, ledger.mirror.place)
        if one["entries"] or not _told(entries, one["ledger"])
    ]
    if found:
        ledger.append("recalled", {"ledgers": found})


def _told(entries: Sequence[Entry], ledger: str) -> bool:
    return any(
        one["ledger"] == ledger for entry in entries if entry.kind == "recalled" for one in entry.data["ledgers"]
    )


def missing(
    entries: Sequence[Entry], rows: Sequence[LedgerRow], about: Collection[str], place: str | None
) -> list[dict[str, Any]]:
    """Return what a history knows more than a ledger, one row for each ledger.

    Each has its `ledger`, `place`, how many entries the history has of it (`known`), the `entries` themselves, and a
    `state`: "cut" (later entries of this very ledger are gone), "forked" (others stand in their places), "replaced"
    (another ledger lay at this place) or "elsewhere" (it lies at another place; only what concerns the weights counts).
    """
    there = {entry.sha256 for entry in entries} | {entry.sha256 for entry in recalled(entries)}
    ledgers: dict[str, list[LedgerRow]] = {}
    for row in rows:
        ledgers.setdefault(row.ledger, []).append(row)
    found = []
    for name, all_of_it in ledgers.items():
        own = bool(entries) and name == entries[0].sha256
        new = [parse_row(row) for row in all_of_it if row.sha256 not in there]
        new = new if own else [entry for entry in new if concerns(entry, about)]
        here = place is not None and place in {row.place for row in all_of_it}
        if own and new:
            forked = any(entry["sequence"] < len(entries) for entry in new)
            state = "forked" if forked else "cut"
        elif not own and (here or new):
            state = "replaced" if here else "elsewhere"
        else:
            continue
        found.append(
            {
                "ledger": name,
                "place": all_of_it[-1].place,
                "state": state,
                "known": len(all_of_it),
                "entries": sorted(new, key=lambda entry: (int(entry["sequence"]), str(entry["sha256"]))),
            }
        )
    return found


def concerns(entry: Mapping[str, Any], about: Collection[str]) -> bool:
    """Say whether an entry, as data, is about any of these weights."""
    data = entry["data"]
    verdicts = data.get("verdicts") or {}
    return (
        data.get("weights") in about
        or data.get("baseline") in about
        or any(one["weights"] in about for one in verdicts.values())
    )


def recalled(entries: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the entries that a ledger recalls from the history; their `sequence` is `RECALLED`, earlier than all."""
    for entry in entries:
        if entry.kind == "recalled":
            for one in entry.data["ledgers"]:
                yield from (Entry(**{**row, "sequence": RECALLED}) for row in one["entries"])


def with_recalled(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Return the entries of a ledger after those that it recalls."""
    return (*recalled(entries), *entries)
