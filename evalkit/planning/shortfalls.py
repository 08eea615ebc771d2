"""Why a plan cannot promise its verdict, in sentences.

In: figures of one margin or control. Out: sentences; none if there is nothing to say.
May not know: how the figures were found.
"""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.planning.figures import ControlPlan, MarginPlan

_HOLM = " at the first step of Holm's correction for several recipes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """How one endpoint is spoken of.

    Attributes:
        size: planned number of units.
        units: "items" or "questions".
        unit: unit of margins, with a space in front: " points" or " on the judge's scale".
        spread: what is assumed: "of which 6 % flip", "with a standard deviation of 1.4".
        population: units that exist at all; None if unknown.
    """

    size: int
    units: str
    unit: str
    spread: str
    population: int | None


def margin_shortfalls(margin: MarginPlan, words: Words, power_min: float) -> tuple[str, ...]:
    """Return why an equal candidate may miss a margin: too few items for anyone, or too little power."""
    wanted = f"a margin of {margin.margin:g}{words.unit}"
    for fewest, where in ((margin.minimum, ""), (margin.minimum_first_step, _HOLM)):
        if fewest is not None and words.size < fewest:
            sentence = (
                f"with {words.size} {words.units} even a perfect copy cannot pass {wanted}{where}; "
                f"at least {fewest} are needed"
            )
            return (sentence,)
    levels = (
        (margin.equal.passes, margin.needed, ""),
        (margin.equal.passes_first_step, margin.needed_first_step, _HOLM),
    )
    for power, needed, where in levels:
        if power < power_min:
            sentence = (
                f"an equal candidate passes {wanted} with probability {power:.3f}{where}, less than {power_min:g}: "
                f"{words.size} {words.units} {words.spread}; {_needed(needed, words, exact=margin.needed_exact)}"
            )
            return (sentence,)
    return ()


def _needed(needed: int | None, words: Words, *, exact: bool) -> str:
    if needed is None:
        return f"no number of {words.units} that could be had is enough"
    text = f"{'' if exact else 'about '}{needed} {words.units} would be needed"
    if words.population is not None and needed > words.population:
        return f"{text}, but only {words.population} exist"
    return text


def control_shortfall(name: str, control: ControlPlan, power_min: float) -> tuple[str, ...]:
    """Return why a control may not fail this endpoint, where the policy asks that it does."""
    if control.fails >= power_min:
        return ()
    sentence = (
        f"{name}: the control, expected to lose {control.loss:g}, fails it with probability {control.fails:.3f}, less "
        f"than {power_min:g}; a control that does not fail makes every verdict INVALID (assay-failed)"
    )
    return (sentence,)
