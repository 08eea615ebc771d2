"""Tripwires: a breach turns CERTIFIED into INCONCLUSIVE, never the reverse.

A guard sees what the test sees: an answer that is missing is a bad one, and none is hidden by a failure.

In: a policy, an endpoint's comparison and result, the noise floor. Out: `GuardResult`s.
May not know: verdicts of other endpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import bdtrc

from evalkit.comparison import AnswerComparison, Comparison, GateComparison, RatingComparison, Units, count_drops
from evalkit.errors import EstimateError
from evalkit.policy import Endpoint, ProportionEndpoint, ResolvedPolicy
from evalkit.signed import signed
from evalkit.statistics.paired_means import paired_t
from evalkit.verdict.assay import NoiseFloor
from evalkit.verdict.endpoints import EndpointResult, mean_of, score_interval, units_of

DESIGN_EFFECT_MAX = 1.2
"""Largest design effect of a grouping that no cluster allows for; at 1.2 a test at 2.5 % has an error of 3.7 %."""

DESIGN_EFFECT_P = 0.01
"""A design effect is taken for real below this p-value, corrected for the number of groupings."""


@dataclass(frozen=True, kw_only=True)
class GuardResult:
    """One guard on one endpoint.

    Attributes:
        guard: "invalid-answers", "unreadable", "length", "gates", "catastrophic", "design-effect" or
            "implausible-gain".
        endpoint: name.
        breached: whether it fired.
        value: what was measured.
        limit: what it was compared with.
        message: both, in a sentence.
    """

    guard: str
    endpoint: str
    breached: bool
    value: float
    limit: float
    message: str


def guard_results(
    policy: ResolvedPolicy, result: EndpointResult, comparison: Comparison, noise: NoiseFloor | None
) -> tuple[GuardResult, ...]:
    """Return every guard that applies to an endpoint.

    Raises:
        EstimateError: the scores do not vary.
    """
    endpoint = policy.endpoints[result.name]
    found = [_gain(policy, result, _highest_limit(endpoint, result, comparison))]
    units = units_of(endpoint, comparison)
    if units is not None:
        found.append(_design_effect(result, units))
    if comparison.answers is not None:
        found += _answers(policy, result, comparison, comparison.answers, noise)
    if comparison.rating is not None:
        found.append(_catastrophic(policy, result, comparison.rating, noise))
    rules = policy.policy.judge
    if comparison.gates is not None and rules is not None and rules.gate_increase_max is not None:
        found.append(_gates(result, comparison.gates, rules.gate_increase_max))
    return tuple(found)


def _highest_limit(endpoint: Endpoint, result: EndpointResult, comparison: Comparison) -> float:
    """Return the highest lower limit of the difference: as seen, or with every missing answer in its favour."""
    seen, level = result.interval.lower, result.interval.level
    table = comparison.proportion
    mean = mean_of(endpoint, comparison)
    try:
        if isinstance(endpoint, ProportionEndpoint) and table is not None and table.favourable != table.observed:
            return max(seen, score_interval(table, "favourable", level).lower)
        if mean is not None:
            return max(seen, paired_t(mean.differences.favourable).interval(level).lower)
    except EstimateError:  # the fill leaves no variation: then what was seen has to do
        return seen
    return seen


def _design_effect(result: EndpointResult, units: Units) -> GuardResult:
    """Do items that share something flip together, beyond the clusters that the test allows for?"""
    sure = [one for one in units.groupings if one.p * one.looked_at < DESIGN_EFFECT_P]
    worst = max(sure, key=lambda one: one.design_effect, default=None)
    value = worst.design_effect if worst is not None else 1.0
    if worst is None or value <= DESIGN_EFFECT_MAX:
        fields = ", ".join(sorted(one.field for one in units.groupings)) or "no field"
        message = f"items that share something do not flip together (looked at: {fields})"
    else:
        message = (
            f"items with the same '{worst.field}' flip together: the variance is {value:.2f} times that of clusters "
            f"that are independent ({worst.groups} groups, p {worst.p:.2g}); above {DESIGN_EFFECT_MAX:g} is too much; "
            f"next step: in the policy 'cluster: {worst.field}', or 'strata: [{worst.field}]' if the claim is about "
            "these alone"
        )
    return GuardResult(
        guard="design-effect",
        endpoint=result.name,
        breached=value > DESIGN_EFFECT_MAX,
        value=value,
        limit=DESIGN_EFFECT_MAX,
        message=message,
    )


def _gain(policy: ResolvedPolicy, result: EndpointResult, lower: float) -> GuardResult:
    guards, points = policy.policy.guards, result.unit == "proportion"
    limit = guards.gain_points / 100.0 if points else guards.gain_rating
    shown = f"{signed(100 * lower)} points" if points else signed(lower)
    most = f"{guards.gain_points:g} points" if points else f"{limit:g}"
    return GuardResult(
        guard="implausible-gain",
        endpoint=result.name,
        breached=lower > limit,
        value=lower,
        limit=limit,
        message=f"the lower limit of the difference is {shown}; above {most} contamination or a harness difference is "
        "likelier than a better model",
    )


def _answers(
    policy: ResolvedPolicy,
    result: EndpointResult,
    comparison: Comparison,
    answers: AnswerComparison,
    noise: NoiseFloor | None,
) -> list[GuardResult]:
    unreadable = _unreadable(policy, result, answers)
    if comparison.rating is None:
        return [*_invalid_increase(policy, result, answers), unreadable]
    return [
        unreadable,
        _length(policy, result, answers),
        _invalid_questions(policy, result, comparison.rating, answers, noise),
    ]


def _invalid_increase(policy: ResolvedPolicy, result: EndpointResult, answers: AnswerComparison) -> list[GuardResult]:
    increase = answers.worst.invalid_increase
    if increase is None:
        return []
    limit, upper = policy.policy.guards.invalid_points / 100.0, increase.upper
    hidden = f", {answers.worst.missing} missing" if answers.worst.missing else ""
    message = (
        f"unreadable answers: baseline {sum(answers.baseline_invalid.values())}, candidate "
        f"{sum(answers.candidate_invalid.values())} of {answers.n}{hidden}; upper limit of the increase "
        f"{100 * upper:.2f} points, below {100 * limit:g} is wanted"
    )
    return [
        GuardResult(
            guard="invalid-answers",
            endpoint=result.name,
            breached=increase.lower > 0.0 and upper >= limit,
            value=upper,
            limit=limit,
            message=message,
        )
    ]


def _unreadable(policy: ResolvedPolicy, result: EndpointResult, answers: AnswerComparison) -> GuardResult:
    """Is the share of answers that cannot be read large, however large it is in the baseline?"""
    most, bad = policy.policy.guards.unreadable_max, sum(answers.candidate_invalid.values())
    return GuardResult(
        guard="unreadable",
        endpoint=result.name,
        breached=bad > most * answers.n,
        value=bad / answers.n,
        limit=most,
        message=f"{bad} of {answers.n} answers of the candidate cannot be read or were cut off "
        f"({bad / answers.n:.1%}); at most {most:.0%} is wanted",
    )


def _length(policy: ResolvedPolicy, result: EndpointResult, answers: AnswerComparison) -> GuardResult:
    low, high = policy.policy.guards.length_ratio
    ratio, worst = answers.length_ratio, answers.worst.length_ratios or (0.0, 0.0)
    value = 0.0 if ratio is None else next((found for found in (ratio, *worst) if not low <= found <= high), ratio)
    shown = "the baseline's answers are empty"
    if ratio is not None:
        shown = f"answers are {ratio:.3f} times as long in {answers.length_unit}"
    if ratio is not None and answers.worst.missing:
        shown += f" ({worst[0]:.3f} to {worst[1]:.3f} with the {answers.worst.missing} that are missing)"
    return GuardResult(
        guard="length",
        endpoint=result.name,
        breached=ratio is None or not low <= value <= high,
        value=value,
        limit=low if value < low else high,
        message=f"{shown}; {low:g} to {high:g} is wanted",
    )


def _gates(result: EndpointResult, found: GateComparison, most: float) -> GuardResult:
    """Is some deterministic gate tripped more often for sure?"""
    known = [(row.worst.lower, row) for row in found.gates if row.available and row.worst is not None]
    worst, gate = max(known, key=lambda pair: pair[0], default=(0.0, None))
    shown = "no gate could be compared" if gate is None else f"{gate.gate}: {gate.baseline} -> {gate.candidate}"
    return GuardResult(
        guard="gates",
        endpoint=result.name,
        breached=100.0 * worst > most,
        value=worst,
        limit=most / 100.0,
        message=f"{shown} questions; the lower limit of the increase is {signed(100 * worst, 1)} points, at most "
        f"{most:g} is wanted",
    )


def _invalid_questions(
    policy: ResolvedPolicy,
    result: EndpointResult,
    rating: RatingComparison,
    answers: AnswerComparison,
    noise: NoiseFloor | None,
) -> GuardResult:
    count = answers.worst.candidate_invalid_items
    questions = max(rating.mean.planned, count)
    normal, of = answers.baseline_invalid_items, questions
    if noise is not None and noise.invalid_items is not None and noise.questions:
        normal, of = noise.invalid_items, max(noise.questions, noise.invalid_items)
    words = "with an unreadable answer" + (" or none" if answers.worst.missing else "")
    return _binomial(policy, result, "invalid-answers", count, questions, normal, of, words)


def _catastrophic(
    policy: ResolvedPolicy, result: EndpointResult, rating: RatingComparison, noise: NoiseFloor | None
) -> GuardResult:
    normal, of = 0, 0
    if noise is not None and noise.drops is not None and noise.questions:
        normal, of = noise.drops, noise.questions
    worst = rating.mean.differences.unfavourable
    words = f"that lost {rating.drop:g} or more"
    return _binomial(policy, result, "catastrophic", count_drops(worst, rating.drop), worst.size, normal, of, words)


def _binomial(
    policy: ResolvedPolicy,
    result: EndpointResult,
    guard: str,
    count: int,
    questions: int,
    normal: int,
    of: int,
    words: str,
) -> GuardResult:
    """Is the count more than the share seen without any change explains?

    Without a rerun (`of` = 0) only the policy's floor is normal.
    """
    guards = policy.policy.guards
    usual = max((normal + 0.5) / (of + 1) if of else 0.0, guards.catastrophic_floor)
    p = float(bdtrc(count - 1, questions, usual)) if count > 0 else 1.0
    return GuardResult(
        guard=guard,
        endpoint=result.name,
        breached=p < guards.catastrophic_p,
        value=p,
        limit=guards.catastrophic_p,
        message=f"{count} of {questions} questions {words}; probability {p:.3g} where a share of {usual:.3g} is normal",
    )
