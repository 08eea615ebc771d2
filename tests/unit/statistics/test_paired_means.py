from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import nct, t, ttest_1samp

from evalkit.errors import EstimateError
from evalkit.statistics.paired_means import (
    SKEWNESS_WEIGHT,
    corrected_statistics,
    correction_is_monotone,
    noncentral_power_t,
    paired_t,
    t_statistics,
)


@pytest.fixture
def differences():
    return np.random.default_rng(5).normal(-0.1, 1.2, size=80)


def test_paired_t_agrees_with_scipy(differences):
    ours = paired_t(differences, margin=0.3)
    greater = ttest_1samp(differences, -0.3, alternative="greater")
    less = ttest_1samp(differences, -0.3, alternative="less")
    assert ours.t == pytest.approx(greater.statistic, rel=1e-12)
    assert (ours.p_certify, ours.p_reject) == pytest.approx((greater.pvalue, less.pvalue), rel=1e-10)
    theirs = ttest_1samp(differences, 0.0).confidence_interval(0.9)
    mine = ours.interval(0.9)
    assert (mine.lower, mine.upper) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.df == 79


def test_the_test_and_the_interval_say_the_same(differences):
    lower = paired_t(differences).interval(0.9).lower
    assert paired_t(differences, margin=-lower + 1e-6).p_certify < 0.05
    assert paired_t(differences, margin=-lower - 1e-6).p_certify > 0.05


@pytest.mark.parametrize(
    "values", [[1.0], [0.5, 0.5, 0.5], [0.1 + 0.2, 0.3, 0.3], [1.0, float("nan")], [0.0, 0.0], [[1.0, 2.0]]]
)
def test_no_test_from_too_few_constant_or_non_finite_values(values):
    with pytest.raises(EstimateError, match="differences"):
        paired_t(values, margin=0.3)


def test_the_correction_is_none_without_skewness_or_with_a_tail_of_gains(differences):
    symmetric = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    gains = np.array([-0.1] * 76 + [4.0] * 4)
    for values in (symmetric, gains):
        assert corrected_statistics(values, 0.3) == pytest.approx(paired_t(values, 0.3).t, rel=1e-12)


def test_the_corrected_statistic_lies_on_the_line_of_the_expansion():
    """t = c - weight g (1 + 2 c^2)/(6 sqrt(n)), g the third moment over the cube of the SD (Johnson 1978)."""
    d = np.array([0.3] * 76 + [-2.0] * 3 + [-4.0])
    c, n = float(corrected_statistics(d, 0.3)), d.size
    skewness = ((d - d.mean()) ** 3).mean() / d.std(ddof=1) ** 3
    assert skewness < -3
    line = c - SKEWNESS_WEIGHT * skewness * (1 + 2 * c**2) / (6 * np.sqrt(n))
    assert line == pytest.approx(paired_t(d, 0.3).t, rel=1e-12)


def test_a_larger_gain_never_loses_a_pass_however_skewed_the_losses():
    """Johnson's own statistic falls again as t rises: here it is below -10 where t is above 50."""
    d = np.array([0.0] * 78 + [-3.0] * 2)
    gains = np.linspace(0, 3, 40)
    found = [float(corrected_statistics(d + gain, 0.3)) for gain in gains]
    assert (np.diff(found) > 0).all()
    t = paired_t(d + 3.0, 0.3).t
    skewness = ((d - d.mean()) ** 3).mean() / d.std(ddof=1) ** 3
    assert t + skewness * (1 + 2 * t**2) / (6 * np.sqrt(80)) < -10 < 4 < found[-1]


def test_the_array_forms_are_the_single_ones(differences):
    rows = differences.reshape(4, 20)
    assert t_statistics(rows, 0.3) == pytest.approx([paired_t(row, 0.3).t for row in rows], rel=1e-12)
    single = [float(corrected_statistics(row, 0.3)) for row in rows]
    assert corrected_statistics(rows, 0.3) == pytest.approx(single, rel=1e-12)


@pytest.mark.parametrize(("n", "critical"), [(30, 1.7), (30, 2.05), (80, 1.96), (80, 2.5), (600, 2.5)])
def test_lowering_a_difference_at_the_line_never_helps(n, critical):
    """The derivative that `correction_is_monotone` bounds, taken numerically where the statistic is critical."""
    assert correction_is_monotone(n, critical)
    rng = np.random.default_rng(n)
    seen = 0
    for _ in range(60):
        d = -rng.gamma(rng.uniform(0.1, 2.0), size=n) * rng.uniform(0.5, 2.0)
        low, high = -d.mean(), -d.mean() + 20.0
        for _ in range(60):  # the margin at which these differences are just on the line
            middle = (low + high) / 2
            low, high = (middle, high) if float(corrected_statistics(d, middle)) < critical else (low, middle)
        line = float(corrected_statistics(d, high))
        for at in rng.integers(0, n, size=8):
            lowered = d.copy()
            lowered[at] -= rng.uniform(1e-4, 0.3)
            seen += 1
            assert float(corrected_statistics(lowered, high)) <= line + 1e-9 or line > critical + 1e-6
    assert seen == 480


def test_with_a_handful_of_units_nothing_is_promised_of_fills():
    assert not correction_is_monotone(4, 3.0)


@pytest.mark.parametrize(
    ("n", "sd", "margin", "alpha"), [(80, 1.2, 0.3, 0.05), (10, 0.5, 0.3, 0.025), (2, 1.0, 1.0, 0.1)]
)
@pytest.mark.parametrize("true_difference", [0.0, -0.1, -0.5])
def test_power_is_the_noncentral_t(n, sd, margin, alpha, true_difference):
    expected = nct.sf(t.ppf(1 - alpha, n - 1), n - 1, (true_difference + margin) * np.sqrt(n) / sd)
    ours = noncentral_power_t(n, sd, margin, alpha, true_difference=true_difference)
    assert ours == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "arguments", [(1, 1.0, 0.3), (80, 0.0, 0.3), (80, -1.0, 0.3), (80, 1.0, 0.0), (80, float("nan"), 0.3)]
)
def test_power_of_an_impossible_plan_is_refused(arguments):
    with pytest.raises(EstimateError):
        noncentral_power_t(*arguments)


# Protocol, section 12: power of 80 questions at true difference 0, margins 0.1, 0.2, 0.3, 0.5; 90% half-width.
@pytest.mark.parametrize(
    ("sd", "powers", "half_width"),
    [
        (0.8, (0.30, 0.72, 0.95, 1.00), 0.15),
        (1.0, (0.22, 0.55, 0.85, 1.00), 0.19),
        (1.2, (0.18, 0.43, 0.72, 0.98), 0.22),
        (1.4, (0.16, 0.35, 0.60, 0.94), 0.26),
        (2.0, (0.11, 0.22, 0.38, 0.72), 0.37),
    ],
)
def test_the_table_of_the_protocol(sd, powers, half_width):
    ours = [noncentral_power_t(80, sd, margin) for margin in (0.1, 0.2, 0.3, 0.5)]
    assert ours == pytest.approx(powers, abs=0.00501)
    pattern = np.tile([-1.0, 1.0], 40)
    interval = paired_t(pattern * sd / pattern.std(ddof=1)).interval(0.90)
    assert (interval.upper - interval.lower) / 2 == pytest.approx(half_width, abs=0.00501)
