"""Read the history back, in order of time.

In: filters. Out: rows as frozen values.
May not know: what a reader makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, and_, select

from evalkit.history.database import History
from evalkit.history.tables import COMPARISONS, IDENTITIES, NIGHTS, RUNS, VERDICTS


@dataclass(frozen=True, kw_only=True)
class CompareRow:
    """One comparison with the run it is of.

    Attributes:
        suite, site, name, night, at: as `RunEntry`.
        identity: document of the candidate's engine.
        environment: of the run.
        endpoint, scope, task, metric, unit, n, counts, baseline_value, candidate_value, difference, lower, upper,
            level, method, invalid_share, log_probability_change: as `ComparisonEntry`.
        rate: items a second of the run; None where unknown.
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
        rate: items a second; None where unknown.
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
        last: only the newest so many nights of each suite, site, recipe and endpoint.

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
