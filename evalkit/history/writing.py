"""Write entries, each whole or not at all, and each once.

In: entries. Out: rows, and whether they were new.
May not know: files, or how an entry came about.

Several machines may write at once: a row is inserted unless its natural key is there, and what came first stays. The
one exception is a night that was INVALID: when it is repeated with success, the new result takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Table, and_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from evalkit.errors import DataError
from evalkit.history.database import History
from evalkit.history.entries import ComparisonEntry, IdentityEntry, NightEntry, RunEntry, VerdictEntry, Written
from evalkit.history.tables import COMPARISONS, IDENTITIES, NIGHTS, RUNS, VERDICTS

INVALID = "INVALID"

_NIGHT_KEY = ("suite", "site", "night", "recipe", "endpoint")


def write_night(history: History, entry: NightEntry) -> Written:
    """Write one endpoint of one recipe in one night.

    Raises:
        DataError: this night is in the history with another result; what is there stays.
        StoreError: the database failed; nothing was written.
    """
    with history.transaction() as connection:
        key = {name: getattr(entry, name) for name in _NIGHT_KEY}
        there = and_(*(NIGHTS.c[name] == value for name, value in key.items()))
        found = connection.execute(select(NIGHTS).where(there).with_for_update()).mappings().first()
        if found is None and _insert(connection, NIGHTS, {**key, **_night_values(connection, entry)}, _NIGHT_KEY):
            return Written.NEW
        if found is None:  # another machine wrote it since we looked
            found = connection.execute(select(NIGHTS).where(there).with_for_update()).mappings().one()
        if found["content_sha256"] == entry.content_sha256:
            return Written.KNOWN
        if found["outcome"] != INVALID:
            raise DataError(
                f"history {history.name}: night {entry.night} of {entry.suite}, {entry.recipe}, {entry.endpoint} (site "
                f"{entry.site}) is there with another result ({found['outcome']}, now {entry.outcome}); what is there "
                "stays; next step: another --night, or --site for another machine"
            )
        values = _night_values(connection, entry, replace=True)
        connection.execute(update(NIGHTS).where(there).values(**values))
        return Written.REPLACED


def write_certificate_run(
    history: History, run: RunEntry, comparisons: Sequence[ComparisonEntry], verdict: VerdictEntry | None
) -> Written:
    """Write one run of a certificate with its comparisons and its verdict.

    Raises:
        StoreError: the database failed; nothing was written.
    """
    with history.transaction() as connection:
        _identities(connection, [run.identity, *(one.baseline for one in comparisons)])
        number, new = _run(connection, run)
        wrote = [_comparison(connection, number, one) for one in comparisons]
        if verdict is not None:
            wrote.append(_verdict(connection, number, verdict))
        return Written.NEW if new or any(wrote) else Written.KNOWN


def _night_values(connection: Connection, entry: NightEntry, *, replace: bool = False) -> dict[str, Any]:
    """Write what a night's row points at, and return the row's other columns."""
    number = None
    if entry.run is not None:
        _identities(connection, [entry.run.identity, *(one.baseline for one in entry.comparisons)])
        number, new = _run(connection, entry.run)
        if replace and not new:
            _replace_run(connection, number, entry)
        for one in entry.comparisons:
            _comparison(connection, number, one)
        if entry.verdict is not None:
            _verdict(connection, number, entry.verdict)
    names = ("outcome", "state", "confirm", "full", "asked", "used", "log_e", "log_e_loss", "seed", "order_sha256")
    return {
        "run_id": number,
        **{name: getattr(entry, name) for name in (*names, "started_at", "finished_at", "content_sha256")},
        "reasons": [dict(reason) for reason in entry.reasons],
        "environment": dict(entry.environment),
        "subjects": [dict(row) for row in entry.subjects],
    }


def _replace_run(connection: Connection, number: int, entry: NightEntry) -> None:
    """Let a repeated night's run take the place of the INVALID one: what lies there is of other records."""
    if entry.run is not None:
        connection.execute(update(RUNS).where(RUNS.c.id == number).values(**_run_values(entry.run)))
    old = and_(COMPARISONS.c.run_id == number, COMPARISONS.c.endpoint == entry.endpoint)
    connection.execute(COMPARISONS.delete().where(old))
    connection.execute(VERDICTS.delete().where(VERDICTS.c.run_id == number))


def _identities(connection: Connection, entries: Sequence[IdentityEntry | None]) -> None:
    """Insert engines in one order for all writers, so that no two of them wait for each other."""
    names = ("adapter", "model", "recipe", "recipe_sha256", "fidelity", "device")
    for sha256, entry in sorted({entry.sha256: entry for entry in entries if entry is not None}.items()):
        document = dict(entry.document)
        row = {"sha256": sha256, "document": document, **{name: document.get(name) for name in names}}
        _insert(connection, IDENTITIES, row, ("sha256",))


def _run(connection: Connection, entry: RunEntry) -> tuple[int, bool]:
    new = _insert(connection, RUNS, {"key_sha256": entry.key_sha256, **_run_values(entry)}, ("key_sha256",))
    found = connection.execute(select(RUNS.c.id).where(RUNS.c.key_sha256 == entry.key_sha256)).scalar_one()
    return int(found), new


def _run_values(entry: RunEntry) -> dict[str, Any]:
    names = ("suite", "site", "name", "night", "evalkit", "policy_sha256", "items", "seconds", "at")
    return {
        **{name: getattr(entry, name) for name in names},
        "identity_sha256": entry.identity.sha256,
        "records_sha256": dict(entry.records_sha256),
        "environment": dict(entry.environment),
    }


def _comparison(connection: Connection, run: int, entry: ComparisonEntry) -> bool:
    row = asdict(entry)
    counts, baseline = row.pop("counts"), entry.baseline
    row.pop("baseline")
    row["baseline_sha256"] = baseline.sha256 if baseline is not None else None
    row |= dict(zip(("n11", "n10", "n01", "n00"), counts or (None,) * 4, strict=True))
    return _insert(connection, COMPARISONS, {"run_id": run, **row}, ("run_id", "endpoint", "scope"))


def _verdict(connection: Connection, run: int, entry: VerdictEntry) -> bool:
    row = {**asdict(entry), "reasons": [dict(reason) for reason in entry.reasons]}
    return _insert(connection, VERDICTS, {"run_id": run, **row}, ("run_id", "policy_sha256"))


def _insert(connection: Connection, table: Table, row: Mapping[str, Any], key: Sequence[str]) -> bool:
    """Insert a row unless its natural key is there; return whether it was new."""
    if connection.dialect.name == "postgresql":
        # Its driver gives no count of rows for such an insert, so the row says itself that it came in.
        wanted = postgresql.insert(table).values(**row).on_conflict_do_nothing(index_elements=list(key))
        return connection.execute(wanted.returning(table.c[key[0]])).first() is not None
    statement = sqlite.insert(table).values(**row).on_conflict_do_nothing(index_elements=list(key))
    return connection.execute(statement).rowcount == 1
