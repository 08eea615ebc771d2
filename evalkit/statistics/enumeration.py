"""Exact operating characteristics of Tango's test, by adding up every table that matters.

In: a number of items, a discordance rate, a true difference. Out: probabilities.
May not know: where the planning values come from.

Model: each of n items is a loss with probability (rho - Delta)/2, a gain with (rho + Delta)/2, else concordant, so the
discordant total is binomial and the gains among m discordant pairs are binomial given m. z rises with the gains at
fixed m, so one critical count for each m settles the whole row. Totals outside a window of 8 standard deviations plus
40 are left out; they weigh less than 1e-12 together. "Exact" means free of the normal approximation, not of planning
values.
"""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc, gammaln, ndtri, xlog1py, xlogy

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, Integers, checked_between, checked_count, checked_number
from evalkit.statistics.interval import two_sided_z
from evalkit.statistics.tango import tango_scores


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
