"""Does the evaluation see recipes that are known to be broken, one plainly and one hardly?

In: a policy, gating endpoints, comparisons of controls with the baseline. Out: `AssayCheck`s, what controls showed.
May not know: candidates.

A control that lost everything shows that the apparatus is connected. Only one that lost little more than the margin
shows that a loss of that size is seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.comparison import Comparison
from evalkit.errors import EstimateError
from evalkit.policy import ResolvedPolicy
from evalkit.signed import signed
from evalkit.verdict.checks import AssayCheck, made_check
from evalkit.verdict.endpoints import EndpointResult, evaluate
from evalkit.verdict.outcome import EndpointState
from evalkit.verdict.validity import data_reasons

Seen = Mapping[str, tuple[EndpointResult, ...]]
"""Control name to its results on gating endpoints."""


def control_checks(
    policy: ResolvedPolicy, gating: Sequence[str], controls: Mapping[str, Mapping[str, Comparison]]
) -> tuple[list[AssayCheck], Seen]:
    """Return what came of every control that the policy names or that was run."""
    named = sorted({*policy.release.controls, *controls})
    if not gating or not named:
        return _without(policy, gating), {}
    seen: dict[str, tuple[EndpointResult, ...]] = {}
    spoilt: dict[str, AssayCheck] = {}
    for control in named:
        seen[control], fault = _results(policy, gating, control, controls.get(control, {}))
        if fault is not None:
            spoilt[control] = fault
    broken = [name for name in named if name not in spoilt and _all(seen[name], EndpointState.FAIL)]
    checks = [spoilt.get(name) or _broken(policy, name, seen[name], broken) for name in named]
    whole = {name: results for name, results in seen.items() if name not in spoilt}
    return [*checks, *(_near(policy, name, whole) for name in gating)], seen


def _without(policy: ResolvedPolicy, gating: Sequence[str]) -> list[AssayCheck]:
    required = policy.policy.assay.required
    return [
        made_check(check, None, required=check in required and bool(gating), message="no broken recipe was compared")
        for check in ("control", "near_control")
        if gating
    ]


def _results(
    policy: ResolvedPolicy, gating: Sequence[str], control: str, comparisons: Mapping[str, Comparison]
) -> tuple[tuple[EndpointResult, ...], AssayCheck | None]:
    required = "control" in policy.policy.assay.required
    results: list[EndpointResult] = []
    for name in gating:
        comparison, passed = comparisons.get(name), False
        message = f"endpoint {name} was not run"
        if comparison is None:
            return tuple(results), made_check("control", name, run=control, required=required, message=message)
        faults = data_reasons(policy, name, comparison)
        try:
            if faults:
                raise EstimateError(faults[0].message)
            results.append(evaluate(policy, name, comparison))
        except EstimateError as error:
            fault = made_check("control", name, run=control, required=required, passed=passed, message=str(error))
            return tuple(results), fault
    return tuple(results), None


def _broken(
    policy: ResolvedPolicy, control: str, results: Sequence[EndpointResult], broken: Sequence[str]
) -> AssayCheck:
    """A control fails everywhere; one that hardly lost anything need not, where another one does."""
    rules = policy.policy.assay
    hidden = _all(results, EndpointState.PASS)
    if rules.control == "fail":
        passed = control in broken or (bool(broken) and not hidden)
        wanted = "every gating endpoint must FAIL"
        if control not in broken and broken:
            wanted = f"it must not pass every gating endpoint, since {broken[0]} FAILs them all"
    else:
        passed, wanted = not hidden, "it must not pass every gating endpoint"
    shown = ", ".join(f"{result.name} {result.state.value} ({_change(result)})" for result in results)
    required = "control" in rules.required
    return made_check("control", None, run=control, required=required, passed=passed, message=f"{shown}; {wanted}")


def _near(policy: ResolvedPolicy, name: str, seen: Seen) -> AssayCheck:
    """Return whether some control lost little more than the margin, and was seen to."""
    rules = policy.policy.assay
    least, most = rules.near_margins
    required = "near_control" in rules.required
    found = [
        (-result.difference / result.steps[0].margin, control, result)
        for control, results in sorted(seen.items())
        for result in results
        if result.name == name
    ]
    wanted = f"one that FAILs with a loss of {least:g} to {most:g} margins is wanted"
    if not found:
        message = f"no control has a result; {wanted}"
        return made_check("near_control", name, required=required, message=message)
    near = [one for one in found if least <= one[0] <= most and one[2].state is EndpointState.FAIL]
    loss, control, result = min(near or found, key=lambda one: max(least - one[0], one[0] - most))
    shown = f"{control} {result.state.value} with {_change(result)}, {loss:.1f} margins of loss"
    if not near and loss > most:
        shown += ": it shows that destruction is seen, and nothing about a loss near the margin"
    message = f"{shown}; {wanted}"
    return made_check("near_control", name, run=control, required=required, passed=bool(near), message=message)


def _all(results: Sequence[EndpointResult], state: EndpointState) -> bool:
    return bool(results) and all(result.state is state for result in results)


def _change(result: EndpointResult) -> str:
    if result.unit == "proportion":
        return f"{signed(100 * result.difference)} points"
    return signed(result.difference)
