"""A plan as tables, plots and warnings for a terminal.

In: a `Plan`. Out: lines of text. May not know: how a figure was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tabulate import tabulate

if TYPE_CHECKING:
    from evalkit.planning import EndpointPlan, MarginPlan, Measured, Plan, TruePoint

_ROWS = 9
"""Rows of a plot, from 1 down to 0 in eighths."""

_STEP = 3
"""Columns of a plot for each true difference."""


def plan_lines(plan: Plan, measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield the lines of a plan: what is assumed, what can be shown, what cannot."""
    recipes = f"{plan.recipes} recipe{'s' if plan.recipes > 1 else ''}"
    yield f"policy {plan.policy} ({plan.policy_sha256[:12]}), {recipes}, wanted power {plan.power_min:g}"
    yield ""
    yield from (_measured(name, one) for name, one in measured.items())
    yield from _powers(plan)
    yield ""
    yield from _checks(plan)
    yield ""
    for endpoint in plan.endpoints:
        if endpoint.judging is not None:
            yield from _judging(endpoint, plan.recipes)
    for endpoint in plan.endpoints:
        if endpoint.gating:
            yield from _plot(endpoint)
            yield ""
    yield from _outcome(plan)


def _measured(name: str, one: Measured) -> str:
    if one.kind == "sd":
        return f"{name}: standard deviation {100 * one.value:.3g} points on {one.pairs} items; {one.note}"
    limits = f" ({_percent(one.lower)} to {_percent(one.upper)})" if one.lower is not None else ""
    return f"{name}: {_percent(one.value)}{limits} of {one.pairs} items flip; {one.note}"


def _powers(plan: Plan) -> Iterator[str]:
    rows = [_power_row(endpoint, margin) for endpoint in plan.endpoints for margin in endpoint.margins]
    headers = ("endpoint", "margin", "size", "assumed", "P(pass)", "1/4 lost", "1/2 lost", "Holm", "needed", "fewest")
    yield tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    yield "P(pass) of an equal candidate, and of one that lost 1/4 or 1/2 of the margin; Holm: of an equal candidate at"
    yield f"alpha/{plan.recipes}, the first step of the correction; needed: items for the wanted power (in brackets: at"
    yield "alpha/recipes); fewest: below it even a perfect copy cannot pass."


def _power_row(endpoint: EndpointPlan, margin: MarginPlan) -> tuple[str, ...]:
    powers = [_probability(truth.passes) for truth in margin.powers] + ["-"] * (3 - len(margin.powers))
    needed = f"{'' if margin.needed_exact else '~'}{_count(margin.needed)}"
    if margin.needed_first_step != margin.needed:
        needed += f" [{_count(margin.needed_first_step)}]"
    assumed = (
        f"{_percent(endpoint.spread)} flip" if endpoint.kind == "paired_proportion" else f"SD {endpoint.spread:.3g}"
    )
    return (
        endpoint.name,
        f"{margin.margin:g}{_unit(endpoint)} ({margin.claim})",
        str(endpoint.size),
        assumed + (" (measured)" if endpoint.measured else ""),
        *powers,
        _probability(margin.equal.passes_first_step),
        needed,
        _count(margin.minimum),
    )


def _checks(plan: Plan) -> Iterator[str]:
    rows = []
    for endpoint in plan.endpoints:
        control = endpoint.control
        rows.append(
            (
                endpoint.name,
                "yes" if endpoint.decides else "no",
                f"{endpoint.alpha:g}",
                f"{endpoint.first_step_alpha:.3g}",
                "-" if endpoint.detectable is None else f"{endpoint.detectable:.3f}{_unit(endpoint)}",
                "-" if control is None else f"{control.loss:g}{_unit(endpoint)}",
                "-" if control is None else _probability(control.fails),
                "-" if control is None else _probability(control.does_not_pass),
            )
        )
    headers = ("endpoint", "decides", "alpha", "alpha/recipes", "detectable", "control loses", "fails", "does not pass")
    yield tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    yield "detectable: smallest margin an equal candidate passes with the wanted power; control: the recipe broken on"
    yield "purpose, with the loss the policy expects of it."


def _judging(endpoint: EndpointPlan, recipes: int) -> Iterator[str]:
    judging = endpoint.judging
    assert judging is not None
    yield (
        f"{endpoint.name}: {endpoint.size} questions x 2 turns x {judging.generations} generations x "
        f"{judging.judgments} judgments x {recipes + 1} runs = {judging.calls} judge calls "
        "(rerun and controls come on top)"
    )
    largest = endpoint.margins[0].largest_sd
    yield (
        f"{endpoint.name}: planned power {_probability(endpoint.margins[0].equal.passes)} (asked: "
        f"{judging.planned_power_min:g}; reached with a standard deviation up to {largest or 0.0:.2f}): "
        f"{judging.consequence}"
    )
    yield ""


def _plot(endpoint: EndpointPlan) -> Iterator[str]:
    """Yield at most 12 lines: probability against the true difference."""
    margin = endpoint.margins[0].margin
    yield f"{endpoint.name}, margin {margin:g}{_unit(endpoint)}: probability of PASS (*) and FAIL (x)"
    for row in range(_ROWS):
        level = 1.0 - row / (_ROWS - 1)
        label = f"{level:4.2f} |" if row % 2 == 0 else "     |"
        yield (label + "".join(_cell(truth, row) for truth in endpoint.curve)).rstrip()
    yield "     +" + "-" * (_STEP * len(endpoint.curve))
    marked = {f"{k * margin / 2:+g}": k * margin / 2 for k in range(-4, 2)}
    line = [" "] * (_STEP * len(endpoint.curve) + 6)
    for text, value in marked.items():
        for column, truth in enumerate(endpoint.curve):
            if abs(truth.true_difference - value) < margin * 1e-6:
                start = _STEP * column + 1 - len(text) // 2
                line[max(0, start) : max(0, start) + len(text)] = text
    yield ("      " + "".join(line).rstrip() + f"  true difference,{_unit(endpoint)}").rstrip()


def _cell(truth: TruePoint, row: int) -> str:
    here = [
        mark for mark, value in (("*", truth.passes), ("x", truth.fails)) if round((1.0 - value) * (_ROWS - 1)) == row
    ]
    return f" {'#' if len(here) == 2 else here[0] if here else ' '} "


def _outcome(plan: Plan) -> Iterator[str]:
    yield from (f"TAKEN FOR GRANTED: {assumption}" for assumption in plan.assumptions)
    bound = "-" if plan.certify_power is None else _probability(plan.certify_power)
    all_of_them = "An equal recipe is" if plan.recipes == 1 else f"If all {plan.recipes} recipes are equal, all are"
    if plan.promises:
        yield f"{all_of_them} certified with probability {bound}, if the assumptions hold."
    else:
        said = f"{all_of_them[0].lower()}{all_of_them[1:]} certified with probability {bound}"
        yield f"NO VERDICT CAN BE PROMISED ({said})."
    if plan.reach is not None:
        guarded = f", {plan.reach.guarded:.3f} are kept from it by a guard alone" if plan.reach.guarded else ""
        yield (
            f"Drawn {plan.reach.draws} times: the whole verdict, Holm and guards included; each equal recipe is "
            f"certified with probability {_probability(plan.reach.each)}{guarded}."
        )
    for warning in plan.warnings:
        yield f"WARNING: {warning}"


def _unit(endpoint: EndpointPlan) -> str:
    return " rating" if endpoint.kind == "paired_mean" else " points"


def _probability(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
