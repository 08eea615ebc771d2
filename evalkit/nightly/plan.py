"""What a night will cost and can find, said before it begins.

In: a policy, the number of items, what is assumed of flips and speed. Out: `NightPlan`, and its lines for people.
May not know: engines, records.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.errors import UsageError
from evalkit.policy import Policy, ProportionEndpoint
from evalkit.statistics.sequential_outlook import Outlook, SequentialRules, outlook

NIGHTS = 300
"""Simulated nights behind each share: within 6 points at most."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of one recipe on one endpoint before the night.

    Attributes:
        discordance: share of items that flip.
        source: where it comes from, in words.
        rate: items a second; None if unknown.
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
            f"policy '{policy.name}' certifies, and a night never does; next step: --policy nightly, or a policy file "
            "with 'certifies: false'"
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
            simulated[key] = outlook(rules, discordance=discordance, difference=difference, nights=NIGHTS)
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
