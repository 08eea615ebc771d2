"""The stored run of the baseline: reused if it is what the suite asks for, refused by name otherwise.

In: a suite, its policy. Out: the baseline's run, or why it may not be used.
May not know: candidates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evalkit.certify import RunSet, Workshop, run_engine, suite_runs
from evalkit.certify.reading import read_checked
from evalkit.comparison import Comparison, compare_endpoints
from evalkit.errors import IdentityMismatchError
from evalkit.nightly.outcome import NightReason
from evalkit.policy import ResolvedPolicy
from evalkit.records import Manifest, canonical_json
from evalkit.store import Run, read_manifest
from evalkit.store.layout import task_file
from evalkit.store.lines import count_lines
from evalkit.suite import EngineSpec, Suite
from evalkit.verdict.assay import assess
from evalkit.verdict.validity import data_reasons

_ASKED = ("engine", "model", "recipe_sha256", "option_files", "order_seed")
"""Parts of a request that must be the suite's own; versions are compared with those of the candidate's engine."""


def bring_baseline(suite: Suite, policy: ResolvedPolicy, tasks: Sequence[str], workshop: Workshop) -> None:
    """Bring the stored run of the baseline, and of its rerun if the suite has one, to completion.

    A complete one is only looked at; no engine is loaded.

    Raises:
        IdentityMismatchError: a stored run is of another engine or of other definitions than the suite's; named.
        EvalkitError: the baseline had to be run, and its engine failed.
    """
    _bring(suite, suite.baseline, tasks, workshop, None)
    if suite.rerun_engine is not None:
        _bring(suite, suite.rerun_engine, tasks, workshop, policy.policy.seeds.order)


def _bring(suite: Suite, spec: EngineSpec, tasks: Sequence[str], workshop: Workshop, order_seed: int | None) -> None:
    path = suite.outputs / spec.name
    if (path / "manifest.json").exists():
        manifest = read_manifest(path)
        faults = [
            *_request_faults(manifest, workshop.request(spec, order_seed)),
            *_task_faults(manifest, tasks, workshop),
        ]
        if faults:
            raise IdentityMismatchError(
                "\n  - ".join((f"{path}: the stored baseline is not the one the suite asks for:", *faults))
                + "\nnext step: name the old baseline in the suite, or move the folder away and the next night runs it"
            )
        if all(
            task in manifest.tasks and count_lines(task_file(path, "records", task)) >= manifest.tasks[task].planned
            for task in tasks
        ):
            workshop.say(f"{spec.name}: stored replies reused from {path}")
            return
    run_engine(spec, tasks, path, workshop, order_seed=order_seed)


def _request_faults(manifest: Manifest, asked: Mapping[str, Any]) -> Iterator[str]:
    found = dict(manifest.requested)
    for name in _ASKED:
        left, right = dict(_leaves(name, found.get(name))), dict(_leaves(name, _plain(asked.get(name))))
        for place in sorted(set(left) | set(right)):
            if left.get(place) != right.get(place):
                yield f"{place}: the folder has {left.get(place)!r}, the suite {right.get(place)!r}"


def _plain(value: Any) -> Any:
    """Return the value as JSON gives it back, so that a tuple equals the list it became on disk."""
    return json.loads(canonical_json(value))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    else:
        yield name, value


def _task_faults(manifest: Manifest, tasks: Sequence[str], workshop: Workshop) -> Iterator[str]:
    for task in tasks:
        wanted = workshop.definitions.task(task).sha256
        if task in manifest.tasks and manifest.tasks[task].definition_sha256 != wanted:
            yield (
                f"tasks.{task}.definition_sha256: the folder has {manifest.tasks[task].definition_sha256}, the "
                f"definitions {wanted}"
            )


def check_baseline(
    policy: ResolvedPolicy, endpoints: Sequence[str], suite: Suite, baseline: Run
) -> tuple[NightReason, ...]:
    """Return why no night may rest on the stored baseline: its data, and the checks that the policy requires.

    The checks are those of a release (A/A, controls, above chance, anchor), as far as the policy asks for them; runs
    of controls are used where they lie, and never made here.
    """
    alone = compare_endpoints(policy, baseline, baseline)
    reasons = [
        NightReason(code="baseline", message=found.message, endpoint=name)
        for name in endpoints
        for found in data_reasons(policy, name, alone[name])
    ]
    if reasons:
        return tuple(reasons)
    stored: RunSet = suite_runs(suite)
    compared: dict[str, dict[str, Comparison]] = {
        name: compare_endpoints(policy, baseline, read_checked(path)) for name, path in stored.controls.items()
    }
    again = compare_endpoints(policy, baseline, read_checked(stored.rerun)) if stored.rerun is not None else None
    report = assess(policy, list(endpoints), rerun=again, controls=compared, samples=[alone])
    failed = {check.message for check in report.checks if check.check == "aa" and check.passed is False}
    return tuple(
        NightReason(code="assay", message=found.message, endpoint=found.endpoint) for found in report.reasons
    ) + tuple(
        NightReason(code="assay", message=f"aa: {message}")
        for message in sorted(failed)
        if not any(message in found.message for found in report.reasons)
    )
