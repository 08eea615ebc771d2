"""What would resolve an open endpoint, in numbers.

In: the result of an endpoint, its comparison. Out: one sentence.
Must not depend on: how verdicts are reached.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from evalkit.comparison.compare import Comparison
from evalkit.errors import EstimateError
from evalkit.policy.endpoints import Endpoint, MeanEndpoint, ProportionEndpoint
from evalkit.statistics.power import approximate_items_needed, questions_needed
from evalkit.verdict.endpoints import EndpointResult, mean_of

POWER = 0.80


def resolution(result: EndpointResult, endpoint: Endpoint, comparison: Comparison) -> str:
    """Say how much more would give 80 % power to certify an equal recipe at the variation that was seen."""
    if result.steps[0].held_back == "collapse":
        return _unseen(result, endpoint)
    try:
        found = _needed(endpoint, comparison)
    except EstimateError as error:
        return f"{result.name}: no number can be named: {error}"
    unit = _unit(endpoint)
    if found is None:
        lacking = result.planned - result.pairs
        wanted = f"complete the {lacking:,} missing {unit}" if lacking else f"run more {unit}"
        return f"{result.name}: {wanted}{_exhausted(result.planned, unit, endpoint.population)}"
    needed, seen = found
    return f"{result.name}: {_sentence(result.pairs, needed, unit, seen, endpoint.population)}"


def _unseen(result: EndpointResult, endpoint: Endpoint) -> str:
    """Say how many units would exclude rare collapses, if evidence goes on growing with them as it did."""
    step, unit = result.steps[0], _unit(endpoint)
    evidence = -math.log(max(step.p_certify, 1e-300))
    needed = math.ceil(result.planned * -math.log(endpoint.alpha) / evidence) if evidence > 0.1 else None
    if needed is None:
        return f"{result.name}: these {unit} hold no evidence against rare collapses; look at the largest losses"
    seen = "differences stay as they are"
    return f"{result.name}: {_sentence(result.pairs, needed, unit, seen, endpoint.population)}"


def _unit(endpoint: Endpoint) -> str:
    return "questions" if isinstance(endpoint, MeanEndpoint) else "items"


def _needed(endpoint: Endpoint, comparison: Comparison) -> tuple[int, str] | None:
    """Return the units needed and what that rests on; None where nothing varies."""
    margin, alpha = endpoint.margins[0], endpoint.alpha
    if isinstance(endpoint, ProportionEndpoint):
        effects = comparison.proportion.effects if comparison.proportion is not None else None
        if effects is None or effects.flips.rate == 0:
            return None
        needed = approximate_items_needed(effects.flips.rate, margin, alpha=alpha, power=POWER)
        return needed, f"flips stay at {effects.flips.rate:.1%}"
    mean = mean_of(endpoint, comparison)
    if mean is None or mean.sd is None:
        return None
    what = "a question's difference" if isinstance(endpoint, MeanEndpoint) else "an item's difference"
    return questions_needed(mean.sd, margin, alpha=alpha, power=POWER), f"the SD of {what} stays at {mean.sd:.2f}"


def _sentence(have: int, needed: int, unit: str, seen: str, population: int | None) -> str:
    if needed <= have:
        outlook = "and only many more would decide" if not _exhausted(have, unit, population) else "and no more exist"
        return (
            f"{have:,} {unit} already give {POWER:.0%} power to certify an equal recipe, if {seen}; the true "
            f"difference is probably near the margin, {outlook}"
        )
    if population is not None and needed > population:
        return f"{needed:,} {unit} would be needed, if {seen}, and only {population:,} exist"
    return f"about {needed - have:,} more {unit} would give {POWER:.0%} power to certify an equal recipe, if {seen}"


def _exhausted(have: int, unit: str, population: int | None) -> str:
    return f"; no more {unit} exist" if population is not None and have >= population else ""


def composite_resolution(result: EndpointResult) -> str:
    """Say how much more would give 80 % power to certify an equal recipe at the variation that was seen."""
    margin, low, high = result.steps[0].margin, result.interval.lower, result.interval.upper
    error = (high - low) / 2.0 / -float(ndtri(result.alpha))
    needed = (error * (float(ndtri(POWER)) - float(ndtri(result.alpha))) / margin) ** 2
    most = max(result.parts, key=lambda part: part.variance_share)
    where = f"{most.variance_share:.0%} of its variance comes from {most.endpoint} (weight {most.weight:.3g})"
    if needed <= 1.0:
        return (
            f"{result.name}: these items already give {POWER:.0%} power to certify an equal recipe; the true "
            f"difference is probably near the margin, and only many more would decide; {where}"
        )
    return (
        f"{result.name}: about {needed:.1f} times the items in every task, or as much less variance from further "
        f"answers to each item, would give {POWER:.0%} power to certify an equal recipe; {where}"
    )
