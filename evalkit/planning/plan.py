"""The plan of a whole release.

In: a policy, the size of each task, what was measured of earlier runs, the number of recipes. Out: `Plan`.
May not know: engines, benchmarks, clocks, or how a plan is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalkit.errors import UsageError, suggestion
from evalkit.planning.designs import POINT
from evalkit.planning.endpoint import Given, mean_range, plan_endpoint, planned_rule
from evalkit.planning.figures import EndpointPlan
from evalkit.planning.shortfalls import control_shortfall
from evalkit.planning.simulation import Drawn, Reach, simulate
from evalkit.policy import MeanEndpoint, Policy, ProportionEndpoint, rules_sha256
from evalkit.verdict.endpoints import assumed


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a release can promise before anything is run.

    Attributes:
        policy: name of the policy.
        policy_sha256: digest of its rules, the `rules_sha256` of every certificate by it.
        recipes: number of candidates.
        power_min: power a promise needs.
        certifies: whether the policy certifies at all.
        endpoints: one for each endpoint of the policy, in its order.
        certify_power: chance that every recipe of a release is certified if all are equal to the baseline: the whole
            verdict, guards included, drawn many times (`reach`); None if no endpoint decides. Where nothing was drawn,
            a lower bound for one recipe.
        reach: what was drawn; None if nothing was.
        assumptions: what deciding endpoints take for granted, in sentences.
        warnings: every reason not to promise a verdict, then whatever else falls short.
        promises: whether there is no such reason.
    """

    policy: str
    policy_sha256: str
    recipes: int
    power_min: float
    certifies: bool
    endpoints: tuple[EndpointPlan, ...]
    certify_power: float | None
    reach: Reach | None
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]
    promises: bool

    @property
    def impossible(self) -> bool:
        """Whether the policy certifies, and yet at these sizes not even a perfect copy could be certified."""
        return self.certifies and any(one.decides and not one.possible for one in self.endpoints)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, nothing rounded."""
        return asdict(self)


def plan(  # noqa: PLR0913 - every planning value by its name
    policy: Policy,
    items: Mapping[str, int],
    *,
    discordance: Mapping[str, float] | None = None,
    recipes: int = 1,
    planning_sd: Mapping[str, float] | None = None,
    judgments: int | None = None,
    gaps: Sequence[str] = (),
    ranges: Mapping[str, tuple[float, float]] | None = None,
    simulated: bool = True,
) -> Plan:
    """Plan a release.

    Args:
        policy: the rules.
        items: endpoint to number of items or questions, for every endpoint for which the policy names none.
        discordance: endpoint to measured share of items that flip; otherwise the policy's.
        recipes: number of candidates, at least 1.
        planning_sd: endpoint to standard deviation of the differences of questions (judge's scale) or items
            (proportion); otherwise the policy's.
        judgments: judgments of each answer; otherwise the policy's, or 1.
        gaps: further reasons not to promise, such as those of `suite_gaps`.
        ranges: endpoint to lowest and highest score of its mean, as tasks and judges declare it.
        simulated: draw whole verdicts; False where only the curves are wanted.

    Raises:
        UsageError: an unknown endpoint, a missing size, or a planning value that makes no sense; names it.
    """
    spreads = _spreads(policy, discordance or {}, planning_sd or {})
    sizes = _sizes(policy, items)
    if recipes < 1:
        raise UsageError(f"{recipes} recipes: a release has at least 1")
    given = {
        name: Given(
            size=sizes[name],
            spread=spreads.get(name),
            recipes=recipes,
            judgments=judgments,
            scale=(ranges or {}).get(name),
        )
        for name in policy.endpoints
    }
    planned = tuple(plan_endpoint(policy, name, given[name]) for name in policy.endpoints)
    drawn = {one.name: _drawn(policy, one, given[one.name]) for one in planned if one.decides}
    capped = any(one.decides and one.power == 0.0 for one in planned)
    possible = all(one.possible for one in planned if one.decides)
    reach = (
        simulate(policy, list(drawn.values()), recipes, capped=capped or not possible) if simulated and drawn else None
    )
    power = reach.every if reach is not None else _certify_power(planned)
    reasons = (*gaps, *_reasons(policy, planned, power))
    return Plan(
        policy=policy.name,
        policy_sha256=rules_sha256(policy),
        recipes=recipes,
        power_min=policy.planning.power,
        certifies=policy.certifies,
        endpoints=planned,
        certify_power=power,
        reach=reach,
        assumptions=tuple(_assumptions(policy, given, [one for one in planned if one.decides])),
        warnings=(*reasons, *_remarks(planned)),
        promises=not reasons,
    )


def _drawn(policy: Policy, one: EndpointPlan, given: Given) -> Drawn:
    endpoint = policy.endpoints[one.name]
    unit = 1.0 if isinstance(endpoint, MeanEndpoint) else POINT
    if isinstance(endpoint, ProportionEndpoint):
        rule, spread, scale = None, one.spread, 1.0
    else:
        low, high = mean_range(endpoint, given) or (0.0, float("inf"))
        rule, spread, scale = planned_rule(endpoint, given), one.spread * unit, high - low
    return Drawn(
        size=one.size,
        margin=one.margins[0].margin * unit,
        spread=spread,
        alpha=one.alpha,
        rule=rule,
        rating=isinstance(endpoint, MeanEndpoint),
        scale=scale,
    )


def _assumptions(policy: Policy, given: Mapping[str, Given], deciding: Sequence[EndpointPlan]) -> Iterator[str]:
    for one in deciding:
        endpoint = policy.endpoints[one.name]
        scale = mean_range(endpoint, given[one.name])
        if isinstance(endpoint, MeanEndpoint) and endpoint.assumption != "none" and scale is not None:
            yield assumed(one.name, endpoint, one.size, scale, given[one.name].recipes)


def _spreads(policy: Policy, discordance: Mapping[str, float], planning_sd: Mapping[str, float]) -> dict[str, float]:
    _check_names(policy, (*discordance, *planning_sd))
    for name in discordance:
        if not isinstance(policy.endpoints[name], ProportionEndpoint):
            raise UsageError(f"endpoint '{name}' is planned by a standard deviation, not by discordance")
    for name in planning_sd:
        if isinstance(policy.endpoints[name], ProportionEndpoint):
            raise UsageError(f"endpoint '{name}' is planned by discordance, not by a standard deviation")
    return {**discordance, **planning_sd}


def _sizes(policy: Policy, items: Mapping[str, int]) -> dict[str, int]:
    _check_names(policy, tuple(items))
    sizes = {name: items.get(name, endpoint.size) for name, endpoint in policy.endpoints.items()}
    lacking = [name for name, size in sizes.items() if size is None]
    if lacking:
        raise UsageError(
            f"policy '{policy.name}': how many items or questions has {', '.join(lacking)}? Neither the policy nor its "
            f"task says; next step: give the number (--items {lacking[0]}=N)"
        )
    return {name: size for name, size in sizes.items() if size is not None}


def _check_names(policy: Policy, names: Sequence[str]) -> None:
    for name in names:
        if name not in policy.endpoints:
            raise UsageError(
                f"policy '{policy.name}' has no endpoint '{name}'{suggestion(name, list(policy.endpoints))}"
            )


def _certify_power(planned: Sequence[EndpointPlan]) -> float | None:
    """Return 1 minus the sum of the misses: a bound that needs no independence."""
    powers = [one.power for one in planned if one.decides]
    return max(0.0, 1.0 - sum(1.0 - power for power in powers)) if powers else None


def _reasons(policy: Policy, planned: Sequence[EndpointPlan], power: float | None) -> tuple[str, ...]:
    """Return every reason not to promise a verdict."""
    wanted = policy.planning.power
    reasons = [f"{one.name}: {fault}" for one in planned if one.decides for fault in one.faults]
    if not policy.certifies:
        reasons.append(f"policy '{policy.name}' certifies nothing: its best verdict is INCONCLUSIVE")
    if power is None:
        reasons.append(f"policy '{policy.name}': no endpoint decides, so every verdict would be INVALID (no-endpoint)")
    elif power < wanted and not reasons:
        reasons.append(
            f"all equal recipes together are certified with probability {power:.3f}, less than {wanted:g}; next step: "
            "more items, questions, generations or judgments, or fewer recipes in one release"
        )
    return (*reasons, *_control_reasons(policy, [one for one in planned if one.decides]))


def _control_reasons(policy: Policy, deciding: Sequence[EndpointPlan]) -> tuple[str, ...]:
    """Return why the assay may fail: every deciding endpoint must fail the control, or just one must not pass it."""
    wanted = policy.planning.power
    controls = {one.name: one.control for one in deciding if one.control is not None}
    if "control" not in policy.assay.required or not controls:
        return ()
    if policy.assay.control == "fail":
        return tuple(line for name, control in controls.items() for line in control_shortfall(name, control, wanted))
    best = max(control.does_not_pass for control in controls.values())
    if best >= wanted:
        return ()
    sentence = (
        f"a control of the expected loss passes every deciding endpoint too often: the chance that it does not pass is "
        f"{best:.3f} at best, less than {wanted:g}; then every verdict is INVALID (assay-failed)"
    )
    return (sentence,)


def _remarks(planned: Sequence[EndpointPlan]) -> list[str]:
    decisive = [f"{one.name}: {note}" for one in planned if one.decides for note in one.notes]
    shown = [
        f"{one.name} (not gating): {line}" for one in planned if not one.decides for line in (*one.faults, *one.notes)
    ]
    return decisive + shown
