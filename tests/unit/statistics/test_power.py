"""The planning tables of the protocol (section 12), and the enumeration against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import multinomial

from evalkit.errors import EstimateError
from evalkit.statistics.power import (
    approximate_items_needed,
    approximate_minimum_detectable_effect,
    approximate_power,
    coverage,
    exact_power,
    items_needed,
    largest_sd,
    minimum_detectable_effect,
    minimum_items,
    noncentral_power_t,
    planning_sd,
    questions_needed,
    rejection_power,
)
from evalkit.statistics.tango import tango_scores

N = 14042
Z = 1.959963984540054


# Two cells of the protocol are rounded twice (0.67550 and 0.67347), hence 0.00055 and not 0.0005.
# rho; SE and MDE in points; power at margin 0.5 for true 0, -0.10, -0.25; at margin 1.0 for true 0, -0.25, -0.50, -0.75
POWER_TABLE = [
    (0.01, 0.084, 0.236, (1.000, 0.996, 0.819), (1.000, 1.000, 1.000, 0.796)),
    (0.03, 0.146, 0.409, (0.926, 0.777, 0.397), (1.000, 0.999, 0.922, 0.393)),
    (0.06, 0.207, 0.579, (0.676, 0.489, 0.226), (0.998, 0.951, 0.674, 0.225)),
    (0.10, 0.267, 0.748, (0.465, 0.322, 0.153), (0.963, 0.801, 0.464, 0.153)),
]


@pytest.mark.parametrize(("rho", "se", "mde", "near", "comparable"), POWER_TABLE)
def test_power_of_a_full_run(rho, se, mde, near, comparable):
    assert [exact_power(N, rho, 0.005, true_difference=-d) for d in (0.0, 0.001, 0.0025)] == pytest.approx(
        near, abs=0.00055
    )
    assert [exact_power(N, rho, 0.010, true_difference=-d) for d in (0.0, 0.0025, 0.005, 0.0075)] == pytest.approx(
        comparable, abs=0.00055
    )
    assert 100 * math.sqrt(rho / N) == pytest.approx(se, abs=0.000501)
    assert 100 * approximate_minimum_detectable_effect(N, rho) == pytest.approx(mde, abs=0.000501)


# The exact columns of the protocol are themselves good to about 0.2%.
@pytest.mark.parametrize(
    ("rho", "comparable", "near", "approximate"),
    [
        (0.01, 1_040, 3_480, (785, 3_140)),
        (0.03, 2_480, 9_540, (2_355, 9_419)),
        (0.06, 4_770, 18_920, (4_710, 18_838)),
        (0.10, 7_890, 31_430, (7_849, 31_396)),
    ],
)
def test_items_for_eighty_percent(rho, comparable, near, approximate):
    assert items_needed(rho, 0.010) == pytest.approx(comparable, rel=0.0025)
    assert items_needed(rho, 0.005) == pytest.approx(near, rel=0.0025)
    assert (approximate_items_needed(rho, 0.010), approximate_items_needed(rho, 0.005)) == approximate


@pytest.mark.parametrize(("rho", "margin"), [(0.01, 0.01), (0.03, 0.01), (0.06, 0.02)])
def test_items_needed_is_the_last_crossing(rho, margin):
    n = items_needed(rho, margin)
    assert exact_power(n - 1, rho, margin) < 0.8
    assert all(exact_power(k, rho, margin) >= 0.8 for k in range(n, n + 250))


@pytest.mark.parametrize(
    ("rho", "expected"), [(0.03, (0.41, 0.94, 1.00)), (0.06, (0.23, 0.68, 1.00)), (0.10, (0.15, 0.47, 0.96))]
)
def test_power_to_show_a_loss_larger_than_one_point(rho, expected):
    ours = [rejection_power(N, rho, 0.01, true_difference=-d) for d in (0.0125, 0.015, 0.02)]
    assert ours == pytest.approx(expected, abs=0.00501)


def test_the_unpaired_design_is_the_same_formula_with_twice_the_variance():
    rho = 2 * 0.86 * 0.14
    assert 100 * math.sqrt(rho / N) == pytest.approx(0.414, abs=0.000501)
    assert 100 * approximate_minimum_detectable_effect(N, rho) == pytest.approx(1.16, abs=0.00501)
    assert approximate_power(N, rho, 0.005) == pytest.approx(0.226, abs=0.000501)
    assert approximate_power(N, rho, 0.010) == pytest.approx(0.675, abs=0.000501)


@pytest.mark.parametrize(("rho", "items"), [(0.01, 106_000), (0.06, 637_000)])
def test_margins_of_a_tenth_of_a_point_and_less_need_more_items_than_there_are(rho, items):
    # "99.9% of the baseline" at 86% accuracy is a margin of 0.086 points
    assert approximate_items_needed(rho, 0.00086) == pytest.approx(items, rel=0.005)


def test_the_smallest_margin_has_just_the_power():
    margin = minimum_detectable_effect(N, 0.03)
    assert exact_power(N, 0.03, margin) >= 0.8 > exact_power(N, 0.03, margin - 1e-6)
    assert margin > approximate_minimum_detectable_effect(N, 0.03)


@pytest.mark.parametrize(("margin", "items"), [(0.01, 381), (0.005, 765)])
def test_fewest_items(margin, items):
    assert minimum_items(margin) == items
    assert float(tango_scores(0, 0, items, -margin)) > Z > float(tango_scores(0, 0, items - 1, -margin))


def brute_force(n, rho, true_difference, decide):
    """Add up all tables of n items."""
    n10, n01 = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    possible = n10 + n01 <= n
    n10, n01 = n10[possible], n01[possible]
    p10, p01 = (rho - true_difference) / 2, (rho + true_difference) / 2
    weights = multinomial.pmf(np.stack([n10, n01, n - n10 - n01], axis=1), n, [p10, p01, 1 - p10 - p01])
    return float(weights[decide(n10, n01)].sum())


@pytest.mark.parametrize(
    ("rho", "true_difference"), [(0.05, 0.0), (0.05, -0.02), (0.3, 0.1), (0.02, -0.02), (0.9, 0.0)]
)
def test_rows_add_up_to_the_whole_table(rho, true_difference):
    n, margin = 60, 0.1
    passes = brute_force(n, rho, true_difference, lambda b, c: tango_scores(b, c, n, -margin) > Z)
    fails = brute_force(n, rho, true_difference, lambda b, c: tango_scores(b, c, n, -margin) < -Z)
    covers = brute_force(n, rho, true_difference, lambda b, c: np.abs(tango_scores(b, c, n, true_difference)) <= Z)
    assert exact_power(n, rho, margin, true_difference=true_difference) == pytest.approx(passes, abs=1e-11)
    assert rejection_power(n, rho, margin, true_difference=true_difference) == pytest.approx(fails, abs=1e-11)
    assert coverage(n, rho, true_difference=true_difference) == pytest.approx(covers, abs=1e-11)


@pytest.mark.parametrize(
    ("sd", "questions"), [(0.8, (101, 46)), (1.0, (156, 71)), (1.2, (224, 101)), (1.4, (305, 137)), (2.0, (620, 277))]
)
def test_questions_for_eighty_percent(sd, questions):
    assert (questions_needed(sd, 0.2), questions_needed(sd, 0.3)) == questions


def test_the_largest_sd_that_eighty_questions_can_bear():
    sd = largest_sd(80, 0.3)
    assert sd == pytest.approx(1.07, abs=0.00501)
    assert noncentral_power_t(80, sd, 0.3) == pytest.approx(0.8, abs=1e-9)


def test_more_effort_lowers_the_planning_sd_down_to_the_true_spread():
    effort = {"turns": 2, "tau": 0.5, "sg": 1.0, "sj": 1.0}
    one, three = (planning_sd(**effort, generations=k, judgments=k) for k in (1, 3))
    assert one == pytest.approx(math.sqrt(0.25 + 2 + 1))
    assert three == pytest.approx(math.sqrt(0.25 + 2 / 3 + 1 / 9))


@pytest.mark.parametrize(
    "plan",
    [
        lambda: exact_power(1, 0.03, 0.01),
        lambda: exact_power(N, 0.0, 0.01),
        lambda: exact_power(N, 0.03, 0.0),
        lambda: exact_power(N, 0.03, 0.01, alpha=0.5),
        lambda: exact_power(N, 0.01, 0.05, true_difference=-0.02),
        lambda: rejection_power(N, 0.01, 0.01, true_difference=-0.0125),
        lambda: coverage(N, float("nan")),
        lambda: approximate_power(N, 0.01, 0.05, true_difference=-0.02),
        lambda: items_needed(0.03, 0.01, true_difference=-0.01),
        lambda: items_needed(0.9, 0.0001, true_difference=-0.00009),
        lambda: questions_needed(1.0, 0.3, true_difference=-0.3),
        lambda: questions_needed(0.0, 0.3),
        lambda: minimum_detectable_effect(2, 0.9),
        lambda: planning_sd(tau=0.0, sg=0.0, sj=0.0, turns=2, generations=1, judgments=1),
        lambda: planning_sd(tau=-0.1, sg=1.0, sj=0.0, turns=2, generations=1, judgments=1),
    ],
)
def test_impossible_plans_are_refused(plan):
    with pytest.raises(EstimateError):
        plan()
