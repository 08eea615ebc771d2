"""How a comparison is to be made.

In: nothing, or an endpoint of a policy. Out: `ComparisonSettings`.
May not know: runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalkit.policy import ResolvedPolicy


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Everything but the data that a comparison's numbers depend on.

    Attributes:
        endpoint: name of the endpoint it is for; None outside a policy.
        metric: the mark that counts; None for the task's own.
        margin: proportion, for the equivalence p-value of accuracies.
        level: of the intervals of mean differences.
        drop: a question's loss that counts as catastrophic, in the unit of the score.
        subjects_q: share of false alarms in the list of subjects.
        tolerated: names of tolerated differences.
        seed: of bootstraps.
        higher_is_better: what the policy says of the metric; None for what the task says.
        cluster, strata: fields of an item, as in `EndpointSection`.
    """

    endpoint: str | None = None
    metric: str | None = None
    margin: float = 0.01
    level: float = 0.90
    drop: float = 4.0
    subjects_q: float = 0.10
    tolerated: frozenset[str] = frozenset()
    seed: int = 2
    higher_is_better: bool | None = None
    cluster: str | None = None
    strata: tuple[str, ...] = ()


def settings_for(policy: ResolvedPolicy, name: str) -> ComparisonSettings:
    """Return the settings a policy gives for one of its endpoints."""
    from evalkit.policy import MeanEndpoint  # noqa: PLC0415 - slow to import, and whoever has a policy has done it

    endpoint, rules = policy.endpoints[name], policy.policy
    mixing = {"fidelity"} if rules.fidelity.mixing == "allow" else set()
    return ComparisonSettings(
        endpoint=name,
        metric=endpoint.metric,
        margin=0.01 if isinstance(endpoint, MeanEndpoint) else endpoint.margins[0],
        level=1.0 - 2.0 * endpoint.alpha,
        drop=rules.guards.catastrophic_drop,
        subjects_q=rules.multiplicity.subjects_bh_q,
        tolerated=frozenset(rules.overrides) | mixing,
        seed=rules.seeds.bootstrap,
        higher_is_better=endpoint.higher_is_better,
        cluster=endpoint.cluster,
        strata=endpoint.strata,
    )
