"""Designs: a test with its size and spread, asked what it can show.

In: items and discordance, or units and standard deviation; levels; the wanted power. Out: probabilities and sizes.
May not know: policies, endpoints, verdicts.

Proportions: Tango's test with exact powers (every table that matters is added up). Means: paired t with noncentral t.
Both rest on the assumed spread: with it, not without it, a power is a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from evalkit.errors import EstimateError
from evalkit.planning.figures import TruePoint
from evalkit.statistics.power import (
    approximate_items_needed,
    exact_power,
    items_needed,
    largest_sd,
    minimum_detectable_effect,
    minimum_items,
    noncentral_power_t,
    questions_needed,
    rejection_power,
)

POINT = 0.01
"""One point of accuracy."""

MOST_EXACT_ITEMS = 30_000
"""Above this the items needed are the normal approximation: exact ones take seconds and differ by less than 1 %."""


class Design(Protocol):
    """What a plan asks of a test."""

    def at(self, margin: float, true_difference: float) -> TruePoint:
        """Return what happens at one true difference."""

    def possible(self, true_difference: float) -> bool:
        """Return whether such a true difference can be."""

    def needed(self, margin: float, alpha: float) -> tuple[int | None, bool]:
        """Return the size for the wanted power with an equal candidate, None if too large; and whether it is exact."""

    def minimum(self, margin: float, alpha: float) -> int | None:
        """Return the fewest items with which a perfect copy passes; None if there is no such number."""

    def detectable(self) -> float | None:
        """Return the smallest margin with the wanted power at the endpoint's level; None if there is none."""

    def largest_sd(self, margin: float) -> float | None:
        """Return the largest standard deviation with the wanted power at the endpoint's level; None for proportions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProportionDesign:
    """Marks of 0 and 1 on n items of which the share `discordance` flips; margins and differences in points."""

    n: int
    discordance: float
    alpha: float
    first_step_alpha: float
    power: float

    def at(self, margin: float, true_difference: float) -> TruePoint:
        """Return what happens at one true difference; errors as `exact_power`."""
        n, rho, delta, true = self.n, self.discordance, margin * POINT, true_difference * POINT
        passes = exact_power(n, rho, delta, alpha=self.alpha, true_difference=true)
        strict = passes
        if self.first_step_alpha != self.alpha:
            strict = exact_power(n, rho, delta, alpha=self.first_step_alpha, true_difference=true)
        fails = rejection_power(n, rho, delta, alpha=self.alpha, true_difference=true)
        return TruePoint(true_difference=true_difference, passes=passes, passes_first_step=strict, fails=fails)

    def possible(self, true_difference: float) -> bool:
        """Every gained or lost item is a flip."""
        return abs(true_difference) * POINT <= self.discordance

    def needed(self, margin: float, alpha: float) -> tuple[int | None, bool]:
        """Return items needed."""
        rho, delta = self.discordance, margin * POINT
        rough = approximate_items_needed(rho, delta, alpha=alpha, power=self.power)
        if rough > MOST_EXACT_ITEMS:
            return rough, False
        return items_needed(rho, delta, alpha=alpha, power=self.power), True

    def minimum(self, margin: float, alpha: float) -> int | None:
        """Return the fewest items with which a copy without a flip passes."""
        return minimum_items(margin * POINT, alpha)

    def detectable(self) -> float | None:
        """Return the smallest margin with the wanted power, points."""
        try:
            return minimum_detectable_effect(self.n, self.discordance, alpha=self.alpha, power=self.power) / POINT
        except EstimateError:
            return None

    def largest_sd(self, margin: float) -> float | None:  # noqa: ARG002 - proportions have no free spread
        """Return None."""
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanDesign:
    """One difference for each of n units with standard deviation `sd`; margins and differences in the unit of `sd`."""

    n: int
    sd: float
    alpha: float
    first_step_alpha: float
    power: float

    def at(self, margin: float, true_difference: float) -> TruePoint:
        """Return what happens at one true difference; errors as `noncentral_power_t`."""
        n, sd, true = self.n, self.sd, true_difference
        return TruePoint(
            true_difference=true,
            passes=noncentral_power_t(n, sd, margin, self.alpha, true_difference=true),
            passes_first_step=noncentral_power_t(n, sd, margin, self.first_step_alpha, true_difference=true),
            # P(T < -t) at the shift (true + margin) is P(T > t) at the shift of the other sign.
            fails=noncentral_power_t(n, sd, margin, self.alpha, true_difference=-true - 2 * margin),
        )

    def possible(self, true_difference: float) -> bool:  # noqa: ARG002 - a mean can be anything
        """Return True."""
        return True

    def needed(self, margin: float, alpha: float) -> tuple[int | None, bool]:
        """Return units needed; None above the number that no data set has."""
        try:
            return questions_needed(self.sd, margin, alpha=alpha, power=self.power), True
        except EstimateError:
            return None, True

    def minimum(self, margin: float, alpha: float) -> int | None:  # noqa: ARG002 - a perfect copy has no variance
        """Return None."""
        return None

    def detectable(self) -> float | None:
        """Return the smallest margin with the wanted power: power depends on margin/sd alone."""
        return self.sd / largest_sd(self.n, 1.0, alpha=self.alpha, power=self.power)

    def largest_sd(self, margin: float) -> float | None:
        """Return the largest standard deviation with the wanted power."""
        return largest_sd(self.n, margin, alpha=self.alpha, power=self.power)
