"""One candidate in one night: its engine loaded once, every endpoint watched, the result written down.

In: a `RecipeNight`, the baseline's run, the night's orders. Out: a result document.
May not know: other recipes, databases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.certify import RunSet, Workshop, decide_runs, suite_runs, write_certificate
from evalkit.certify.running import engine_at_work
from evalkit.comparison import settings_for, to_plain
from evalkit.comparison.answers import all_identical
from evalkit.comparison.differences import find_differences
from evalkit.errors import DataError
from evalkit.nightly.asking import items_of, share_items
from evalkit.nightly.conclude import Full, conclude
from evalkit.nightly.marks import designated, marks_of
from evalkit.nightly.night import RecipeNight
from evalkit.nightly.outcome import NightOutcome, NightReason
from evalkit.nightly.plan import rules_for
from evalkit.nightly.result import RESULT, Found, finished_result
from evalkit.nightly.speed import speed_of
from evalkit.nightly.triage import triage
from evalkit.nightly.watching import Bench, Seen, complete, see
from evalkit.records import Item, Manifest
from evalkit.report import as_markdown, document_sections
from evalkit.store import Run, RunFolder, read_manifest, read_records
from evalkit.verdict import Decision, Outcome


def watch_recipe(
    one: RecipeNight, baseline: Run, orders: Mapping[str, Sequence[str]], workshop: Workshop
) -> dict[str, Any]:
    """Watch one candidate.

    Args:
        one: who, when, by which policy.
        baseline: its stored run.
        orders: task name to the night's order of items.
        workshop: what runs share.

    Raises:
        EngineError: the engine could not be loaded or broke; finished records are kept.
        DataError: a file is damaged, or a mark cannot be watched.
        IdentityMismatchError: the night's folder belongs to another engine.
    """
    night = one.night
    bound = one.policy.sha256
    with engine_at_work(one.spec, night.tasks, one.path, workshop, policy_sha256=bound) as (folder, engine, loaded):
        benchmarks = {benchmark.task: benchmark for benchmark in loaded}
        faults = comparable(one, baseline.manifest, folder.manifest)
        questions: dict[str, Mapping[str, Item]] = {task: items_of(benchmarks[task]) for task in night.tasks}
        found: dict[str, Seen] = {}
        full = False
        if not faults:
            _prepare(one, baseline, folder)
            _refuse_unwatchable(one, baseline.manifest)
            bench = Bench(
                folder=folder,
                engine=engine,
                benchmarks=benchmarks,
                orders=orders,
                baseline={
                    name: marks_of(baseline.records[endpoint.task], endpoint.metric)
                    for name, endpoint in night.endpoints.items()
                },
                policy=night.policy,
                block=night.settings.block,
                say=lambda line: workshop.say(f"{one.spec.name}: {line}"),
                progress=workshop.progress,
            )
            found = {
                name: see(bench, name, endpoint, rules_for(night.policy, len(orders[endpoint.task])))
                for name, endpoint in night.endpoints.items()
            }
            full = night.settings.full and any(seen.wants_full for seen in found.values())
            if full:
                workshop.say(f"{one.spec.name}: the full comparison follows")
                complete(bench)
    fulls = compare_in_full(one) if full else {}
    return _result(one, baseline, orders, faults, found, fulls, questions)


def comparable(one: RecipeNight, baseline: Manifest, candidate: Manifest) -> tuple[NightReason, ...]:
    """Return why the loaded engine may not be compared with the stored baseline, before it is asked anything."""
    if baseline.engine.sha256 == candidate.engine.sha256:
        message = (
            f"{one.spec.name}: candidate and baseline are one and the same engine ({candidate.engine.sha256}); next "
            "step: give the candidate its own recipe"
        )
        return (NightReason(code="same-model", message=message),)
    reasons = []
    for name, endpoint in one.night.endpoints.items():
        tolerated = settings_for(one.policy, name).tolerated
        reasons += [
            NightReason(
                code="not-comparable",
                message=(
                    f"{name}: {found.text}; next step: run the baseline anew (move its folder away), or tolerate "
                    f"'{found.name}' in the policy's overrides"
                ),
                endpoint=name,
            )
            for found in find_differences(baseline, candidate, endpoint.task, tolerated)
            if found.blocking and not found.tolerated
        ]
    return tuple(reasons)


def _refuse_unwatchable(one: RecipeNight, baseline: Manifest) -> None:
    for name, endpoint in one.night.endpoints.items():
        if baseline.tasks[endpoint.task].direction(endpoint.metric) is not True:
            raise DataError(
                f"{name}: a night counts items that were right and are wrong, and nobody says that more of "
                f"'{endpoint.metric}' is better; next step: leave the endpoint to full runs"
            )


def _prepare(one: RecipeNight, baseline: Run, folder: RunFolder) -> None:
    """Share the baseline's items, and forget the failures of a night that was INVALID: they are asked again."""
    for task in one.night.tasks:
        share_items(baseline.path, one.path, task)
        if (one.path / RESULT).exists():
            folder.drop_failed(task)


def compare_in_full(one: RecipeNight) -> dict[str, Full]:
    """Decide on the complete run as `certify` would, write its certificate and report; endpoint name to state."""
    stored = suite_runs(one.night.suite)
    runs = RunSet(
        baseline=stored.baseline, rerun=stored.rerun, candidates={one.spec.name: one.path}, controls=stored.controls
    )
    title = f"Night {one.night.settings.night}: {one.spec.name} on all items (certifies nothing)"
    certificate = decide_runs(one.policy, runs, title=title)
    report = as_markdown(document_sections(certificate.document))
    write_certificate(one.path, {"certificate.json": certificate.to_json(), "report.md": report})
    assert certificate.decision is not None
    return {name: _full(one, name, certificate.decision, certificate.document) for name in one.night.endpoints}


def _full(one: RecipeNight, name: str, decision: Decision, document: Mapping[str, Any]) -> Full:
    (verdict,) = decision.verdicts
    result = next((found for found in verdict.endpoints if found.name == name), None)
    if verdict.outcome is Outcome.INVALID or result is None:
        reasons = tuple(reason.message for reason in verdict.reasons if reason.endpoint in (name, None))
        return Full(state="INVALID", reasons=reasons or ("the endpoint has no result",))
    proportion = document["comparisons"][one.spec.name][name]["proportion"]
    return Full(
        state=result.state.value,
        n=proportion["effects"]["n"],
        **proportion["observed"],
        difference=proportion["effects"]["difference"],
        interval=proportion["effects"]["interval"],
    )


def _result(
    one: RecipeNight,
    baseline: Run,
    orders: Mapping[str, Sequence[str]],
    faults: tuple[NightReason, ...],
    found: Mapping[str, Seen],
    fulls: Mapping[str, Full],
    questions: Mapping[str, Mapping[str, Item]],
) -> dict[str, Any]:
    """Conclude on every endpoint and put everything into one document."""
    endpoints: dict[str, Found] = {}
    for name, seen in found.items():
        endpoint = one.night.endpoints[name]
        left = designated(baseline.records[endpoint.task])
        right = designated(read_records(one.path, endpoint.task))
        reasons = tuple(seen.faults)
        outcome = NightOutcome.INVALID
        keys = sorted(set(left) & set(right))
        if not reasons and all_identical([left[key] for key in keys], [right[key] for key in keys]):
            message = (
                f"{name}: all {len(keys):,} replies are the baseline's: quantization was not applied, or a cache was "
                "shared; next step: check the candidate's engine"
            )
            reasons = (NightReason(code="same-model", message=message, endpoint=name),)
        if not reasons and seen.watch is not None:
            margin = one.night.policy.nightly.margin_points
            outcome, reasons = conclude(name, margin, seen.watch, seen.confirm, fulls.get(name))
        endpoints[name] = Found(
            outcome=outcome,
            reasons=reasons,
            population=len(orders[endpoint.task]),
            asked=len(right),
            probe=to_plain(seen.probe),
            watch=to_plain(seen.watch),
            confirm=to_plain(seen.confirm),
            full=to_plain(fulls.get(name)),
            triage=to_plain(triage(left, right, endpoint.metric, questions[endpoint.task])),
        )
    return finished_result(
        one,
        faults=faults,
        endpoints=endpoints,
        manifest=read_manifest(one.path),
        baseline=baseline,
        orders=orders,
        speed=speed_of(one.path, one.night.tasks),
    )
