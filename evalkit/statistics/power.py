"""What a planned comparison can show: power, smallest margin, items and questions needed.

In: planning values (discordance, standard deviation, margin, error rates). Out: probabilities, sizes, margins.
Must not depend on: where the planning values come from, or how much a run costs.

Accuracies: `exact_power`, `rejection_power` and `coverage` (module `enumeration`) are free of approximation; the
`approximate_*` formulas are optimistic when flips are rare and serve as starting points. Unpaired designs are the same
formulas with rho = 2p(1-p). Means: noncentral t (module `paired_means`). Every `alpha` is one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import bdtrc, gammaln, ndtr, ndtri, xlog1py, xlogy

from evalkit.errors import EstimateError
from evalkit.statistics.checks import (
    Floats,
    Integers,
    checked_between,
    checked_count,
    checked_number,
    checked_positive,
    two_sided_z,
)
from evalkit.statistics.paired_means import noncentral_power_t
from evalkit.statistics.tango import tango_scores

# Exact operating characteristics of Tango's test, by adding up every table that matters.
#
# Model: each of n items is a loss with probability (rho - Delta)/2, a gain with (rho + Delta)/2, else concordant, so
# the discordant total is binomial and the gains among m discordant pairs are binomial given m. z rises with the gains
# at fixed m, so one critical count for each m settles the whole row. Totals outside a window of 8 standard deviations
# plus 40 are left out; they weigh less than 1e-12 together. "Exact" means free of the normal approximation, not of
# planning values.


def exact_power(n: int, rho: float, margin: float, *, alpha: float = 0.025, true_difference: float = 0.0) -> float:
    """Return P(z(-margin) > z_{1-alpha}): the chance to show a loss smaller than the margin; `alpha` is one-sided.

    At `true_difference` = -margin this is the type-I error of the test.

    >>> round(exact_power(14042, 0.03, 0.005), 3), round(exact_power(14042, 0.03, 0.01, true_difference=-0.01), 5)
    (0.926, 0.02452)

    Raises:
        EstimateError: fewer than two items, a rate or margin outside (0, 1), alpha outside (0, 0.5], or a true
            difference larger than the discordance rate allows.
    """
    gain_share = _checked_gain_share(rho, true_difference)
    totals, weights = discordant_totals(n, rho)
    critical = _first_above(n, totals, -checked_between("margin", margin, 0.0, 1.0), _one_sided_z(alpha))
    return _weigh(weights, _at_least(critical, totals, gain_share))


def rejection_power(n: int, rho: float, margin: float, *, alpha: float = 0.025, true_difference: float) -> float:
    """Return P(z(-margin) < -z_{1-alpha}): the chance to show a loss larger than the margin; `alpha` is one-sided.

    >>> round(rejection_power(14042, 0.03, 0.01, true_difference=-0.015), 2)
    0.94

    Raises:
        EstimateError: as `exact_power`.
    """
    gain_share = _checked_gain_share(rho, true_difference)
    totals, weights = discordant_totals(n, rho)
    critical = _first_above(
        n, totals, -checked_between("margin", margin, 0.0, 1.0), -_one_sided_z(alpha), or_equal=True
    )
    return _weigh(weights, 1.0 - _at_least(critical, totals, gain_share))


def coverage(n: int, rho: float, *, level: float = 0.95, true_difference: float = 0.0) -> float:
    """Return the chance that Tango's interval contains the true difference: P(|z(Delta)| <= z).

    >>> round(coverage(200, 0.06), 4)
    0.9559

    Raises:
        EstimateError: as `exact_power`; `level` not inside (0, 1).
    """
    gain_share = _checked_gain_share(rho, true_difference)
    totals, weights = discordant_totals(n, rho)
    z = two_sided_z(level)
    inside = _first_above(n, totals, true_difference, -z, or_equal=True)
    beyond = _first_above(n, totals, true_difference, z)
    return _weigh(weights, _at_least(inside, totals, gain_share) - _at_least(beyond, totals, gain_share))


def discordant_totals(n: int, rho: float) -> tuple[Integers, Floats]:
    """Return the likely numbers of discordant pairs and their probabilities, each of shape (k,), which add up to 1.

    Raises:
        EstimateError: fewer than two items or a rate outside (0, 1).
    """
    n, rho = checked_count("n", n, minimum=2), checked_between("rho", rho, 0.0, 1.0)
    reach = 8.0 * np.sqrt(n * rho * (1.0 - rho)) + 40.0
    totals = np.arange(max(0, int(n * rho - reach)), min(n, int(n * rho + reach)) + 1, dtype=np.int64)
    log_weights = xlogy(totals, rho) + xlog1py(n - totals, -rho) - gammaln(totals + 1.0) - gammaln(n - totals + 1.0)
    weights = np.asarray(np.exp(log_weights - log_weights.max()), dtype=np.float64)
    return totals, weights / weights.sum()


def _first_above(n: int, totals: Integers, x: float, threshold: float, *, or_equal: bool = False) -> Integers:
    """Return, for every total m, the smallest number of gains whose z(x) is above the threshold; m + 1 if none is."""
    low, high = np.full(totals.shape, -1, dtype=np.int64), totals + 1
    while (high - low > 1).any():
        middle = (low + high) // 2
        # Where a row is settled the middle is its lower end, which may be -1: look at 0 instead, and keep the row.
        gains = np.maximum(middle, 0)
        z = tango_scores(totals - gains, gains, n, x)
        above = z >= threshold if or_equal else z > threshold
        unsettled = high - low > 1
        high = np.where(unsettled & above, middle, high)
        low = np.where(unsettled & ~above, middle, low)
    return high


def _at_least(gains: Integers, totals: Integers, gain_share: float) -> Floats:
    """Return P(Binomial(m, share) >= gains) for every row."""
    return np.asarray(bdtrc(gains - 1.0, totals, gain_share), dtype=np.float64)


def _weigh(weights: Floats, conditional: Floats) -> float:
    probability = checked_number("probability", weights @ conditional)
    return min(1.0, max(0.0, probability))


def _checked_gain_share(rho: float, true_difference: float) -> float:
    rho = checked_between("rho", rho, 0.0, 1.0)
    true_difference = checked_number("true difference", true_difference)
    if abs(true_difference) > rho:
        raise EstimateError(
            f"a true difference of {true_difference:g} needs a discordance of at least {abs(true_difference):g}, "
            f"but rho is {rho:g}"
        )
    return (rho + true_difference) / (2.0 * rho)


def _one_sided_z(alpha: float) -> float:
    return -float(ndtri(checked_between("alpha", alpha, 0.0, 0.5)))


__all__ = [
    "approximate_items_needed",
    "approximate_minimum_detectable_effect",
    "approximate_power",
    "coverage",
    "exact_power",
    "items_needed",
    "largest_sd",
    "minimum_detectable_effect",
    "minimum_items",
    "noncentral_power_t",
    "planning_sd",
    "questions_needed",
    "rejection_power",
]

_MOST_ITEMS = 20_000_000
_HALVINGS = 50


def approximate_power(
    n: int, rho: float, margin: float, *, alpha: float = 0.025, true_difference: float = 0.0
) -> float:
    """Return Phi((Delta + margin)/sqrt((rho - Delta^2)/n) - z_{1-alpha}).

    >>> round(approximate_power(14042, 2 * 0.86 * 0.14, 0.01), 3)  # unpaired, at 86% accuracy
    0.675

    Raises:
        EstimateError: no items, a rate or margin outside (0, 1), or a true difference that rho does not allow.
    """
    n, margin = checked_count("n", n, minimum=1), checked_between("margin", margin, 0.0, 1.0)
    se = math.sqrt(_variance(rho, true_difference) / n)
    return float(ndtr((true_difference + margin) / se + ndtri(checked_between("alpha", alpha, 0.0, 0.5))))


def _variance(rho: float, true_difference: float) -> float:
    rho, true_difference = checked_between("rho", rho, 0.0, 1.0), checked_number("true difference", true_difference)
    if abs(true_difference) > rho:
        raise EstimateError(f"true difference {true_difference:g} is not possible with discordance {rho:g}")
    return rho - true_difference**2


def _z_sum(alpha: float, power: float) -> float:
    alpha, power = checked_between("alpha", alpha, 0.0, 0.5), checked_between("power", power, 0.5, 1.0)
    return float(ndtri(1.0 - alpha) + ndtri(power))


def approximate_minimum_detectable_effect(n: int, rho: float, *, alpha: float = 0.025, power: float = 0.8) -> float:
    """Return (z_{1-alpha} + z_power) sqrt(rho/n): the margin an equal candidate passes with the wanted power.

    >>> round(approximate_minimum_detectable_effect(14042, 0.03), 5)
    0.00409

    Raises:
        EstimateError: no items, or a rate outside its range (`power` from 0.5 to 1).
    """
    n, rho = checked_count("n", n, minimum=1), checked_between("rho", rho, 0.0, 1.0)
    return _z_sum(alpha, power) * math.sqrt(rho / n)


def minimum_detectable_effect(
    n: int, rho: float, *, alpha: float = 0.025, power: float = 0.8, true_difference: float = 0.0
) -> float:
    """Return the smallest margin for which `exact_power` reaches `power` at `true_difference`, to within 1e-12.

    >>> round(minimum_detectable_effect(14042, 0.03), 5)
    0.00411

    Raises:
        EstimateError: as `exact_power`; `power` outside (0.5, 1); no margin below 1 has that power.
    """
    power = checked_between("power", power, 0.5, 1.0)

    def reached(margin: float) -> bool:
        return exact_power(n, rho, margin, alpha=alpha, true_difference=true_difference) >= power

    low, high = 0.0, 1.0 - 1e-9
    if not reached(high):
        raise EstimateError(f"{n} items have no power of {power:g} for any margin at discordance {rho:g}")
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def minimum_items(margin: float, alpha: float = 0.025) -> int:
    """Return the fewest items with which a copy without a single discordant pair passes: sqrt(n m/(1-m)) > z.

    >>> minimum_items(0.01), minimum_items(0.005)
    (381, 765)

    Raises:
        EstimateError: `margin` outside (0, 1) or `alpha` outside (0, 0.5).
    """
    margin = checked_between("margin", margin, 0.0, 1.0)
    z = float(ndtri(checked_between("alpha", alpha, 0.0, 0.5)))
    return math.floor(z * z * (1.0 - margin) / margin) + 1


def approximate_items_needed(
    rho: float, margin: float, *, alpha: float = 0.025, power: float = 0.8, true_difference: float = 0.0
) -> int:
    """Return the items for `power` by the normal approximation, (z_{1-alpha} + z_power)^2 variance/(Delta + margin)^2.

    >>> approximate_items_needed(0.03, 0.01), approximate_items_needed(0.03, 0.005)
    (2355, 9419)

    Raises:
        EstimateError: a value outside its range, or a true loss not smaller than the margin.
    """
    room = true_difference + checked_between("margin", margin, 0.0, 1.0)
    variance = _variance(rho, true_difference)
    if room <= 0.0:
        raise EstimateError(
            f"a true difference of {true_difference:g} is a loss of at least the margin {margin:g}; no number of items "
            "can show the contrary"
        )
    return math.ceil(_z_sum(alpha, power) ** 2 * variance / room**2)


def items_needed(
    rho: float, margin: float, *, alpha: float = 0.025, power: float = 0.8, true_difference: float = 0.0
) -> int:
    """Return the smallest n from which on `exact_power` stays at `power` or above.

    Exact power is a fine saw in n with a period of about 1/margin items, so the first n that reaches the goal may be
    followed by some that miss it. The last miss is looked for over whole periods around the crossing.

    >>> items_needed(0.03, 0.01)
    2475

    Raises:
        EstimateError: as `approximate_items_needed`; more than 20 million items would be needed.
    """
    start = approximate_items_needed(rho, margin, alpha=alpha, power=power, true_difference=true_difference)

    def reached(n: int) -> bool:
        return exact_power(n, rho, margin, alpha=alpha, true_difference=true_difference) >= power

    crossing = _crossing(reached, max(start, minimum_items(margin, alpha)))
    period = math.ceil(1.0 / margin)
    highest_miss, top = crossing - 1, crossing + period
    n = top
    while n > highest_miss:
        if not reached(n):
            highest_miss, top = n, n + period
            n = top
        else:
            n -= 1
    return highest_miss + 1


def _crossing(reached: Callable[[int], bool], start: int) -> int:
    """Return some n >= 2 with reached(n) and not reached(n - 1), found by doubling and halving from `start`."""
    low, high = 1, max(2, start)
    while high > _MOST_ITEMS or not reached(high):
        if high > _MOST_ITEMS:
            raise EstimateError(f"more than {_MOST_ITEMS} would be needed; no data set is that large")
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def questions_needed(
    sd: float, margin: float, *, alpha: float = 0.05, power: float = 0.8, true_difference: float = 0.0
) -> int:
    """Return the smallest number of questions for which the paired t test has `power` (noncentral t).

    >>> questions_needed(1.2, 0.3)
    101

    Raises:
        EstimateError: as `noncentral_power_t`; `power` outside (0.5, 1); a true loss not smaller than the margin.
    """
    power = checked_between("power", power, 0.5, 1.0)
    if checked_number("true difference", true_difference) + checked_positive("margin", margin) <= 0.0:
        raise EstimateError(f"a true difference of {true_difference:g} is a loss of at least the margin {margin:g}")

    def reached(n: int) -> bool:
        return noncentral_power_t(n, sd, margin, alpha, true_difference=true_difference) >= power

    return _crossing(reached, 2)


def largest_sd(n: int, margin: float, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the largest standard deviation at which n questions have `power` for an equal candidate.

    >>> round(largest_sd(80, 0.3), 2)
    1.07

    Raises:
        EstimateError: as `noncentral_power_t`; `power` outside (0.5, 1).
    """
    power = checked_between("power", power, 0.5, 1.0)
    low, high = 0.0, checked_positive("margin", margin) * math.sqrt(n)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if noncentral_power_t(n, middle, margin, alpha) >= power else (low, middle)
    return low


def planning_sd(*, tau: float, sg: float, sj: float, turns: int, generations: int, judgments: int) -> float:
    """Return the standard deviation of one question's mean difference, in judge points.

    sigma^2 = tau^2 + (2/G) sg^2 + (2/(T G J)) sj^2, with tau the spread of true question-level effects, sg of one
    generation and sj of one judgment. A baseline against itself has tau = 0 and alone understates sigma.

    >>> round(planning_sd(tau=0.5, sg=0.6, sj=0.8, turns=2, generations=3, judgments=3), 4)
    0.7491

    Raises:
        EstimateError: a negative or non-finite spread, an effort below 1, or no spread at all.
    """
    for name, value in {"tau": tau, "sg": sg, "sj": sj}.items():
        if checked_number(name, value) < 0.0:
            raise EstimateError(f"{name} is {value!r}; allowed: zero or more")
    turns, generations = checked_count("turns", turns, minimum=1), checked_count("generations", generations, minimum=1)
    judgments = checked_count("judgments", judgments, minimum=1)
    variance = tau**2 + 2.0 / generations * sg**2 + 2.0 / (turns * generations * judgments) * sj**2
    return math.sqrt(checked_positive("planning variance", variance))
