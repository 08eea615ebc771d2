"""The gate: from test statistics to verdicts, for one release or for thousands of simulated ones.

In: arrays of statistics and p-values. Out: arrays of states and outcomes.
May not know: records, comparisons, messages. `decide` and the calibration tests go through the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from evalkit.statistics.bounded_means import fewest_units, log_evidence
from evalkit.statistics.checks import Floats
from evalkit.statistics.multiplicity import holm
from evalkit.statistics.paired_means import corrected_statistics, correction_is_monotone, t_statistics
from evalkit.verdict.outcome import EndpointState, Outcome

ASSUMED_UNITS = 30
"""Fewest units of a mean whose policy assumes rare collapses away: below, not even skewness can be judged."""

Booleans: TypeAlias = NDArray[np.bool_]

STATES = (EndpointState.FAIL, EndpointState.OPEN, EndpointState.PASS)
"""States in the order of the codes -1, 0, 1 of `endpoint_states`."""

OUTCOMES = (Outcome.INVALID, Outcome.REJECTED, Outcome.CERTIFIED, Outcome.INCONCLUSIVE)
"""Outcomes in the order of the codes 0 to 3 of `outcomes`; also the order in which they are looked for."""


@dataclass(frozen=True, kw_only=True)
class MeanRule:
    """How a mean difference is tested.

    Attributes:
        alpha: one-sided level of the endpoint.
        recipes: recipes of the release; Holm's first step is at alpha / recipes.
        largest_loss: the most that one unit can lose, from the best score to the worst; None where the policy assumes
            that no loss hides in collapses too rare to be seen.
    """

    alpha: float
    recipes: int
    largest_loss: float | None

    @property
    def first_step_alpha(self) -> float:
        """The smallest level at which the test is read."""
        return self.alpha / self.recipes

    @property
    def levels(self) -> tuple[float, ...]:
        """Every level at which Holm may read the test, smallest first."""
        return tuple(self.alpha / left for left in range(self.recipes, 0, -1))

    def fewest(self, margin: float) -> int:
        """Return the fewest units that may carry a verdict."""
        if self.largest_loss is None:
            return ASSUMED_UNITS
        return max(2, fewest_units(margin, self.largest_loss, self.first_step_alpha))


@dataclass(frozen=True, kw_only=True)
class MeanStatistics:
    """Statistics against "the loss is at least the margin", shape (...); each is compared with Student's t.

    Attributes:
        t: plain t.
        corrected: t corrected for a tail of losses.
        collapse: the t whose p-value is that of the bet against losses that the units may not show; infinite where
            rare collapses are assumed away.
    """

    t: Floats
    corrected: Floats
    collapse: Floats

    @property
    def certifying(self) -> Floats:
        """The one that decides: a PASS needs all three."""
        least: Floats = np.minimum(np.minimum(self.t, self.corrected), self.collapse)
        return least


_LEAST_P, _MOST_P = 1e-300, 1.0 - 1e-12
"""Where a p-value has no quantile of t that is finite."""


def mean_statistics(differences: Floats, margin: float, rule: MeanRule, *, reserve: float = 0.0) -> MeanStatistics:
    """Test the means of differences, shape (..., n), against a loss of `margin`; `reserve` narrows it for the t tests.

    The bet needs no reserve: its evidence never rises when a difference falls, so the unfavourable fill is the worst.
    """
    t = t_statistics(differences, margin - reserve)
    if rule.largest_loss is None:
        collapse = np.full_like(t, np.inf)
    else:
        evidence = log_evidence(differences, margin, rule.largest_loss, rule.first_step_alpha)
        p = np.clip(np.exp(-np.maximum(evidence, 0.0)), _LEAST_P, _MOST_P)
        collapse = -np.asarray(stdtrit(differences.shape[-1] - 1, p))
    return MeanStatistics(t=t, corrected=corrected_statistics(differences, margin - reserve), collapse=collapse)


def mean_rejecting(differences: Floats, margin: float, *, reserve: float = 0.0) -> Floats:
    """Return the statistic that decides on FAIL, shape (...): t against the margin, corrected for a tail of gains.

    It is the larger of both, so correcting never makes a rejection easier. Nothing is asked of gains that may hide in
    units that were not seen: a recipe whose units show a loss beyond the margin is turned away, which is the safe side.
    """
    mirrored: Floats = -corrected_statistics(-differences, -(margin + reserve))
    return mirrored


def mean_reserve(width: float, n: int, rule: MeanRule) -> float:
    """Return by how much margins move, so that no missing answer could have changed PASS or FAIL to OPEN.

    A fill at the end of the scale lowers the mean, but it may lower the spread too (where it hides an outlier) and so
    raise t. Let the true differences be those of a fill plus e, 0 <= |e_i| <= w_i, and c the critical t. The mean gains
    at least sum(e^2)/(n max w), the standard error at most sqrt(sum(e^2)/(n(n - 1))) (the standard deviation is a
    seminorm), so the test loses at most the maximum over x = sqrt(sum(e^2)) of c x/sqrt(n(n - 1)) - x^2/(n max w),
    which is c^2 max(w)/(4(n - 1)).

    The corrected t needs no more. Say the truth is no PASS. Either t <= c there, and the reserve sees to it; or the
    truth has a tail of losses that corrects t to c or below. Go from the truth to the fill, each difference falling:
    while the skewness stays negative the corrected t cannot rise above c (`correction_is_monotone`), and where it turns
    positive t itself is at most c, from where the reserve holds again.

    Args:
        width: the largest w.
        n: planned units.
        rule: names the smallest level at which the test is read.
    """
    critical = float(stdtrit(n - 1, 1.0 - rule.first_step_alpha))
    return critical**2 * width / (4.0 * (n - 1))


def fills_are_safe(n: int, rule: MeanRule) -> bool:
    """Say whether the argument of `mean_reserve` holds for n units at every level; it does but for very few units."""
    return all(correction_is_monotone(n, float(stdtrit(n - 1, 1.0 - level))) for level in rule.levels)


def mean_p(statistics: ArrayLike, n: int) -> Floats:
    """Return the one-sided p-value of "the loss is at least the margin" for a certifying statistic of n units."""
    p: Floats = np.asarray(stdtr(n - 1, -np.asarray(statistics, dtype=np.float64)))
    return p


def endpoint_states(certifying: ArrayLike, rejecting: ArrayLike, critical: ArrayLike) -> NDArray[np.int8]:
    """Return 1 for PASS, -1 for FAIL, 0 for OPEN; broadcastable arrays.

    Args:
        certifying: statistic against the margin under the unfavourable fill.
        rejecting: the same under the favourable fill.
        critical: one-sided quantile. Equality is OPEN, and a NaN too.
    """
    passes = np.asarray(certifying) > np.asarray(critical)
    fails = np.asarray(rejecting) < -np.asarray(critical)
    # The unfavourable fill is never above the favourable one, so both at once would be a contradiction: not a pass.
    states: NDArray[np.int8] = np.where(fails, -1, np.where(passes, 1, 0)).astype(np.int8)
    return states


def recipe_p(p_certify: ArrayLike, alphas: Sequence[float], family_alpha: float) -> Floats:
    """Return one p-value per recipe, min(1, max over endpoints of p family_alpha/alpha), from shape (..., endpoints).

    >>> float(recipe_p([0.001, 0.03], [0.025, 0.05], 0.05))
    0.03
    """
    scaled = np.asarray(p_certify, dtype=np.float64) * (family_alpha / np.asarray(alphas, dtype=np.float64))
    worst: Floats = np.minimum(1.0, scaled.max(axis=-1))
    return worst


def holm_rejections(p: ArrayLike, family_alpha: float) -> Booleans:
    """Apply Holm's correction over the last axis, (..., recipes); True where "not good enough" is rejected."""
    values = np.asarray(p, dtype=np.float64)
    if values.shape[-1] == 1:
        return values < family_alpha
    return np.apply_along_axis(lambda row: np.array(holm(row, family_alpha).reject), -1, values)


def outcomes(
    states: ArrayLike, rejected_by_holm: ArrayLike, invalid: ArrayLike, demoted: ArrayLike
) -> NDArray[np.int8]:
    """Return codes into `OUTCOMES`; the first that fits wins: INVALID, REJECTED, CERTIFIED, INCONCLUSIVE.

    Args:
        states: of gating endpoints, shape (..., endpoints).
        rejected_by_holm: shape (...).
        invalid: something forbids judging, shape (...); without a gating endpoint it is always so.
        demoted: a guard, a cap or a rule forbids a certificate, shape (...).
    """
    codes = np.asarray(states)
    none = codes.shape[-1] == 0
    fails = (codes == -1).any(axis=-1)
    passes = (codes == 1).all(axis=-1) & np.asarray(rejected_by_holm) & ~np.asarray(demoted)
    chosen = np.select([np.asarray(invalid) | none, fails, passes], [0, 1, 2], default=3)
    return np.asarray(chosen, dtype=np.int8)
