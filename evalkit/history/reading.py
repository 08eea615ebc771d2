"""Read the history back, in order of time.

In: filters. Out: rows as frozen values.
Must not depend on: what a reader makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, and_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from evalkit.errors import DataError
from evalkit.history.database import COMPARISONS, IDENTITIES, NIGHTS, RUNS, VERDICTS, History
from evalkit.history.entries import ComparisonEntry, IdentityEntry, NightEntry, RunEntry, VerdictEntry, Written

# Write entries, each whole or not at all, and each once.
#
# Several machines may write at once: a row is inserted unless its natural key is there, and what came first stays. The
# one exception is a night that was INVALID: when it is repeated with success, the new result takes its place.


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
        if found is None and insert_once(connection, NIGHTS, {**key, **_night_values(connection, entry)}, _NIGHT_KEY):
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
        insert_once(connection, IDENTITIES, row, ("sha256",))


def _run(connection: Connection, entry: RunEntry) -> tuple[int, bool]:
    new = insert_once(connection, RUNS, {"key_sha256": entry.key_sha256, **_run_values(entry)}, ("key_sha256",))
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
    return insert_once(connection, COMPARISONS, {"run_id": run, **row}, ("run_id", "endpoint", "scope"))


def _verdict(connection: Connection, run: int, entry: VerdictEntry) -> bool:
    row = {**asdict(entry), "reasons": [dict(reason) for reason in entry.reasons]}
    return insert_once(connection, VERDICTS, {"run_id": run, **row}, ("run_id", "policy_sha256"))


def insert_once(connection: Connection, table: Table, row: Mapping[str, Any], key: Sequence[str]) -> bool:
    """Insert a row unless its natural key is there; return whether it was new."""
    if connection.dialect.name == "postgresql":
        # Its driver gives no count of rows for such an insert, so the row says itself that it came in.
        wanted = postgresql.insert(table).values(**row).on_conflict_do_nothing(index_elements=list(key))
        return connection.execute(wanted.returning(table.c[key[0]])).first() is not None
    statement = sqlite.insert(table).values(**row).on_conflict_do_nothing(index_elements=list(key))
    return connection.execute(statement).rowcount == 1


@dataclass(frozen=True, kw_only=True)
class CompareRow:
    """One comparison with the run it is of.

    Attributes:
        suite, site, name, night, at: as `RunEntry`.
        identity: document of the candidate's engine.
        environment: of the run.
        endpoint, scope, task, metric, unit, n, counts, baseline_value, candidate_value, difference, lower, upper,
            level, method, invalid_share, log_probability_change: as `ComparisonEntry`.
        rate: items per second of the run; None where unknown.
        outcome: of the newest verdict on the run; None without one.
    """

    suite: str
    site: str
    name: str
    night: str | None
    at: str | None
    identity: Mapping[str, Any]
    environment: Mapping[str, str]
    endpoint: str
    scope: str
    task: str
    metric: str
    unit: str
    n: int
    counts: tuple[int, int, int, int] | None
    baseline_value: float | None
    candidate_value: float | None
    difference: float | None
    lower: float | None
    upper: float | None
    level: float | None
    method: str | None
    invalid_share: float | None
    log_probability_change: float | None
    rate: float | None
    outcome: str | None

    @property
    def flips(self) -> float | None:
        """Share of items that only one side has right; None for ratings."""
        return (self.counts[1] + self.counts[2]) / self.n if self.counts and self.n else None


@dataclass(frozen=True, kw_only=True)
class NightRow:
    """One endpoint of one recipe in one night.

    Attributes:
        suite, site, night, recipe, endpoint, outcome, state, confirm, full, reasons, asked, used, log_e, log_e_loss,
            order_sha256, started_at, environment, subjects: as `NightEntry`.
        identity: document of the engine; None where none could be loaded.
        watched, whole: comparison of the watched items, and of all items; None where there is none.
        rate: items per second; None where unknown.
    """

    suite: str
    site: str
    night: str
    recipe: str
    endpoint: str
    outcome: str
    state: str | None
    confirm: str | None
    full: str | None
    reasons: Sequence[Mapping[str, Any]]
    asked: int
    used: int
    log_e: float | None
    log_e_loss: float | None
    order_sha256: str | None
    started_at: str
    environment: Mapping[str, str]
    subjects: Sequence[Mapping[str, Any]]
    identity: Mapping[str, Any] | None
    watched: CompareRow | None
    whole: CompareRow | None
    rate: float | None

    @property
    def best(self) -> CompareRow | None:
        """The comparison on all items where there was one, else that of the watched items."""
        return self.whole if self.whole is not None else self.watched


def read_nights(
    history: History,
    *,
    suite: str | None = None,
    site: str | None = None,
    recipe: str | None = None,
    last: int | None = None,
) -> list[NightRow]:
    """Return nights in order of time.

    Args:
        history: where from.
        suite: of this suite only.
        site: of this site only.
        recipe: of this recipe only.
        last: only the N most recent nights of each suite, site, recipe and endpoint.

    Raises:
        StoreError: the database failed.
    """
    wanted = {"suite": suite, "site": site, "recipe": recipe}
    conditions = [NIGHTS.c[name] == value for name, value in wanted.items() if value is not None]
    query = (
        select(NIGHTS, RUNS.c["items"], RUNS.c.seconds, IDENTITIES.c.document)
        .select_from(NIGHTS.outerjoin(RUNS).outerjoin(IDENTITIES, IDENTITIES.c.sha256 == RUNS.c.identity_sha256))
        .where(and_(True, *conditions))
        .order_by(NIGHTS.c.started_at, NIGHTS.c.night, NIGHTS.c.id)
    )
    with history.transaction() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if last is not None:
            rows = _newest(rows, last)
        of_suite = [RUNS.c[name] == wanted[name] for name in ("suite", "site") if wanted[name] is not None]
        found = connection.execute(_comparisons().where(and_(True, *of_suite))).mappings().all()
        compared = _compared(found, {row["run_id"] for row in rows})
    return [_night(row, compared) for row in rows]


def known_nights(history: History, *, suite: str, site: str) -> dict[tuple[str, str, str], str]:
    """Return what the history has of a suite and site: (night, recipe, endpoint) to the digest of what was found.

    Raises:
        StoreError: the database failed.
    """
    columns = [NIGHTS.c[name] for name in ("night", "recipe", "endpoint", "content_sha256")]
    query = select(*columns).where(NIGHTS.c.suite == suite, NIGHTS.c.site == site)
    with history.transaction() as connection:
        return {(row[0], row[1], row[2]): row[3] for row in connection.execute(query)}


def read_comparisons(
    history: History, *, suite: str | None = None, site: str | None = None, name: str | None = None
) -> list[CompareRow]:
    """Return the comparisons of certificates (full ones, outside of nights too), in order of time.

    Raises:
        StoreError: the database failed.
    """
    wanted = {"suite": suite, "site": site, "name": name}
    conditions = [RUNS.c[column] == value for column, value in wanted.items() if value is not None]
    query = _comparisons().where(and_(COMPARISONS.c.scope == "full", *conditions)).order_by(RUNS.c.at, RUNS.c.id)
    with history.transaction() as connection:
        return [_compare_row(dict(row)) for row in connection.execute(query).mappings()]


def _comparisons() -> Select[Any]:
    return select(
        COMPARISONS,
        *(RUNS.c[name] for name in ("suite", "site", "name", "night", "at", "environment", "items", "seconds")),
        IDENTITIES.c.document,
        select(VERDICTS.c.outcome)
        .where(VERDICTS.c.run_id == RUNS.c.id)
        .order_by(VERDICTS.c.id.desc())
        .limit(1)
        .scalar_subquery()
        .label("outcome"),
    ).select_from(
        COMPARISONS.join(RUNS).join(IDENTITIES, IDENTITIES.c.sha256 == RUNS.c.identity_sha256),
    )


def _newest(rows: list[dict[str, Any]], last: int) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    seen: dict[tuple[str, ...], int] = {}
    for row in reversed(rows):
        series = tuple(str(row[name]) for name in ("suite", "site", "recipe", "endpoint"))
        seen[series] = seen.get(series, 0) + 1
        if seen[series] <= last:
            kept.append(row)
    kept.reverse()
    return kept


def _compared(rows: Sequence[Any], runs: set[int | None]) -> dict[tuple[int, str, str], CompareRow]:
    return {
        (row["run_id"], row["endpoint"], row["scope"]): _compare_row(dict(row)) for row in rows if row["run_id"] in runs
    }


def _compare_row(row: dict[str, Any]) -> CompareRow:
    counts = tuple(row[name] for name in ("n11", "n10", "n01", "n00"))
    own = ("suite", "site", "name", "night", "at", "environment", "endpoint", "scope", "task", "metric", "unit", "n")
    more = ("baseline_value", "candidate_value", "difference", "lower", "upper", "level", "method")
    return CompareRow(
        **{name: row[name] for name in (*own, *more, "invalid_share", "log_probability_change", "outcome")},
        identity=row["document"],
        counts=counts if None not in counts else None,
        rate=_rate(row["items"], row["seconds"]),
    )


def _night(row: dict[str, Any], compared: Mapping[tuple[int, str, str], CompareRow]) -> NightRow:
    names = ("suite", "site", "night", "recipe", "endpoint", "outcome", "state", "confirm", "full", "reasons", "asked")
    more = ("used", "log_e", "log_e_loss", "order_sha256", "started_at", "environment", "subjects")
    return NightRow(
        **{name: row[name] for name in (*names, *more)},
        identity=row["document"],
        watched=compared.get((row["run_id"], row["endpoint"], "watch")),
        whole=compared.get((row["run_id"], row["endpoint"], "full")),
        rate=_rate(row["items"], row["seconds"]),
    )


def _rate(items: int | None, seconds: float | None) -> float | None:
    return items / seconds if items and seconds else None
