"""One night: every candidate of a suite watched, one after the other.

In: a `Night`. Out: one folder, and one result for each recipe.
May not know: how an engine works, how a database keeps what was found.

    outputs/<suite>/nights/<night>/night.json             what was drawn and planned, written before anything is asked
    outputs/<suite>/nights/<night>/<recipe>/              a run folder: manifest, records, timings
    outputs/<suite>/nights/<night>/<recipe>/result.json   written last; a night that was stopped goes on where it was
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.certify import Workshop
from evalkit.certify.reading import read_checked
from evalkit.errors import AssetError, DataError, EngineError, IdentityMismatchError
from evalkit.nightly.baseline import bring_baseline, check_baseline
from evalkit.nightly.marks import designated
from evalkit.nightly.night import Night, RecipeNight
from evalkit.nightly.order import night_order, order_sha256
from evalkit.nightly.outcome import NightOutcome, NightReason
from evalkit.nightly.recipe import watch_recipe
from evalkit.nightly.result import RESULT, failed_result, read_result, write_result
from evalkit.records import canonical_json, parse_object
from evalkit.store import Run
from evalkit.store.lines import write_atomic
from evalkit.suite import EngineSpec

NIGHT_VERSION = 1

_BROKEN = (EngineError, AssetError, DataError)
"""What makes a night INVALID; a wrong request or a broken disk is no night at all."""


def run_night(night: Night, workshop: Workshop, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Watch every candidate and return one result for each; finished ones are read, not repeated.

    A recipe whose result was INVALID is watched again, and what failed is asked again.

    Args:
        night: as `open_night` made it.
        workshop: what runs share.
        plan: what was said beforehand; kept in the night's folder.

    Raises:
        IdentityMismatchError: the stored baseline, or the night's own folder, belongs to something else.
        UsageError, StoreError: the request is wrong, or the disk failed.
        InterruptedRunError: stopped on request; the same command goes on.
    """
    results = []
    found = {spec.name: _finished(night, spec.name) for spec in night.suite.candidates}
    ready = _Ready(night, workshop, plan)
    for spec in night.suite.candidates:
        result = found[spec.name]
        if result is None:
            result = _watch(night, spec, workshop, ready)
            write_result(night.path / spec.name, result)
        results.append(result)
    return results


def finished_night(night: Night) -> list[dict[str, Any]] | None:
    """Return the results of a night in which every recipe is finished; None if there is something left to do.

    Raises:
        IdentityMismatchError: it was decided under another policy.
    """
    found = [_finished(night, spec.name) for spec in night.suite.candidates]
    return [result for result in found if result is not None] if None not in found else None


def _finished(night: Night, recipe: str) -> dict[str, Any] | None:
    """Return a recipe's result if it stands: it is there, and not INVALID."""
    if not (night.path / recipe / RESULT).exists():
        return None
    result = read_result(night.path / recipe)
    bound = night.bound(recipe).sha256
    if result["policy"]["sha256"] != bound:
        raise IdentityMismatchError(
            f"{night.path / recipe}: this night was decided under policy {result['policy']['sha256']}, the suite now "
            f"has {bound}; next step: another --night"
        )
    return None if result["outcome"] == NightOutcome.INVALID.value else result


class _Ready:
    """What all recipes of a night need, made once: the baseline, the orders, and why they may not be used."""

    def __init__(self, night: Night, workshop: Workshop, plan: Mapping[str, Any]) -> None:
        self.baseline: Run | None = None
        self.orders: dict[str, tuple[str, ...]] = {}
        self.reasons: tuple[NightReason, ...] = ()
        self.started_at = night.settings.started_at
        bound = night.bound(night.suite.candidates[0].name)
        try:
            bring_baseline(night.suite, bound, night.tasks, workshop)
            self.baseline = read_checked(night.suite.outputs / night.suite.baseline.name)
            self.orders = _orders(night, self.baseline)
            self.started_at = _begin(night, self.baseline, self.orders, plan)
            self.reasons = check_baseline(bound, list(night.endpoints), night.suite, self.baseline)
        except _BROKEN as error:
            workshop.say(f"baseline: {error}")
            self.reasons = (NightReason(code="baseline", message=f"baseline: {error}"),)


def _orders(night: Night, baseline: Run) -> dict[str, tuple[str, ...]]:
    seed = night.policy.seeds.nightly
    return {task: night_order(seed, night.settings.night, designated(baseline.records[task])) for task in night.tasks}


def _begin(night: Night, baseline: Run, orders: Mapping[str, Sequence[str]], plan: Mapping[str, Any]) -> str:
    """Write down what was drawn, before anything is asked; return when the night began.

    Raises:
        IdentityMismatchError: the night was begun with something else.
    """
    bound = {spec.name: night.bound(spec.name).sha256 for spec in night.suite.candidates}
    drawn = {
        "night_version": NIGHT_VERSION,
        "suite": night.suite.name,
        "night": night.settings.night,
        "site": night.settings.site,
        "seed": night.policy.seeds.nightly,
        "policies": bound,
        "orders": {task: {"items": len(order), "sha256": order_sha256(order)} for task, order in orders.items()},
        "baseline": {
            "identity_sha256": baseline.manifest.engine.sha256,
            "records_sha256": {task: baseline.records_sha256(task) for task in night.tasks},
        },
    }
    file = night.path / "night.json"
    if file.exists():
        begun = parse_object(file.read_text(encoding="utf-8"), str(file))
        for name, value in drawn.items():
            if json.loads(canonical_json(value)) != begun.get(name):
                raise IdentityMismatchError(
                    f"{file}: the night was begun with another '{name}' ({begun.get(name)}, now {value}); next step: "
                    "another --night"
                )
        return str(begun["started_at"])
    document = {**drawn, "started_at": night.settings.started_at, "plan": plan}
    write_atomic(file, [json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"])
    return night.settings.started_at


def _watch(night: Night, spec: EngineSpec, workshop: Workshop, ready: _Ready) -> dict[str, Any]:
    """Watch one recipe; whatever breaks on the way makes its night INVALID, never an alarm."""
    one = RecipeNight(night=night, spec=spec, policy=night.bound(spec.name), started_at=ready.started_at)
    if ready.reasons or ready.baseline is None:
        return failed_result(one, ready.reasons)
    _forget_empty(one)
    try:
        return watch_recipe(one, ready.baseline, ready.orders, workshop)
    except _BROKEN as error:
        workshop.say(f"{spec.name}: {error}")
        code = "data" if isinstance(error, DataError) else "engine"
        return failed_result(one, (NightReason(code=code, message=f"{spec.name}: {error}"),))


def _forget_empty(one: RecipeNight) -> None:
    """Remove the folder of an INVALID night in which nothing was asked: the engine may be another one by now."""
    files = (one.path / "records").glob("*.jsonl")
    if (one.path / RESULT).exists() and not any(file.stat().st_size for file in files):
        shutil.rmtree(one.path)
