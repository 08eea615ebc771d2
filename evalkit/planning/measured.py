"""Planning values from two runs that exist.

In: a policy and two run folders, read. Out: for each endpoint the share of items that flip, or the spread of item
differences.
May not know: verdicts, or which numbers a plan makes of them.

A rerun of the same weights and recipe (A/A) shows noise only: another recipe flips more, so its discordance is a lower
bound and never lowers the policy's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from evalkit.errors import UsageError
from evalkit.policy import MeanEndpoint, Policy, ProportionEndpoint
from evalkit.records import ChoiceReply, Manifest, Record
from evalkit.statistics.checks import Floats
from evalkit.statistics.distributions import soft_accuracy
from evalkit.statistics.proportions import wilson_interval
from evalkit.store import Run

_Scored = tuple[tuple[float, ...], tuple[float, ...], int]
"""Log-probabilities of the first and of the second run, and the index of the right choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What two runs say of one endpoint.

    Attributes:
        kind: "discordance" (share of items, with its 95 % Wilson limits) or "sd" (of item differences, proportion).
        value: the estimate.
        lower, upper: limits; None for "sd".
        pairs: items with a mark on both sides.
        same_recipe: both runs are of the same weights and recipe (A/A), so `value` is a lower bound.
        used: what to plan with: `value`, but at least the policy's own value where it is a lower bound.
        note: what was decided about it, in words.
    """

    kind: Literal["discordance", "sd"]
    value: float
    lower: float | None
    upper: float | None
    pairs: int
    same_recipe: bool
    used: float
    note: str


def measure(policy: Policy, first: Run, second: Run) -> dict[str, Measured]:
    """Measure the planning values of every item endpoint whose task both runs hold.

    Raises:
        UsageError: no endpoint has two items with marks in both runs, or a mark that is not 0 or 1.
    """
    same = _what(first) == _what(second)
    found: dict[str, Measured] = {}
    for name, endpoint in policy.endpoints.items():
        if isinstance(endpoint, MeanEndpoint) or not all(endpoint.task in run.records for run in (first, second)):
            continue
        pairs = _pairs(first.records[endpoint.task], second.records[endpoint.task])
        if isinstance(endpoint, ProportionEndpoint):
            marks = [
                (a.marks[endpoint.metric], b.marks[endpoint.metric])
                for a, b in pairs
                if endpoint.metric in a.marks and endpoint.metric in b.marks
            ]
            if len(marks) > 1:
                found[name] = _discordance(name, marks, same_recipe=same, assumed=policy.planning.discordance)
        else:
            spread = _spread(pairs, same_recipe=same, assumed=policy.planning.soft_sd)
            if spread is not None:
                found[name] = spread
    if not found:
        raise UsageError(
            f"{first.path} and {second.path}: no endpoint of policy '{policy.name}' has two items "
            "with marks in both; next step: name two runs of its tasks"
        )
    return found


def _what(run: Run) -> tuple[str | None, ...]:
    engine = run.manifest.engine
    return engine.weights_sha256, engine.recipe, engine.recipe_sha256, engine.dtype


def planned_sizes(policy: Policy, manifest: Manifest) -> dict[str, int]:
    """Return how many items or questions a complete run like this holds, for each endpoint whose task it has."""
    return {
        name: manifest.tasks[endpoint.task].planned
        // (endpoint.generations if isinstance(endpoint, MeanEndpoint) else 1)
        for name, endpoint in policy.endpoints.items()
        if endpoint.task in manifest.tasks
    }


def _pairs(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    other = {record.key: record for record in second if record.status == "ok"}
    return [(record, other[record.key]) for record in first if record.status == "ok" and record.key in other]


def _discordance(name: str, marks: Sequence[tuple[float, float]], *, same_recipe: bool, assumed: float) -> Measured:
    flips, n = sum(a != b for a, b in marks), len(marks)
    if any(mark not in (0.0, 1.0) for pair in marks for mark in pair):
        raise UsageError(f"endpoint '{name}': its marks are not all 0 or 1, so they have no discordance")
    value, limits = flips / n, wilson_interval(flips, n)
    if same_recipe:
        used = max(value, assumed)
        note = "one recipe run twice: only a lower bound of what a recipe flips, so the policy's own value is kept"
        if value > assumed:
            note = "one recipe run twice: only a lower bound, and yet above the policy's own value"
    elif flips == 0:
        used, note = assumed, "no item flipped, which says nothing of another recipe; the policy's own value is kept"
    else:
        used, note = value, "measured on an earlier comparison"
    return Measured(
        kind="discordance",
        value=value,
        lower=limits.lower,
        upper=limits.upper,
        pairs=n,
        same_recipe=same_recipe,
        used=used,
        note=note,
    )


def _spread(pairs: Sequence[tuple[Record, Record]], *, same_recipe: bool, assumed: float) -> Measured | None:
    by_choices: dict[int, list[_Scored]] = defaultdict(list)
    for first, second in pairs:
        scored = _scored(first.reply, second.reply)
        if scored is not None:
            by_choices[len(scored[0])].append(scored)
    changes = [_soft_changes(group) for group in by_choices.values()]
    values = np.concatenate(changes) if changes else np.empty(0)
    sd = float(np.std(values, ddof=1)) if values.size > 1 else 0.0
    if sd == 0.0:
        return None
    note = "measured on an earlier comparison"
    if same_recipe:
        note = "one recipe run twice: only a lower bound, so the larger of it and the policy's own value is used"
    return Measured(
        kind="sd",
        value=sd,
        lower=None,
        upper=None,
        pairs=values.size,
        same_recipe=same_recipe,
        used=max(sd, assumed) if same_recipe else sd,
        note=note,
    )


def _scored(first: object, second: object) -> _Scored | None:
    if not isinstance(first, ChoiceReply) or not isinstance(second, ChoiceReply):
        return None
    if first.target is None or first.target != second.target:
        return None
    same = len(first.logprobs) == len(second.logprobs) > 1
    return (first.logprobs, second.logprobs, first.target) if same else None


def _soft_changes(group: Sequence[_Scored]) -> Floats:
    """Return second minus first, probability on the right choice, shape (n,)."""
    first, second, targets = zip(*group, strict=True)
    return soft_accuracy(second, targets) - soft_accuracy(first, targets)
