"""Could this evaluation have seen a loss, and does it leave an equal model alone?

In: a policy, comparisons of the baseline with its rerun and with broken recipes, one comparison with the baseline.
Out: `AssayReport`: checks, the noise floor, reasons that make every verdict INVALID.
May not know: which candidate is judged.

Non-inferiority cannot show by itself that a test could have seen a loss: a harness that answers the same whatever it is
given would certify anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evalkit.comparison import Comparison
from evalkit.errors import EstimateError
from evalkit.policy import Endpoint, MeanEndpoint, ProportionEndpoint, ResolvedPolicy
from evalkit.signed import signed
from evalkit.statistics.mcnemar import mcnemar
from evalkit.statistics.proportions import wilson_interval
from evalkit.verdict.endpoints import EndpointResult, evaluate, mean_of
from evalkit.verdict.outcome import EndpointState, Reason
from evalkit.verdict.validity import data_reasons, has_no_variation

Comparisons = Mapping[str, Comparison]
"""Endpoint name to comparison."""

_WILSON_LEVEL = 0.998


@dataclass(frozen=True, kw_only=True)
class AssayCheck:
    """One check of the evaluation itself.

    Attributes:
        check: "aa", "control", "above_chance" or "anchor".
        endpoint: the endpoint it was made on; None for the whole.
        run: name of the control; None otherwise.
        required: whether the policy requires it.
        passed: None where it was not made.
        message: what was seen.
    """

    check: str
    endpoint: str | None
    run: str | None
    required: bool
    passed: bool | None
    message: str


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """How much two runs of one and the same engine differ.

    Attributes:
        endpoint: name.
        discordance: share of items that flip without any change; None for means.
        sd: of a question's difference; None for accuracies, 0 where nothing varies.
        judgment_sd: of repeated judgments of one answer; None without repeats.
        generation_sd: of a question's mean over generations, from the two runs; None without `judgment_sd`.
        drops, questions: questions with a catastrophic difference, of how many; None for accuracies.
        invalid_items: items with an unreadable answer in the rerun; None without generated answers.
    """

    endpoint: str
    discordance: float | None
    sd: float | None
    judgment_sd: float | None
    generation_sd: float | None
    drops: int | None
    questions: int | None
    invalid_items: int | None


@dataclass(frozen=True, kw_only=True)
class AssayReport:
    """All checks.

    Attributes:
        checks: every check that was made or is required.
        noise: noise floor of each endpoint that was rerun.
        controls: what each control showed: name to endpoint results.
        reasons: why no verdict may rest on this evaluation; empty if it works.
        notes: what a certificate must say about it.
    """

    checks: tuple[AssayCheck, ...]
    noise: tuple[NoiseFloor, ...]
    controls: Mapping[str, tuple[EndpointResult, ...]]
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether verdicts may rest on this evaluation."""
        return not self.reasons


def assess(
    policy: ResolvedPolicy,
    gating: Sequence[str],
    *,
    rerun: Comparisons | None,
    controls: Mapping[str, Comparisons],
    samples: Sequence[Comparisons],
) -> AssayReport:
    """Make every check.

    Args:
        policy: names the required checks.
        gating: names of the gating endpoints.
        rerun: the baseline against a second run of itself; None if there is none.
        controls: name of each broken recipe to its comparison with the baseline.
        samples: comparisons in which the baseline's accuracy can be read, best first.
    """
    checks: list[AssayCheck] = []
    seen: dict[str, tuple[EndpointResult, ...]] = {}
    for name in gating:
        checks.append(_rerun_check(policy, name, rerun))
        checks += _baseline_checks(policy, name, samples)
    required = "control" in policy.policy.assay.required
    named = sorted({*policy.release.controls, *controls}) if gating else []
    for control in named:
        found, seen[control] = _control_check(policy, gating, control, controls.get(control, {}))
        checks.append(found)
    if required and gating and not named:
        checks.append(
            _check("control", None, None, required=True, passed=None, message="no broken recipe was compared")
        )
    checks = [found for found in checks if found.required or found.passed is not None]
    return AssayReport(
        checks=tuple(checks),
        noise=tuple(
            noise_floor(name, policy.endpoints[name], comparison) for name, comparison in sorted((rerun or {}).items())
        ),
        controls=seen,
        reasons=tuple(reason for found in checks for reason in _reason(found)),
        notes=_anchor_notes(policy, gating),
    )


def _check(
    check: str, endpoint: str | None, run: str | None, *, required: bool, passed: bool | None, message: str
) -> AssayCheck:
    return AssayCheck(check=check, endpoint=endpoint, run=run, required=required, passed=passed, message=message)


def _reason(found: AssayCheck) -> list[Reason]:
    if not found.required or found.passed:
        return []
    where = " ".join(part for part in (found.run, found.endpoint) if part)
    message = f"{found.check}{f' ({where})' if where else ''}: {found.message}"
    if found.passed is None:
        return [Reason(code="assay-missing", message=f"{message}; next step: run it", endpoint=found.endpoint)]
    code = "baseline-sanity" if found.check in ("above_chance", "anchor") else "assay-failed"
    return [Reason(code=code, message=f"{message}; next step: repair the evaluation first", endpoint=found.endpoint)]


def _rerun_check(policy: ResolvedPolicy, name: str, rerun: Comparisons | None) -> AssayCheck:
    comparison = (rerun or {}).get(name)
    required = "aa" in policy.policy.assay.required
    if comparison is None:
        message = "the baseline was not run a second time"
        return _check("aa", name, None, required=required, passed=None, message=message)
    faults = data_reasons(policy, name, comparison)
    if faults:
        return _check("aa", name, None, required=required, passed=False, message=faults[0].message)
    first, second = comparison.baseline, comparison.candidate
    if (first.model, first.recipe, first.recipe_sha256) != (second.model, second.recipe, second.recipe_sha256):
        message = (
            f"the second run is of recipe '{second.recipe}' of {second.model}, the baseline of recipe '{first.recipe}' "
            f"of {first.model}"
        )
        return _check("aa", name, None, required=required, passed=False, message=message)
    try:
        passed, message = _equal_to_itself(policy, name, comparison)
    except EstimateError as error:
        passed, message = False, str(error)
    return _check("aa", name, None, required=required, passed=passed, message=message)


def _equal_to_itself(policy: ResolvedPolicy, name: str, comparison: Comparison) -> tuple[bool, str]:
    endpoint = policy.endpoints[name]
    if not isinstance(endpoint, ProportionEndpoint):
        return _equal_means(policy, name, endpoint, comparison)
    result = evaluate(policy, name, comparison)
    table = comparison.proportion.observed if comparison.proportion is not None else None
    if table is None:
        raise EstimateError("no pair has a result on both sides")
    least, midp = policy.policy.assay.aa_midp_min, mcnemar(table.n10, table.n01).midp_p
    message = (
        f"{result.state.value} at a margin of {100 * result.steps[0].margin:g} points, {table.discordant} of {table.n} "
        f"items flip, mid-p {midp:.3g} (at least {least:g} is wanted)"
    )
    return result.state is EndpointState.PASS and midp >= least, message


def _equal_means(policy: ResolvedPolicy, name: str, endpoint: Endpoint, comparison: Comparison) -> tuple[bool, str]:
    mean, unit = mean_of(endpoint, comparison), "question" if isinstance(endpoint, MeanEndpoint) else "item"
    if has_no_variation(endpoint, comparison):
        equal = mean is not None and mean.difference == 0.0
        return equal, f"every {unit} has the same score in both runs" if equal else f"every {unit} differs alike"
    result = evaluate(policy, name, comparison)
    wide = mean.wide_interval if mean is not None else None
    if wide is None:
        raise EstimateError("no interval can be made")
    message = f"{result.state.value}, 99 % interval {wide.lower:.3f} to {wide.upper:.3f} (0 must be inside)"
    return result.state is not EndpointState.FAIL and wide.lower <= 0.0 <= wide.upper, message


def _control_check(
    policy: ResolvedPolicy, gating: Sequence[str], control: str, comparisons: Comparisons
) -> tuple[AssayCheck, tuple[EndpointResult, ...]]:
    rules = policy.policy.assay
    required = "control" in rules.required
    results: list[EndpointResult] = []
    for name in gating:
        comparison = comparisons.get(name)
        if comparison is None:
            message = f"endpoint {name} was not run"
            return _check("control", name, control, required=required, passed=None, message=message), tuple(results)
        faults = data_reasons(policy, name, comparison)
        if faults:
            return (
                _check("control", name, control, required=required, passed=False, message=faults[0].message),
                tuple(results),
            )
        try:
            results.append(evaluate(policy, name, comparison))
        except EstimateError as error:
            return _check("control", name, control, required=required, passed=False, message=str(error)), tuple(results)
    states = [result.state for result in results]
    every: Callable[[EndpointState], bool] = lambda state: all(found is state for found in states)  # noqa: E731
    seen = every(EndpointState.FAIL) if rules.control == "fail" else not every(EndpointState.PASS)
    wanted = "every gating endpoint must FAIL" if rules.control == "fail" else "it must not pass every gating endpoint"
    shown = ", ".join(f"{result.name} {result.state.value} ({_change(result)})" for result in results)
    passed = bool(states) and seen
    return (
        _check("control", None, control, required=required, passed=passed, message=f"{shown}; {wanted}"),
        tuple(results),
    )


def _change(result: EndpointResult) -> str:
    if result.unit == "proportion":
        return f"{signed(100 * result.difference)} points"
    return signed(result.difference)


def _baseline_checks(policy: ResolvedPolicy, name: str, samples: Sequence[Comparisons]) -> list[AssayCheck]:
    endpoint, rules = policy.endpoints[name], policy.policy.assay
    if not isinstance(endpoint, ProportionEndpoint):
        return []
    known = [found[name] for found in samples if name in found and found[name].proportion is not None]
    # A damaged run of one candidate says nothing of the baseline, and must not spoil the verdicts on the others.
    comparison = next((found for found in known if not data_reasons(policy, name, found)), next(iter(known), None))
    data = comparison.proportion if comparison is not None else None
    if comparison is None or data is None:
        return [
            _check(
                check, name, None, required=True, passed=None, message="the baseline has no accuracy on this endpoint"
            )
            for check in ("above_chance", "anchor")
            if check in rules.required
        ]
    # In this fill a missing baseline answer is wrong, so an incomplete baseline never looks better than it is.
    right, n = data.favourable.n11 + data.favourable.n10, data.favourable.n
    return [_above_chance(policy, name, endpoint, comparison, right, n), _anchor(policy, name, right / n)]


def _above_chance(
    policy: ResolvedPolicy, name: str, endpoint: ProportionEndpoint, comparison: Comparison, right: int, n: int
) -> AssayCheck:
    rules = policy.policy.assay
    required = "above_chance" in rules.required
    own = comparison.task_run.chance if comparison.task_run is not None else None
    chance = endpoint.chance if endpoint.chance is not None else own
    least = rules.baseline_lower_min.get(name)
    if least is None:
        if chance is None:
            message = "the chance level is unknown; give 'chance' or 'baseline_lower_min' in the policy"
            return _check("above_chance", name, None, required=required, passed=None, message=message)
        least = chance + rules.chance_plus_points / 100.0
    if n < 2:
        message = f"the baseline has {n} item(s)"
        return _check("above_chance", name, None, required=required, passed=False, message=message)
    lower = wilson_interval(right, n, _WILSON_LEVEL).lower
    message = (
        f"the baseline has {right} of {n} right ({right / n:.2%}); the 99.8 % lower limit {lower:.2%} must be above "
        f"{least:.2%}"
    )
    return _check("above_chance", name, None, required=required, passed=lower > least, message=message)


def _anchor(policy: ResolvedPolicy, name: str, accuracy: float) -> AssayCheck:
    rules = policy.policy.assay
    reference = rules.reference_accuracy.get(name)
    required = "anchor" in rules.required or reference is not None
    if reference is None:
        message = "the policy gives no published accuracy to compare with"
        return _check("anchor", name, None, required=required, passed=None, message=message)
    passed = abs(accuracy - reference) <= rules.reference_tolerance_points / 100.0
    message = (
        f"the baseline has {accuracy:.2%}, published is {reference:.2%}; within {rules.reference_tolerance_points:g} "
        "points is wanted"
    )
    return _check("anchor", name, None, required=required, passed=passed, message=message)


def _anchor_notes(policy: ResolvedPolicy, gating: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{name} is unanchored: the policy gives no published accuracy of the baseline"
        for name in gating
        if isinstance(policy.endpoints[name], ProportionEndpoint) and name not in policy.policy.assay.reference_accuracy
    )


def noise_floor(name: str, endpoint: Endpoint, comparison: Comparison) -> NoiseFloor:
    """Return how much the baseline differs from itself on one endpoint."""
    table = comparison.proportion.observed if comparison.proportion is not None else None
    rating, answers = comparison.rating, comparison.answers
    sd: float | None = None
    if rating is not None:
        sd = rating.mean.sd if rating.mean.sd is not None or not has_no_variation(endpoint, comparison) else 0.0
    return NoiseFloor(
        endpoint=name,
        discordance=table.discordance if table is not None else None,
        sd=sd,
        judgment_sd=rating.judgment_sd if rating is not None else None,
        generation_sd=_generation_sd(comparison, sd),
        drops=rating.drops if rating is not None else None,
        questions=rating.mean.n if rating is not None else None,
        invalid_items=answers.candidate_invalid_items if answers is not None else None,
    )


def _generation_sd(comparison: Comparison, sd: float | None) -> float | None:
    """Solve sd^2 = (2/G) sg^2 + (2/(T G J)) sj^2 for sg: between two runs of one engine there is no true effect."""
    rating = comparison.rating
    if rating is None or sd is None or rating.judgment_sd is None:
        return None
    turns = max(1, len(rating.turns))
    judging = 2.0 * rating.judgment_sd**2 / (turns * rating.generations * rating.repeats)
    return math.sqrt(max(0.0, (sd**2 - judging) * rating.generations / 2.0))
