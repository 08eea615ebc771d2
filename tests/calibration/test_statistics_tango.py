"""Does the score test keep its promises? Size, coverage and power by enumeration and by seeded simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multinomial

from evalkit.statistics.power import coverage, exact_power, rejection_power
from evalkit.statistics.tango import tango_scores

Z = 1.959963984540054
DRAWS = 40_000

SIZES = [
    (100, 0.03, 0.02, 0.00782),
    (200, 0.03, 0.02, 0.01684),
    (500, 0.02, 0.01, 0.01906),
    (1000, 0.03, 0.01, 0.02353),
    (2000, 0.03, 0.01, 0.02381),
    (14042, 0.01, 0.01, 0.02352),
    (14042, 0.03, 0.01, 0.02452),
    (14042, 0.06, 0.01, 0.02484),
    (14042, 0.03, 0.005, 0.02478),
]


def simulate(seed, n, rho, true_difference, draws=DRAWS):
    """Return losses and gains of many runs."""
    p10, p01 = (rho - true_difference) / 2, (rho + true_difference) / 2
    counts = np.random.default_rng(seed).multinomial(n, [p10, p01, 1 - p10 - p01], size=draws)
    return counts[:, 0], counts[:, 1]


@pytest.mark.parametrize(("n", "rho", "margin", "expected"), SIZES)
def test_c1_type_one_error_at_the_margin(n, rho, margin, expected):
    size = exact_power(n, rho, margin, true_difference=-margin)
    assert size == pytest.approx(expected, abs=1e-4)
    assert size <= 0.0255


@pytest.mark.parametrize("n", [100, 200, 500, 1000, 2000, 5000, 14042])
def test_c1_no_setting_is_liberal(n):
    # Few items with many flips go a little above the nominal level: 0.0258 at n = 100, rho = 10%, margin 2 points.
    most = 0.0251 if n >= 500 else 0.0260
    for rho in (0.01, 0.02, 0.03, 0.06, 0.10, 0.20):
        for margin in (0.005, 0.01, 0.02, 0.03):
            if margin <= rho:
                assert exact_power(n, rho, margin, true_difference=-margin) <= most


def test_showing_a_loss_is_slightly_liberal_on_few_items():
    def worst(n):
        settings = [(rho, margin) for rho in (0.01, 0.02, 0.03, 0.06, 0.10) for margin in (0.005, 0.01, 0.02)]
        return max(rejection_power(n, r, m, true_difference=-m) for r, m in settings if m <= r)

    assert 0.03 < worst(200) <= 0.0515
    assert worst(14042) <= 0.0295


@pytest.mark.parametrize(("n", "rho", "margin", "expected"), SIZES[-4:])
def test_c2_type_one_error_by_simulation(n, rho, margin, expected):
    n10, n01 = simulate(202, n, rho, -margin)
    share = np.mean(tango_scores(n10, n01, n, -margin) > Z)
    assert share == pytest.approx(expected, abs=0.0032)


def wald_size(n, rho, margin):
    """Add up the tables that the Wald interval would pass although the loss equals the margin."""
    most = 60 if n <= 100 else int(n * rho + 12 * np.sqrt(n * rho))
    n10, n01 = (grid.ravel() for grid in np.meshgrid(np.arange(most + 1), np.arange(most + 1)))
    inside = n10 + n01 <= n
    n10, n01 = n10[inside], n01[inside]
    p10, p01 = (rho + margin) / 2, (rho - margin) / 2
    weights = multinomial.pmf(np.stack([n10, n01, n - n10 - n01], axis=1), n, [p10, p01, 1 - p10 - p01])
    half = Z * np.sqrt(np.maximum(n10 + n01 - (n01 - n10) ** 2 / n, 0.0)) / n
    return float(weights[(n01 - n10) / n - half > -margin].sum())


def test_c3_the_wald_interval_passes_too_often():
    assert wald_size(100, 0.03, 0.02) == pytest.approx(0.0825, abs=0.001)
    assert wald_size(100, 0.03, 0.02) > 0.05
    assert wald_size(100, 0.02, 0.02) == pytest.approx(0.133, abs=0.001)
    assert wald_size(14042, 0.01, 0.01) == pytest.approx(0.035, abs=0.001)


@pytest.mark.parametrize(
    ("n", "rho", "true_difference", "expected"),
    [
        (100, 0.20, 0.0, 0.94777),
        (200, 0.06, 0.0, 0.95590),
        (500, 0.06, -0.01, 0.95129),
        (1000, 0.03, 0.0, 0.94813),
        (14042, 0.01, 0.0, 0.95047),
        (14042, 0.03, -0.005, 0.95005),
        (14042, 0.06, -0.01, 0.95003),
    ],
)
def test_c4_coverage_of_the_interval(n, rho, true_difference, expected):
    assert coverage(n, rho, true_difference=true_difference) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("n", "rho", "margin", "true_difference"),
    [
        (200, 0.06, 0.05, 0.0),
        (500, 0.03, 0.02, 0.0),
        (1000, 0.03, 0.02, -0.005),
        (2000, 0.06, 0.01, 0.0),
        (2480, 0.03, 0.01, 0.0),
        (4770, 0.06, 0.01, 0.0),
        (14042, 0.01, 0.005, -0.0025),
        (14042, 0.03, 0.005, -0.001),
        (14042, 0.06, 0.01, -0.005),
        (14042, 0.10, 0.01, -0.0025),
    ],
)
def test_c11_planned_power_is_the_simulated_power(n, rho, margin, true_difference):
    n10, n01 = simulate(1111, n, rho, true_difference)
    z = tango_scores(n10, n01, n, -margin)
    planned = exact_power(n, rho, margin, true_difference=true_difference)
    assert np.mean(z > Z) == pytest.approx(planned, abs=0.01)
    refuted = rejection_power(n, rho, margin, true_difference=true_difference)
    assert np.mean(z < -Z) == pytest.approx(refuted, abs=0.01)
