"""What one night watches, and where it lies.

In: a suite, a policy, settings. Out: `Night`, and `RecipeNight` for each candidate.
Must not depend on: engines, records.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.errors import UsageError
from evalkit.policy.binding import ResolvedPolicy, bind
from evalkit.policy.endpoints import ProportionEndpoint
from evalkit.policy.model import Policy
from evalkit.statistics.sequential import Outlook, SequentialRules, outlook
from evalkit.suite import EngineSpec, Suite

# What is asked of one night, beside the suite and its policy.


BLOCK = 256
"""Items put to an engine between two looks at the evidence."""

_LABEL = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True, kw_only=True)
class NightSettings:
    """One night.

    Attributes:
        night: its label, normally the date; with the seed of the policy it draws the order of the items.
        started_at: UTC time, ISO 8601.
        site: where it runs, for suites that several machines watch; part of what tells nights apart.
        full: whether an alarm, or the cap, leads to the full comparison.
        block: items asked between two looks; it changes the cost, never the outcome.
        discordance: share of items that flip, to plan with; None for what is known.
        rate: items per second, to plan with; None for what is known.
        environment: what else a reader may want to know of the night (driver, commit, ...).

    Raises:
        UsageError: a label that is no folder name, or an empty block.
    """

    night: str
    started_at: str
    site: str = "default"
    full: bool = True
    block: int = BLOCK
    discordance: float | None = None
    rate: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("night", "site"):
            if not _LABEL.fullmatch(getattr(self, name)):
                raise UsageError(
                    f"--{name} {getattr(self, name)!r}: write letters, digits, dots, dashes and underscores, "
                    "such as 2026-03-12"
                )
        if self.block < 1:
            raise UsageError(f"--block {self.block}: at least 1 item is asked at a time")


# What a night ran in, beside the engine's own identity.


PACKAGES = (
    "torch",
    "transformers",
    "nvidia-modelopt",
    "lm-eval",
    "tensorrt-llm",
    "vllm",
    "sglang",
    "flashinfer-python",
    "nvidia-cudnn-cu12",
    "nvidia-nccl-cu12",
    "triton",
    "numpy",
)
"""Distributions whose version is noted where they are installed."""


def environment(**given: str | None) -> dict[str, str]:
    """Return Python, system, GPU driver and package versions; `given` adds what only the caller knows."""
    found = {
        "evalkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_driver(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, **{name: value for name, value in given.items() if value}}


def _driver() -> dict[str, str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {"driver": "nvidia-smi failed"}
    rows = sorted({line.strip() for line in out.splitlines() if line.strip()})
    return {"driver": "; ".join(rows)} if rows else {}


# What a night will cost and can find, said before it begins.


SIMULATED_NIGHTS = 300
"""Simulated nights behind each share: within 6 points at most."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one recipe on one endpoint before the night.

    Attributes:
        discordance: share of items that flip.
        source: where it comes from, in words.
        rate: items per second; None if unknown.
    """

    discordance: float
    source: str
    rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class EndpointPlan:
    """One recipe, one endpoint.

    Attributes:
        recipe, endpoint: names.
        margin_points: loss that is watched for, percentage points.
        rules: when the night stops.
        known: assumptions.
        unchanged: what happens if the candidate lost nothing.
        lost: what happens if it lost twice the margin.
        items: expected number, full comparisons included, if the candidate lost nothing.
        hours: expected time of asking them; None without a known rate.
    """

    recipe: str
    endpoint: str
    margin_points: float
    rules: SequentialRules
    known: Known
    unchanged: Outlook
    lost: Outlook
    items: float
    hours: float | None


@dataclass(frozen=True, kw_only=True)
class NightPlan:
    """A whole night.

    Attributes:
        policy: name.
        full: whether an alarm or the cap leads to the full comparison.
        endpoints: one for each recipe and endpoint.
    """

    policy: str
    full: bool
    endpoints: tuple[EndpointPlan, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def watched(policy: Policy) -> dict[str, ProportionEndpoint]:
    """Return the endpoints that a night watches, by name.

    Raises:
        UsageError: the policy certifies, or a gating endpoint is not one of right and wrong, or there is none.
    """
    if policy.certifies:
        raise UsageError(
            f"policy '{policy.name}' can certify; nightly runs need `certifies: false`; "
            "next step: --policy nightly, or a policy file with 'certifies: false'"
        )
    gating = {name: endpoint for name, endpoint in policy.endpoints.items() if endpoint.gating}
    others = [name for name, endpoint in gating.items() if not isinstance(endpoint, ProportionEndpoint)]
    if others:
        raise UsageError(
            f"policy '{policy.name}': endpoint '{others[0]}' is of kind '{gating[others[0]].kind}'; a night watches "
            "'paired_proportion' only; next step: 'gating: false' there, and leave it to full runs"
        )
    found = {name: endpoint for name, endpoint in gating.items() if isinstance(endpoint, ProportionEndpoint)}
    if not found:
        raise UsageError(f"policy '{policy.name}' names no gating endpoint, so there is nothing to watch")
    return found


def rules_for(policy: Policy, population: int) -> SequentialRules:
    """Return when a night under this policy stops."""
    rules = policy.nightly
    return SequentialRules(
        population=population,
        margin=rules.margin_points / 100.0,
        ok=rules.ok,
        alarm=rules.alarm,
        cap=rules.cap,
        grid=rules.grid,
    )


def plan_night(
    policy: Policy,
    recipes: Sequence[str],
    populations: Mapping[str, int],
    known: Mapping[tuple[str, str], Known],
    *,
    full: bool = True,
) -> NightPlan:
    """Plan a night.

    Args:
        policy: the rules.
        recipes: names of the candidates.
        populations: endpoint to number of items.
        known: (recipe, endpoint) to assumptions; the policy's own where there are none.
        full: whether an alarm or the cap leads to the full comparison.

    Raises:
        UsageError: the policy is not one for nights.
    """
    usual = Known(discordance=policy.planning.discordance, source="the policy's assumption")
    simulated: dict[tuple[SequentialRules, float, float], Outlook] = {}

    def ahead(rules: SequentialRules, discordance: float, difference: float) -> Outlook:
        key = (rules, discordance, difference)
        if key not in simulated:
            simulated[key] = outlook(rules, discordance=discordance, difference=difference, nights=SIMULATED_NIGHTS)
        return simulated[key]

    planned = []
    for recipe in recipes:
        for name in watched(policy):
            rules, one = rules_for(policy, populations[name]), known.get((recipe, name), usual)
            loss = min(0.5, 2.0 * rules.margin)
            unchanged = ahead(rules, one.discordance, 0.0)
            more = (unchanged.alarm + unchanged.cap) * (rules.population - rules.items) if full else 0.0
            planned.append(
                EndpointPlan(
                    recipe=recipe,
                    endpoint=name,
                    margin_points=policy.nightly.margin_points,
                    rules=rules,
                    known=one,
                    unchanged=unchanged,
                    lost=ahead(rules, max(one.discordance, loss), -loss),
                    items=unchanged.items + more,
                    hours=(unchanged.items + more) / one.rate / 3600.0 if one.rate else None,
                )
            )
    return NightPlan(policy=policy.name, full=full, endpoints=tuple(planned))


def plan_lines(plan: NightPlan) -> Iterator[str]:
    """Yield the plan as lines for a terminal."""
    for one in plan.endpoints:
        rules, unchanged = one.rules, one.unchanged
        yield (
            f"{one.recipe}, {one.endpoint}: a loss of {one.margin_points:g} points or more on {rules.population:,} "
            f"items; OK at e >= {rules.ok:g}, ALARM at e' >= {rules.alarm:g}, cap {rules.items:,} items; "
            f"{100 * one.known.discordance:.3g} % flips ({one.known.source})"
        )
        yield (
            f"  if nothing is lost: OK {unchanged.ok:.0%}, cap {unchanged.cap:.0%}, alarm {unchanged.alarm:.1%} of "
            f"nights; {unchanged.items:,.0f} items on average, {unchanged.items_p90:,} or fewer in nine of ten nights"
        )
        yield (
            f"  if {2 * one.margin_points:g} points are lost: alarm {one.lost.alarm:.0%}, cap {one.lost.cap:.0%}"
            + (", and each of them starts the full comparison" if plan.full else "")
        )
        yield f"  {_cost(one, full=plan.full)}"


def _cost(one: EndpointPlan, *, full: bool) -> str:
    more = ", full comparisons after an alarm or the cap included" if full else " (no full comparison)"
    time = f", {_duration(one.hours)}" if one.hours is not None else "; hours are unknown before the first night"
    return f"expected cost of a night: {one.items:,.0f} items{more}{time}"


def _duration(hours: float) -> str:
    """Write a duration in the unit people would use; loading the engine comes on top."""
    if hours >= 1.0:
        return f"{hours:.1f} hours"
    return f"{60.0 * hours:.1f} minutes" if hours >= 1.0 / 60.0 else f"{3600.0 * hours:.0f} seconds"


NIGHTS = "nights"
"""Folder of a suite's nights, under its outputs."""


@dataclass(frozen=True, kw_only=True)
class Night:
    """What one night watches.

    Attributes:
        suite: engines and tasks.
        policy: thresholds; certifies nothing.
        settings: label, site, options.
        path: the night's folder.
        endpoints: watched endpoints by name.
    """

    suite: Suite
    policy: Policy
    settings: NightSettings
    path: Path
    endpoints: Mapping[str, ProportionEndpoint]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks of the watched endpoints."""
        return tuple(dict.fromkeys(endpoint.task for endpoint in self.endpoints.values()))

    def bound(self, recipe: str) -> ResolvedPolicy:
        """Return the policy bound to one recipe; a night has no family of recipes, for it certifies none."""
        return bind(self.policy, self.suite.baseline.name, [recipe], [spec.name for spec in self.suite.controls])


def open_night(suite: Suite, policy: Policy, settings: NightSettings) -> Night:
    """Check that a suite and a policy make a night; nothing is run or written.

    Raises:
        UsageError: the policy certifies, an endpoint cannot be watched, or the suite lacks its task or any candidate.
    """
    endpoints = watched(policy)
    for name, endpoint in endpoints.items():
        if endpoint.task not in suite.tasks:
            raise UsageError(
                f"suite '{suite.name}': endpoint '{name}' of policy '{policy.name}' needs the task '{endpoint.task}'; "
                "next step: add it to 'tasks', or name another policy"
            )
    if not suite.candidates:
        raise UsageError(f"suite '{suite.name}' has no candidate, so there is nothing to watch")
    label = settings.night if settings.site == "default" else f"{settings.night}@{settings.site}"
    return Night(
        suite=suite, policy=policy, settings=settings, path=suite.outputs / NIGHTS / label, endpoints=endpoints
    )


@dataclass(frozen=True, kw_only=True)
class RecipeNight:
    """One candidate in one night.

    Attributes:
        night: the night.
        spec: the candidate.
        policy: bound to it.
        started_at: when the night began, UTC; a resumed one keeps its time.
    """

    night: Night
    spec: EngineSpec
    policy: ResolvedPolicy
    started_at: str

    @property
    def path(self) -> Path:
        """The candidate's run folder."""
        return self.night.path / self.spec.name
