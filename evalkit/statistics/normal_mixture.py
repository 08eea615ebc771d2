"""The normal-mixture boundary: how far a sum may drift when it is looked at without end.

In: a sum, its variance process, a mixing parameter. Out: log evidence, or the boundary.
Must not depend on: how the sum came about.

Assumption: the sum is sub-Gaussian with variance process v: exp(l s - l^2 v/2) is a supermartingale for every l.
Averaging over l ~ N(0, 1/rho) and Ville's inequality give one boundary for all times (Robbins 1970; Howard, Ramdas,
McAuliffe and Sekhon 2021, Annals of Statistics 49:1055, two-sided normal mixture). Products use `sequential`, which
needs no variance and is sharper on {-1, 0, 1}; this is the textbook method to compare it with.
"""

from __future__ import annotations

import math

from evalkit.statistics.checks import checked_between, checked_number, checked_positive


def best_rho(v_opt: float, alpha_two_sided: float = 0.05) -> float:
    """Return the mixing parameter that makes the boundary tight near the variance `v_opt`.

    rho = v_opt/(2 log(1/alpha) + log(1 + 2 log(1/alpha))).

    >>> round(best_rho(100.0, 0.05), 5)
    12.60056

    Raises:
        EstimateError: `v_opt` not above zero, or `alpha_two_sided` not inside (0, 1).
    """
    twice_log = 2.0 * math.log(1.0 / checked_between("alpha", alpha_two_sided, 0.0, 1.0))
    return checked_positive("v_opt", v_opt) / (twice_log + math.log1p(twice_log))


def log_mixture(s: float, v: float, rho: float) -> float:
    """Return the log of the mixture supermartingale at sum `s` and variance `v`.

    log M = log(rho/(v + rho))/2 + s^2/(2(v + rho)); evidence against "the sum has no drift", either way.

    >>> round(log_mixture(10.0, 100.0, 12.60056), 7)
    -0.6510052

    Raises:
        EstimateError: `s` not finite, `v` or `rho` not above zero.
    """
    s, v, rho = checked_number("s", s), checked_positive("v", v), checked_positive("rho", rho)
    return 0.5 * math.log(rho / (v + rho)) + s * s / (2.0 * (v + rho))


def mixture_bound(v: float, rho: float, alpha_two_sided: float = 0.05) -> float:
    """Return the distance a driftless sum passes at any time with probability at most `alpha_two_sided`.

    bound = sqrt((v + rho)(2 log(1/alpha) + log((v + rho)/rho))), where `log_mixture` reaches log(1/alpha).

    >>> round(mixture_bound(100.0, 12.60056, 0.05), 5)
    30.35209

    Raises:
        EstimateError: `v` or `rho` not above zero, or `alpha_two_sided` not inside (0, 1).
    """
    v, rho = checked_positive("v", v), checked_positive("rho", rho)
    threshold = math.log(1.0 / checked_between("alpha", alpha_two_sided, 0.0, 1.0))
    return math.sqrt((v + rho) * (2.0 * threshold + math.log((v + rho) / rho)))
