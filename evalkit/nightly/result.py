"""The result of one candidate's night, as one JSON document.

In: what was found. Out: `result.json`, written last and whole, and read back.
Must not depend on: how anything was found, databases.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from evalkit.comparison import to_plain
from evalkit.errors import DataError, EvalkitError
from evalkit.history import (
    ComparisonEntry,
    History,
    IdentityEntry,
    NightEntry,
    NightRow,
    RunEntry,
    VerdictEntry,
    Written,
    known_nights,
    write_night,
)
from evalkit.history.entries import verdict_entry
from evalkit.nightly.night import Known, RecipeNight
from evalkit.nightly.watch import NightOutcome, NightReason, order_sha256, worst
from evalkit.records.canonical import build, digest, is_version
from evalkit.records.manifest import EngineIdentity, Manifest
from evalkit.store import Run, read_records
from evalkit.store.door import read_document
from evalkit.store.lines import sealed_text, write_atomic
from evalkit.store.reading import read_timings

# How fast a run was asked.


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Items asked and the seconds they took, loading not included."""

    items: int
    seconds: float

    @property
    def rate(self) -> float | None:
        """Items per second; None where no time was taken."""
        return self.items / self.seconds if self.items and self.seconds > 0.0 else None


def speed_of(path: Path, tasks: Collection[str], say: Callable[[str], None] = lambda _: None) -> Speed:
    """Add up the clock readings of some tasks of a run; a folder without any has taken no time.

    A damaged sidecar decides nothing, so it costs no night: what is wrong with it is said, and no time is known.
    """
    items, seconds = 0, 0.0
    try:
        for timing in read_timings(path):
            if timing.task in tasks:
                items += timing.items
                seconds += timing.seconds
    except EvalkitError as error:
        say(f"WARNING: no speed is known: {error}")
        return Speed(items=0, seconds=0.0)
    return Speed(items=items, seconds=seconds)


RESULT = "result.json"
RESULT_VERSION = 1

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found of one endpoint; the parts are plain data, None where a part was not reached.

    Attributes:
        outcome, reasons: what may be said.
        population: items of the task.
        asked: items with a record.
        probe, watch, confirm, full, triage: as `asking.Probe`, `watch.Watch`, `conclude.Full`, `triage.Triage`.
    """

    outcome: NightOutcome
    reasons: tuple[NightReason, ...]
    population: int
    asked: int
    probe: Any
    watch: Any
    confirm: Any
    full: Any
    triage: Any


def finished_result(
    one: RecipeNight,
    *,
    faults: Sequence[NightReason],
    endpoints: Mapping[str, Found],
    manifest: Manifest,
    baseline: Run,
    orders: Mapping[str, Sequence[str]],
    speed: Speed,
) -> dict[str, Any]:
    """Return the document of a night in which the engine was loaded; `faults` say why nothing was asked."""
    outcome = NightOutcome.INVALID if faults else worst(found.outcome for found in endpoints.values())
    reasons = [*faults, *(reason for found in endpoints.values() for reason in found.reasons)]
    tasks = one.night.tasks
    return {
        **_head(one, outcome, reasons),
        "identity_sha256": manifest.engine.sha256,
        "engine": asdict(manifest.engine),
        "baseline": {
            "name": one.night.suite.baseline.name,
            "identity_sha256": baseline.manifest.engine.sha256,
            "engine": asdict(baseline.manifest.engine),
            "records_sha256": {task: baseline.records_sha256(task) for task in tasks},
        },
        "orders": {task: {"items": len(orders[task]), "sha256": order_sha256(orders[task])} for task in tasks},
        "records_sha256": {
            task: digest([record.to_json() for record in read_records(one.path, task)]) for task in tasks
        },
        "endpoints": {name: _endpoint(one, name, found) for name, found in endpoints.items()},
        "speed": {"items": speed.items, "seconds": speed.seconds, "items_per_s": speed.rate},
    }


def failed_result(one: RecipeNight, reasons: Sequence[NightReason]) -> dict[str, Any]:
    """Return the document of a night in which nothing could be watched: INVALID."""
    return {
        **_head(one, NightOutcome.INVALID, reasons),
        "identity_sha256": None,
        "engine": None,
        "baseline": None,
        "orders": {},
        "records_sha256": {},
        "endpoints": {},
        "speed": {"items": 0, "seconds": 0.0, "items_per_s": None},
    }


def _head(one: RecipeNight, outcome: NightOutcome, reasons: Sequence[NightReason]) -> dict[str, Any]:
    settings = one.night.settings
    return {
        "result_version": RESULT_VERSION,
        "suite": one.night.suite.name,
        "site": settings.site,
        "night": settings.night,
        "recipe": one.spec.name,
        "outcome": outcome.value,
        "reasons": [to_plain(reason) for reason in reasons],
        "policy": {"name": one.policy.name, "sha256": one.policy.sha256},
        "watched": {
            name: {"task": endpoint.task, "metric": endpoint.metric, "protocol": endpoint.protocol}
            for name, endpoint in one.night.endpoints.items()
        },
        "seed": one.night.policy.seeds.nightly,
        "margin_points": one.night.policy.nightly.margin_points,
        "started_at": one.started_at,
        "finished_at": datetime.now(timezone.utc).isoformat(timespec="microseconds"),
        "environment": dict(settings.environment),
    }


def _endpoint(one: RecipeNight, name: str, found: Found) -> dict[str, Any]:
    endpoint = one.night.endpoints[name]
    return {
        "task": endpoint.task,
        "metric": endpoint.metric,
        "outcome": found.outcome.value,
        "reasons": [to_plain(reason) for reason in found.reasons],
        "population": found.population,
        "asked": found.asked,
        "probe": found.probe,
        "watch": found.watch,
        "confirm": found.confirm,
        "full": found.full,
        "triage": found.triage,
    }


def write_result(folder: Path, result: Result) -> None:
    """Write a result, whole or not at all.

    Raises:
        StoreError: the disk failed.
    """
    write_atomic(folder / RESULT, [sealed_text(result)])


_AGAIN = "restore the file, or move the night's folder away and repeat the same command"


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What a result holds, value by value; see `finished_result`."""

    result_version: int
    suite: str
    site: str
    night: str
    recipe: str
    outcome: Literal["OK", "ALARM", "UNDECIDED", "INVALID"]
    reasons: Sequence[Mapping[str, Any]]
    policy: Mapping[str, str]
    watched: Mapping[str, Mapping[str, str]]
    seed: int
    margin_points: float
    started_at: str
    finished_at: str
    environment: Mapping[str, Any]
    identity_sha256: str | None
    engine: EngineIdentity | None
    baseline: Mapping[str, Any] | None
    orders: Mapping[str, Mapping[str, Any]]
    records_sha256: Mapping[str, str]
    endpoints: Mapping[str, Mapping[str, Any]]
    speed: Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True)
class _EndpointShape:
    task: str
    metric: str
    outcome: Literal["OK", "ALARM", "UNDECIDED", "INVALID"]
    reasons: Sequence[Mapping[str, Any]]
    population: int
    asked: int
    probe: Mapping[str, Any] | None
    watch: Mapping[str, Any] | None
    confirm: Mapping[str, Any] | None
    full: Mapping[str, Any] | None
    triage: Mapping[str, Any] | None


def read_result(folder: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        DataError: it is damaged, or of another version; names the key and its value.
        FileNotFoundError: there is none.
        StoreError: it cannot be read.
    """
    file = folder / RESULT
    result = read_document(file, again=_AGAIN)
    if not is_version(result.get("result_version"), RESULT_VERSION):
        raise DataError(
            f"{file}: result_version is {result.get('result_version')!r}, not {RESULT_VERSION}; next step: read it "
            "with the evalkit that wrote it"
        )
    try:
        engine = result.get("engine")
        build(_Shape, {**result, "engine": None if engine is None else build(EngineIdentity, engine)})
        for found in result["endpoints"].values():
            build(_EndpointShape, found)
    except DataError as error:
        raise DataError(f"{file}: {error}; next step: {_AGAIN}") from error
    return result


# Nights into the history, and what the history knows before a night.
#
# Every night also brings what earlier ones could not write (the database was down, the process was killed): results lie
# in the nights' folders, and what is there already is left alone.


def keep_nights(history: History, nights: Path, suite: str, site: str) -> Iterator[str]:
    """Write every result under a folder of nights that the history does not have yet; yield one line for each.

    A night that is there with another result is named and left as it is.

    Raises:
        StoreError: the database failed; the next night brings what is missing.
    """
    known = known_nights(history, suite=suite, site=site)
    for file in sorted(nights.glob(f"*/*/{RESULT}")):
        try:
            result = read_result(file.parent)
            if (result["suite"], result["site"]) != (suite, site):
                continue
            for entry in night_entries(result, _certificate(file.parent)):
                if known.get((entry.night, entry.recipe, entry.endpoint)) == entry.content_sha256:
                    continue
                written = write_night(history, entry)
                if written is not Written.KNOWN:
                    what = "the INVALID result was replaced" if written is Written.REPLACED else "kept"
                    yield f"night {entry.night}, {entry.recipe}, {entry.endpoint}: {entry.outcome}, {what}"
        except DataError as error:
            yield f"{file}: {error}"


def _certificate(folder: Path) -> dict[str, Any] | None:
    file = folder / "certificate.json"
    return read_document(file, again=_AGAIN) if file.exists() else None


def night_entries(result: Result, certificate: Mapping[str, Any] | None = None) -> list[NightEntry]:
    """Return one entry for each watched endpoint of a result.

    Args:
        result: what `result.json` holds.
        certificate: of the full comparison, where there was one.
    """
    return [_entry(result, name, certificate) for name in result["watched"]]


def _entry(result: Result, name: str, certificate: Mapping[str, Any] | None) -> NightEntry:
    found = result["endpoints"].get(name)
    task = result["watched"][name]["task"]
    watch, full = (found or {}).get("watch"), (found or {}).get("full")
    triage = (found or {}).get("triage") or {}
    return NightEntry(
        **{key: result[key] for key in ("suite", "site", "night", "recipe", "seed", "started_at", "finished_at")},
        endpoint=name,
        run=_run(result),
        outcome=found["outcome"] if found and not _general(result) else result["outcome"],
        state=watch["state"] if watch else None,
        confirm=found["confirm"]["state"] if found and found["confirm"] else None,
        full=full["state"] if full else None,
        reasons=[reason for reason in result["reasons"] if reason["endpoint"] in (name, None)],
        asked=found["asked"] if found else 0,
        used=watch["used"] if watch else 0,
        log_e=watch["log_e"] if watch else None,
        log_e_loss=watch["log_e_loss"] if watch else None,
        order_sha256=result["orders"].get(task, {}).get("sha256"),
        comparisons=list(_comparisons(result, name, watch, full, triage)),
        verdict=_verdict(certificate, result["recipe"]) if full else None,
        environment=result["environment"],
        subjects=triage.get("subjects", []),
    )


def _general(result: Result) -> bool:
    """Say whether a reason concerns the whole night, so that no endpoint stands."""
    return any(reason["endpoint"] is None for reason in result["reasons"])


def _run(result: Result) -> RunEntry | None:
    if result["engine"] is None:
        return None
    return RunEntry(
        **{key: result[key] for key in ("suite", "site", "night", "records_sha256", "environment")},
        name=result["recipe"],
        identity=IdentityEntry(sha256=result["identity_sha256"], document=result["engine"]),
        evalkit=result["environment"].get("evalkit", ""),
        policy_sha256=result["policy"]["sha256"],
        items=result["speed"]["items"] or None,
        seconds=result["speed"]["seconds"] or None,
        at=result["started_at"],
    )


def _comparisons(
    result: Result,
    name: str,
    watch: Mapping[str, Any] | None,
    full: Mapping[str, Any] | None,
    triage: Mapping[str, Any],
) -> Iterator[ComparisonEntry]:
    """Yield what was compared: of the watched items, and of all items where the full comparison is sound."""
    watched, made = result["watched"][name], result["baseline"]
    baseline = IdentityEntry(sha256=made["identity_sha256"], document=made["engine"]) if made else None
    for scope, found in (("watch", watch), ("full", full)):
        if not found:
            continue
        counts = [found[cell] for cell in ("n11", "n10", "n01", "n00")]
        n = sum(counts)
        if not n:
            continue
        interval = found["interval"] or {}
        yield ComparisonEntry(
            endpoint=name,
            task=watched["task"],
            metric=watched["metric"],
            scope=scope,
            unit="proportion",
            baseline=baseline,
            n=n,
            counts=counts,
            baseline_value=(counts[0] + counts[1]) / n,
            candidate_value=(counts[0] + counts[2]) / n,
            difference=(counts[2] - counts[1]) / n,
            lower=interval.get("lower"),
            upper=interval.get("upper"),
            level=interval.get("level"),
            method=interval.get("method"),
            invalid_share=triage.get("unreadable"),
            log_probability_change=triage.get("mean_change"),
        )


def _verdict(certificate: Mapping[str, Any] | None, recipe: str) -> VerdictEntry | None:
    verdicts = (certificate or {}).get("decision", {}).get("verdicts", ())
    found = next((verdict for verdict in verdicts if verdict["recipe"] == recipe), None)
    return verdict_entry(certificate, found) if certificate is not None and found is not None else None


def known_before(nights: Sequence[NightRow], usual: float) -> dict[tuple[str, str], Known]:
    """Return what earlier nights say for the plan: (recipe, endpoint) to flips and speed.

    Flips come from the newest full comparison, never from a night that stopped early: it stops early because few items
    flipped. Without one the policy's assumption stands.
    """
    found: dict[tuple[str, str], Known] = {}
    for row in nights:
        key = (row.recipe, row.endpoint)
        before = found.get(key, Known(discordance=usual, source="the policy's assumption"))
        flips, source = before.discordance, before.source
        if row.whole is not None and row.whole.flips:
            flips, source = row.whole.flips, f"seen in the full comparison of night {row.night}"
        found[key] = Known(discordance=flips, source=source, rate=row.rate or before.rate)
    return found


def unfinished(nights: Path, current: Path, site: str) -> list[str]:
    """Return the labels of a site's other nights that were begun and have no result: they were stopped."""
    labels = []
    for file in sorted(nights.glob("*/night.json")):
        if file.parent == current:
            continue
        try:
            begun = read_document(file, again=_AGAIN)
        except (EvalkitError, OSError):
            continue
        missing = any(not (file.parent / recipe / RESULT).exists() for recipe in begun.get("policies", {}))
        if missing and begun.get("site") == site:
            labels.append(str(begun.get("night")))
    return labels
