"""What one night watches, and where it lies.

In: a suite, a policy, settings. Out: `Night`, and `RecipeNight` for each candidate.
May not know: engines, records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import UsageError
from evalkit.nightly.plan import watched
from evalkit.nightly.settings import NightSettings
from evalkit.policy import Policy, ProportionEndpoint, ResolvedPolicy, bind
from evalkit.suite import EngineSpec, Suite

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
