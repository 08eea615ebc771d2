"""Effect sizes of accuracies against published and hand-computed numbers; the table of subjects."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison import Comparison, ComparisonSettings, compare
from evalkit.comparison.proportions import compare_proportions, shrink, subject_rows

WORKED = (11845, 231, 190, 1776)
"""Counts of the protocol's worked example: both right, lost, gained, both wrong."""


def marks(n11: int, n10: int, n01: int, n00: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.repeat([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)], [n11, n10, n01, n00], axis=0)
    return pairs[:, 0], pairs[:, 1]


@pytest.fixture(scope="module")
def worked(made: ModuleType) -> Comparison:
    left, right = marks(*WORKED)
    baseline, candidate = made.make_run("baseline", marks=left, seed=1), made.make_run("candidate", marks=right, seed=2)
    return compare(baseline, candidate, "mmlu")


def test_the_worked_example_has_the_published_effect_sizes(worked: Comparison) -> None:
    assert worked.proportion is not None
    effects = worked.proportion.effects
    assert effects is not None
    assert effects.n == 14042
    assert 100 * effects.baseline_accuracy == pytest.approx(86.00, abs=0.005)
    assert 100 * effects.candidate_accuracy == pytest.approx(85.71, abs=0.005)
    assert 100 * effects.difference == pytest.approx(-0.292, abs=0.0005)
    assert 100 * effects.interval.lower == pytest.approx(-0.5807, abs=5e-5)
    assert 100 * effects.interval.upper == pytest.approx(-0.0056, abs=5e-5)
    assert 100 * effects.newcombe.lower == pytest.approx(-0.5796, abs=5e-5)
    assert 100 * effects.newcombe.upper == pytest.approx(-0.0050, abs=5e-5)
    assert effects.interval.level == effects.newcombe.level == 0.95
    assert 100 * effects.flips.rate == pytest.approx(3.00, abs=0.005)
    assert 100 * effects.flips.interval.lower == pytest.approx(2.73, abs=0.005)
    assert 100 * effects.flips.interval.upper == pytest.approx(3.29, abs=0.005)
    assert effects.mcnemar.midp_p == pytest.approx(0.0458, abs=5e-5)
    assert effects.recovery is not None
    assert effects.recovery.ratio == pytest.approx(0.99660, abs=5e-6)
    # Tang's limits: roots of the score statistic at the multinomial maximum, found by a general optimiser.
    assert effects.recovery.interval.lower == pytest.approx(0.993256159, abs=1e-8)
    assert effects.recovery.interval.upper == pytest.approx(0.999934601, abs=1e-8)


def test_the_equivalence_p_is_the_larger_of_both_sides_at_the_first_margin(worked: Comparison) -> None:
    assert worked.proportion is not None
    effects = worked.proportion.effects
    assert effects is not None
    assert effects.equivalence_margin == 0.01
    assert effects.equivalence_p == pytest.approx(1.4e-6, abs=0.05e-6)  # z(-0.010) = 4.689


def test_gains_per_loss_come_with_an_exact_interval(worked: Comparison) -> None:
    assert worked.proportion is not None
    assert worked.proportion.effects is not None
    found = worked.proportion.effects.gains_per_loss
    assert found is not None
    exact = stats.binomtest(190, 421).proportion_ci(0.95, method="exact")
    assert found.ratio == pytest.approx(190 / 231)
    assert found.interval.lower == pytest.approx(exact.low / (1 - exact.low), rel=1e-6)
    assert found.interval.upper == pytest.approx(exact.high / (1 - exact.high), rel=1e-6)


def test_the_clustered_error_is_that_of_the_formula(worked: Comparison) -> None:
    assert worked.proportion is not None
    assert worked.proportion.effects is not None
    clustered = worked.proportion.effects.clustered
    assert clustered is not None
    left, right = marks(*WORKED)
    d, groups = right - left, np.arange(14042) % 57
    sums = np.array([(d[groups == group] - d.mean()).sum() for group in range(57)])
    se = math.sqrt((sums**2).sum()) / d.size * math.sqrt(57 / 56)
    assert clustered.clusters == 57
    assert clustered.se == pytest.approx(se)
    assert clustered.deff == pytest.approx((se / (d.std(ddof=1) / math.sqrt(d.size))) ** 2)


def test_the_macro_difference_weighs_subjects_alike() -> None:
    left = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    right = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    found = compare_proportions(
        left, right, ["big"] * 4 + ["small"] * 2, 0, margin=0.01, subjects_q=0.1, seed=2
    ).effects
    assert found is not None
    assert found.difference == pytest.approx(0.0)
    assert found.macro_difference == pytest.approx((-1 / 4 + 1 / 2) / 2)


def test_what_cannot_be_estimated_is_missing_with_its_reason() -> None:
    left, right = marks(5, 0, 1, 2)
    found = compare_proportions(left, right, ["one"] * 8, 0, margin=0.01, subjects_q=0.1, seed=2).effects
    assert found is not None
    assert found.gains_per_loss is None
    assert found.clustered is None
    assert found.bootstrap is None
    assert set(found.unavailable) == {"gains_per_loss", "clustered", "bootstrap"}
    assert all(found.unavailable.values())


def test_one_pair_has_a_table_and_no_effect_sizes(made: ModuleType) -> None:
    comparison = compare(
        made.make_run("baseline", marks=np.array([1.0]), seed=1),
        made.make_run("candidate", marks=np.array([0.0]), seed=2),
        "mmlu",
    )
    assert comparison.proportion is not None
    assert comparison.proportion.observed is not None
    assert comparison.proportion.effects is None
    assert comparison.proportion.subjects == ()


def test_two_equal_comparisons_have_equal_bootstraps_and_another_seed_another(made: ModuleType) -> None:
    left, right = made.outcomes(400, rho=0.2, difference=-0.02, seed=1)
    runs = made.make_run("baseline", marks=left, seed=1), made.make_run("candidate", marks=right, seed=2)
    once, again, other = (compare(*runs, "mmlu", ComparisonSettings(seed=seed)).proportion for seed in (2, 2, 3))
    assert once is not None
    assert once == again
    assert once != other


def test_a_metric_that_is_not_right_or_wrong_is_compared_by_its_mean(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([0.5, 1.0, 0.0, 0.25]), seed=1)
    right = made.make_run("candidate", marks=np.array([0.75, np.nan, 0.0, 0.5]), seed=2)
    comparison = compare(left, right, "mmlu")
    assert comparison.proportion is None
    mean = comparison.mean
    assert mean is not None
    assert (mean.n, mean.planned, mean.scale) == (3, 4, (0.0, 1.0))
    assert mean.difference == pytest.approx((0.25 + 0.0 + 0.25) / 3)
    assert sorted(mean.differences.unfavourable) == pytest.approx([-1.0, 0.0, 0.25, 0.25])  # the missing one is 0
    assert sorted(mean.differences.favourable) == pytest.approx([0.0, 0.0, 0.25, 0.25])  # the missing one is 1
    assert (mean.higher, mean.equal, mean.lower) == (2, 1, 0)


def test_missing_values_of_an_unbounded_metric_cannot_be_filled(made: ModuleType) -> None:
    left = made.make_run("baseline", marks=np.array([3.5, 1.0, 2.0]), seed=1)
    full = made.make_run("candidate", marks=np.array([3.0, 1.5, 2.0]), seed=2)
    holed = made.make_run("candidate", marks=np.array([3.0, np.nan, 2.0]), seed=2)
    assert compare(left, full, "mmlu").faults == ()
    assert [fault.code for fault in compare(left, holed, "mmlu").faults] == ["estimate"]


def test_the_table_of_subjects_counts_by_hand() -> None:
    left = np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    right = np.array([0.0, 1.0, 1.0, 0.0, 0.0])
    codes = np.array([0, 0, 1, 1, 1])
    law, sums = subject_rows(["law", "sums"], codes, left, right, q=0.1)
    assert (law.subject, law.n, law.losses, law.gains) == ("law", 2, 1, 0)
    assert (law.baseline_accuracy, law.candidate_accuracy, law.difference) == (1.0, 0.5, -0.5)
    assert (sums.n, sums.losses, sums.gains, sums.difference) == (3, 1, 1, 0.0)
    assert law.midp == pytest.approx(0.5)  # one flip: 2 * (0 + 0.5 * 0.5)
    assert sums.midp == pytest.approx(0.75)  # one each way: 1 - P(1 of 2)/2
    assert law.adjusted_p == pytest.approx(0.75)  # min(0.5 * 2/1, 0.75 * 2/2)
    assert not law.flagged
    assert not sums.flagged


def test_a_subject_that_loses_throughout_is_flagged_and_the_others_are_not() -> None:
    left, right = np.ones(80), np.ones(80)
    right[:20] = 0.0
    codes = np.repeat(np.arange(4), 20)
    rows = subject_rows(["a", "b", "c", "d"], codes, left, right, q=0.1)
    assert [row.flagged for row in rows] == [True, False, False, False]
    assert rows[0].adjusted_p == pytest.approx(4 * stats.binom.pmf(0, 20, 0.5), rel=1e-9)


def test_without_spread_beyond_chance_every_subject_shrinks_to_the_overall_difference() -> None:
    shrunk = shrink(np.array([-0.02, 0.0, 0.01]), np.array([100.0, 100.0, 100.0]), 0.3)
    assert shrunk == pytest.approx([-0.01 / 3] * 3)


def test_shrinking_keeps_the_order_and_never_leaves_the_range() -> None:
    differences, sizes = np.array([-0.5, 0.0, 0.1]), np.array([1000.0, 1000.0, 1000.0])
    shrunk = shrink(differences, sizes, 0.5)
    overall = differences.mean()
    # DerSimonian and Laird by hand: equal variances v, so tau^2 = S^2 - v with S^2 the sample variance.
    v = (0.5 - overall**2) / 1000
    kept = (differences.var(ddof=1) - v) / differences.var(ddof=1)
    assert 0 < kept < 1
    assert shrunk == pytest.approx(overall + kept * (differences - overall))
