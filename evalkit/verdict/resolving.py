"""What would resolve an open endpoint, in numbers.

In: an endpoint's result and its comparison. Out: one sentence.
May not know: other endpoints, recipes.
"""

from __future__ import annotations

from evalkit.comparison import Comparison
from evalkit.errors import EstimateError
from evalkit.policy import Endpoint, MeanEndpoint
from evalkit.statistics.power import approximate_items_needed, questions_needed
from evalkit.verdict.endpoints import EndpointResult

POWER = 0.80


def resolution(result: EndpointResult, endpoint: Endpoint, comparison: Comparison) -> str:
    """Say how much more would give 80 % power to certify an equal recipe at the variation that was seen."""
    try:
        if isinstance(endpoint, MeanEndpoint):
            mean = comparison.rating.mean if comparison.rating is not None else comparison.mean
            if mean is None or mean.sd is None:
                return f"{result.name}: judge more questions"
            needed = questions_needed(mean.sd, endpoint.margin, alpha=endpoint.alpha, power=POWER)
            seen, unit = f"the SD of a question's difference stays at {mean.sd:.2f}", "questions"
        else:
            effects = comparison.proportion.effects if comparison.proportion is not None else None
            if effects is None or effects.flips.rate == 0:
                return f"{result.name}: run more items"
            needed = approximate_items_needed(
                effects.flips.rate, endpoint.margins[0], alpha=endpoint.alpha, power=POWER
            )
            seen, unit = f"flips stay at {effects.flips.rate:.1%}", "items"
    except EstimateError as error:
        return f"{result.name}: no number can be named: {error}"
    return f"{result.name}: {_sentence(result.pairs, int(needed), unit, seen, endpoint.population)}"


def _sentence(have: int, needed: int, unit: str, seen: str, population: int | None) -> str:
    if needed <= have:
        return (
            f"{have:,} {unit} already give {POWER:.0%} power to certify an equal recipe, if {seen}; the true "
            "difference is probably near the margin, and only many more would decide"
        )
    if population is not None and needed > population:
        return f"{needed:,} {unit} would be needed, if {seen}, and only {population:,} exist"
    return f"about {needed - have:,} more {unit} would give {POWER:.0%} power to certify an equal recipe, if {seen}"
