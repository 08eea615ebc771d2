"""The figures of a plan, unrounded.

In: nothing. Out: the frozen parts a `Plan` is made of.
May not know: how a figure was found, or how it is shown.

Differences and margins are in the unit of their endpoint: points of accuracy (1 point = 0.01), or the judge's scale.
"First step" is the strictest level Holm's correction over the recipes asks of an endpoint, its alpha over their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["paired_proportion", "soft_accuracy", "paired_mean"]
LowPowerChoice = Literal["effort", "advisory", "cap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TruePoint:
    """What happens to one endpoint at one true difference.

    Attributes:
        true_difference: candidate minus baseline.
        passes: probability that the endpoint passes at its own level.
        passes_first_step: the same at the level of Holm's first step.
        fails: probability that it fails.
    """

    true_difference: float
    passes: float
    passes_first_step: float
    fails: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MarginPlan:
    """What one margin asks for.

    Attributes:
        margin: the largest loss allowed.
        claim: what a certificate calls it.
        powers: at no true difference and at a loss of a quarter and of half the margin; a loss that the assumed
            discordance does not allow is left out.
        needed: items (questions) for the wanted power with an equal candidate; None if no data set is that large.
        needed_first_step: the same at the level of Holm's first step.
        needed_exact: whether these are exact, not the normal approximation.
        minimum: fewest items with which a perfect copy passes; None for means, which have no such number.
        minimum_first_step: the same at the level of Holm's first step.
        largest_sd: largest standard deviation with the wanted power; None for proportions.
    """

    margin: float
    claim: str
    powers: tuple[TruePoint, ...]
    needed: int | None
    needed_first_step: int | None
    needed_exact: bool
    minimum: int | None
    minimum_first_step: int | None
    largest_sd: float | None

    @property
    def equal(self) -> TruePoint:
        """What happens to a candidate that is as good as the baseline."""
        return self.powers[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlPlan:
    """Whether a recipe broken on purpose would be seen.

    Attributes:
        loss: what the policy expects it to lose.
        discordance: share of items expected to flip; None for means.
        fails: probability that it fails the deciding margin.
        does_not_pass: probability that it does not pass it.
    """

    loss: float
    discordance: float | None
    fails: float
    does_not_pass: float


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgingPlan:
    """What a judged endpoint costs, and the policy's rule for low power.

    Attributes:
        generations: answers to each question.
        judgments: judgments of each answer.
        calls: ratings of the baseline's and the recipes' answers, two turns each; without rerun, controls and re-asks.
        planned_power_min: power the rule asks for at the endpoint's own level.
        low_power: whether it is missed.
        low_power_choice: what the policy then does.
        consequence: the same in words.
    """

    generations: int
    judgments: int
    calls: int
    planned_power_min: float
    low_power: bool
    low_power_choice: LowPowerChoice
    consequence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EndpointPlan:
    """Plan of one endpoint.

    Attributes:
        name, kind, task: of the endpoint.
        gating: whether the policy lets it gate; `decides`: the same after the rule for low power.
        size: planned items or questions.
        spread: share of items assumed to flip, or standard deviation of the differences, in the endpoint's unit.
        measured: whether `spread` was given, not taken from the policy.
        alpha, first_step_alpha: one-sided levels.
        power_min: the wanted power.
        detectable: smallest margin an equal candidate passes with the wanted power; None if there is none.
        margins: one for each claim; the first decides.
        control: None where the policy expects no certain loss.
        judging: None for endpoints without a judge.
        curve: what happens from a loss of two margins to a gain of half a margin, deciding margin.
        power: chance that an equal candidate passes at Holm's first step; 0 where the policy rules CERTIFIED out.
        faults: why it cannot promise its verdict, one sentence each.
        notes: what else falls short.
    """

    name: str
    kind: Kind
    task: str
    gating: bool
    decides: bool
    size: int
    spread: float
    measured: bool
    alpha: float
    first_step_alpha: float
    power_min: float
    detectable: float | None
    margins: tuple[MarginPlan, ...]
    control: ControlPlan | None
    judging: JudgingPlan | None
    curve: tuple[TruePoint, ...]
    power: float
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def possible(self) -> bool:
        """Whether a perfect copy could pass the deciding margin at all, at the first step of Holm's correction."""
        first = self.margins[0]
        least = max(first.minimum or 0, first.minimum_first_step or 0)
        return self.size >= least
