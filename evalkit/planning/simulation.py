"""The whole verdict, drawn many times: how often are all equal recipes of a release certified?

In: a policy, the size and spread of every deciding endpoint, the number of recipes. Out: `Reach`.
Must not depend on: runs, records.

Every draw is a release whose recipes are as good as the baseline. It goes through the functions that `decide` uses:
statistics at every level, one p-value for each recipe, Holm over all of them, guards, caps. Recipes are drawn
independently; that they share a baseline makes it likelier that all pass, or none. Differences of means are normal.
Guards on the length of answers and on unreadable ones are left out, since an equal recipe has the baseline's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtrc, ndtr, ndtri, stdtrit

from evalkit.policy import Policy
from evalkit.statistics.checks import Floats
from evalkit.statistics.tango import tango_scores
from evalkit.verdict import Outcome
from evalkit.verdict.outcome import (
    OUTCOMES,
    Booleans,
    MeanRule,
    endpoint_states,
    holm_rejections,
    mean_p,
    mean_rejecting,
    mean_statistics,
    outcomes,
    recipe_p,
)

DRAWS = 4_000
"""Releases drawn: a probability of 0.8 is known to within 0.013."""

_FEWEST_DRAWS, _MOST_NUMBERS = 400, 12_000_000
"""Means of very many items are drawn less often, so that a plan takes seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reach:
    """How often equal recipes are certified.

    Attributes:
        every: share of releases of which every recipe is certified.
        each: share of recipes that are certified.
        guarded: share of recipes that only a guard keeps from a certificate.
        draws: releases drawn.
    """

    every: float
    each: float
    guarded: float
    draws: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One deciding endpoint as it is drawn; margin and spread as proportion or in the unit of the score.

    Attributes:
        size: items or questions.
        margin: the one of the first claim.
        spread: share of items that flip, or standard deviation of a difference.
        alpha: one-sided level.
        rule: how a mean is tested; None for right or wrong.
        rating: the guards of ratings apply.
        scale: lowest and highest difference of a mean.
    """

    size: int
    margin: float
    spread: float
    alpha: float
    rule: MeanRule | None
    rating: bool
    scale: float


def simulate(policy: Policy, endpoints: Sequence[Drawn], recipes: int, *, capped: bool) -> Reach:
    """Draw releases of equal recipes; the same policy and sizes give the same numbers.

    Args:
        policy: rules.
        endpoints: those that decide, at least one.
        recipes: candidates of the release.
        capped: planned power is too low and the policy allows no certificate.
    """
    most = max((one.size for one in endpoints if one.rule is not None), default=1)
    draws = max(_FEWEST_DRAWS, min(DRAWS, _MOST_NUMBERS // (most * recipes)))
    rng = np.random.default_rng(policy.seeds.bootstrap)
    found = [_drawn(policy, one, (draws, recipes), rng) for one in endpoints]
    p = recipe_p(np.stack([each[0] for each in found], axis=-1), [one.alpha for one in endpoints], _family(policy))
    states = np.stack([each[1] for each in found], axis=-1)
    breached = np.any([each[2] for each in found], axis=0)
    rejected = holm_rejections(p, _family(policy))
    certified = OUTCOMES.index(Outcome.CERTIFIED)
    forbidden = capped or not policy.certifies
    passed = outcomes(states, rejected, False, breached | forbidden) == certified
    free = outcomes(states, rejected, False, forbidden) == certified
    return Reach(
        every=float(passed.all(axis=-1).mean()),
        each=float(passed.mean()),
        guarded=float((free & ~passed).mean()),
        draws=draws,
    )


def _family(policy: Policy) -> float:
    return policy.multiplicity.family_alpha


_Found = tuple[Floats, "np.ndarray", Booleans]
"""p-values, states and breached guards, each of shape (draws, recipes)."""


def _drawn(policy: Policy, one: Drawn, shape: tuple[int, int], rng: np.random.Generator) -> _Found:
    return _proportion(policy, one, shape, rng) if one.rule is None else _mean(policy, one, one.rule, shape, rng)


def _proportion(policy: Policy, one: Drawn, shape: tuple[int, int], rng: np.random.Generator) -> _Found:
    half = one.spread / 2.0
    counts = rng.multinomial(one.size, [half, half, 1.0 - one.spread], size=shape)
    lost, gained = counts[..., 0], counts[..., 1]
    z, critical = tango_scores(lost, gained, one.size, -one.margin), -float(ndtri(one.alpha))
    gain = tango_scores(lost, gained, one.size, policy.guards.gain_points / 100.0) > critical
    return ndtr(-z), endpoint_states(z, z, critical), gain


def _mean(policy: Policy, one: Drawn, rule: MeanRule, shape: tuple[int, int], rng: np.random.Generator) -> _Found:
    d = np.clip(one.spread * rng.standard_normal((*shape, one.size)), -one.scale, one.scale)
    certifying = mean_statistics(d, one.margin, rule).certifying
    critical = float(stdtrit(one.size - 1, 1.0 - one.alpha))
    states = endpoint_states(certifying, mean_rejecting(d, one.margin), critical)
    lower = d.mean(axis=-1) - critical * d.std(axis=-1, ddof=1) / np.sqrt(one.size)
    guards = policy.guards
    breached = lower > (guards.gain_rating if one.rating else guards.gain_points / 100.0)
    if one.rating:  # as with a rerun in which no question dropped so far
        drops = np.count_nonzero(d <= -guards.catastrophic_drop, axis=-1)
        usual = max(0.5 / (one.size + 1), guards.catastrophic_floor)
        p = np.where(drops > 0, bdtrc(np.maximum(drops - 1, 0), one.size, usual), 1.0)
        breached |= p < guards.catastrophic_p
    return mean_p(certifying, one.size), states, breached
