"""Freeze a policy: from here on it has a digest that runs record and certificates cite.

In: a policy, the names of baseline, recipes and controls. Out: a `ResolvedPolicy`.
May not know: where the names come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from evalkit.errors import UsageError
from evalkit.policy.endpoints import Endpoint
from evalkit.policy.model import Policy, Release
from evalkit.records import digest


@dataclass(frozen=True, kw_only=True)
class ResolvedPolicy:
    """A policy that names whom it judges.

    Attributes:
        policy: all thresholds; `policy.release` is set.
        release: baseline, recipes and controls.
        document: the same as plain JSON data with every default filled in: what the digest is over.
        sha256: digest of `document`; neither key order nor comments of the file change it, every value does.
    """

    policy: Policy
    release: Release
    document: Mapping[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        """Name of the policy."""
        return self.policy.name

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """Endpoints by name."""
        return self.policy.endpoints


def rules_sha256(policy: Policy) -> str:
    """Return the digest of a policy's rules: everything but whom it judges.

    A policy file and the certificates of every release that was judged by it have the same.
    """
    return digest(without_names(policy.model_dump(mode="json")))


def without_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's document without whom it judges."""
    return {key: value for key, value in document.items() if key != "release"}


def bind(policy: Policy, baseline: str, recipes: Sequence[str], controls: Sequence[str] = ()) -> ResolvedPolicy:
    """Name whom a policy judges and freeze it.

    The order of recipes and of controls does not matter to the digest.

    Raises:
        UsageError: a name is used twice or is no name, or the policy file itself names others.
    """
    try:
        release = Release(baseline=baseline, recipes=tuple(sorted(recipes)), controls=tuple(sorted(controls)))
    except ValidationError as error:
        raise UsageError(f"policy '{policy.name}' cannot be bound: {error.errors()[0]['msg']}") from error
    written = policy.release
    if written is not None and _plain(written) != _plain(release):
        raise UsageError(
            f"policy '{policy.name}' is written for baseline '{written.baseline}' and recipes "
            f"{', '.join(written.recipes)}, not for '{baseline}' and {', '.join(release.recipes)}; next step: judge "
            "exactly those, or leave 'release' out of the policy file"
        )
    bound = policy.model_copy(update={"release": release})
    document = bound.model_dump(mode="json")
    return ResolvedPolicy(policy=bound, release=release, document=document, sha256=digest(document))


def _plain(release: Release) -> tuple[str, list[str], list[str]]:
    return release.baseline, sorted(release.recipes), sorted(release.controls)
