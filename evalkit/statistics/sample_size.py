"""Published planning formulas of others, to compare with one's own.

In: variances, sample sizes, error rates. Out: sample sizes and detectable effects.
Must not depend on: anything measured. None of these decides anything here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_between, checked_count, checked_number, checked_positive


def miller_variance(omega2: float, sigma2_a: float, sigma2_b: float, k_a: int, k_b: int) -> float:
    """Return the variance of one question's paired difference, omega^2 + sigma_a^2/k_a + sigma_b^2/k_b.

    omega^2 is the variance of the true question-level differences, sigma^2 the mean variance of one answer's score on
    either side, and k the number of answers drawn for each question (Miller 2024, arXiv:2411.00640).

    Raises:
        EstimateError: a negative or non-finite variance, a number of answers below 1, or a total of zero.
    """
    parts = {"omega2": omega2, "sigma2_a": sigma2_a, "sigma2_b": sigma2_b}
    for name, value in parts.items():
        if checked_number(name, value) < 0.0:
            raise EstimateError(f"{name} is {value!r}; allowed: zero or more")
    total = omega2 + sigma2_a / checked_count("k_a", k_a, minimum=1) + sigma2_b / checked_count("k_b", k_b, minimum=1)
    return checked_positive("variance of a question's difference", total)


def miller_sample_size(delta: float, variance: float, *, alpha_two_sided: float = 0.05, power: float = 0.8) -> float:
    """Return the questions needed to detect `delta`, before rounding up: (z_{1-alpha/2} + z_power)^2 variance/delta^2.

    >>> math.ceil(miller_sample_size(0.03, miller_variance(1 / 9, 0.0, 0.0, 1, 1)))
    969

    Raises:
        EstimateError: `delta` or `variance` not above zero, or a rate outside its range.
    """
    return (
        _z_sum(alpha_two_sided / 2.0, power) ** 2
        * checked_positive("variance", variance)
        / (checked_positive("delta", delta) ** 2)
    )


def miller_minimum_detectable_effect(
    n: int, variance: float, *, alpha_two_sided: float = 0.05, power: float = 0.8
) -> float:
    """Return the difference that n questions detect: (z_{1-alpha/2} + z_power) sqrt(variance/n).

    >>> round(miller_minimum_detectable_effect(198, miller_variance(1 / 9, 1 / 6, 1 / 6, 10, 10)), 4)
    0.0757

    Raises:
        EstimateError: as `miller_sample_size`.
    """
    n = checked_count("n", n, minimum=1)
    return _z_sum(alpha_two_sided / 2.0, power) * math.sqrt(checked_positive("variance", variance) / n)


@dataclass(frozen=True, kw_only=True)
class UnpairedDropRule:
    """Pass rule of accuracy suites that compare one new score with one stored score, in the unit of sigma.

    Attributes:
        theta: the true drop found with probability 1 - beta.
        threshold_offset: negative; a new score passes if it is above the reference plus this.
    """

    theta: float
    threshold_offset: float


def unpaired_drop_rule(sigma: float, n: int, *, alpha: float = 0.05, beta: float = 0.2) -> UnpairedDropRule:
    """Return the rule of TensorRT-LLM's accuracy tests (tests/integration/defs/accuracy, README); `alpha` is one-sided.

    theta = (z_{1-alpha} + z_{1-beta}) sqrt(2 sigma^2/n); offset = -z_{1-alpha} sqrt(2 sigma^2/n). Its null hypothesis
    is "no drop", so little data pass easily, and pairing is not used: this is why it cannot certify.

    >>> rule = unpaired_drop_rule(50.0, 4096)
    >>> round(rule.theta, 6), round(rule.threshold_offset, 6)
    (2.747193, -1.817324)

    Raises:
        EstimateError: `sigma` not above zero, no items, or a rate outside its range.
    """
    se = math.sqrt(2.0 * checked_positive("sigma", sigma) ** 2 / checked_count("n", n, minimum=1))
    theta = _z_sum(alpha, 1.0 - checked_between("beta", beta, 0.0, 1.0)) * se
    return UnpairedDropRule(theta=theta, threshold_offset=float(ndtri(alpha)) * se)


def _z_sum(alpha: float, power: float) -> float:
    """Return z_{1-alpha} + z_power for a one-sided alpha."""
    alpha, power = checked_between("alpha", alpha, 0.0, 0.5), checked_between("power", power, 0.0, 1.0)
    return checked_positive("z_{1-alpha} + z_power", float(ndtri(1.0 - alpha) + ndtri(power)))
