"""The result of one candidate's night, as one JSON document.

In: what was found. Out: `result.json`, written last and whole, and read back.
May not know: how anything was found, databases.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from evalkit.comparison import to_plain
from evalkit.errors import DataError
from evalkit.nightly.night import RecipeNight
from evalkit.nightly.order import order_sha256
from evalkit.nightly.outcome import NightOutcome, NightReason, worst
from evalkit.nightly.speed import Speed
from evalkit.records import Manifest, digest, parse_object
from evalkit.store import Run, read_records
from evalkit.store.lines import write_atomic

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
    text = json.dumps(result, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / RESULT, [text + "\n"])


def read_result(folder: Path) -> dict[str, Any]:
    """Read a result.

    Raises:
        DataError: it is damaged, or of another version.
    """
    file = folder / RESULT
    result = parse_object(file.read_text(encoding="utf-8"), str(file))
    if result.get("result_version") != RESULT_VERSION:
        raise DataError(
            f"{file}: result_version is {result.get('result_version')!r}, not {RESULT_VERSION}; next step: read it "
            "with the evalkit that wrote it"
        )
    return result
