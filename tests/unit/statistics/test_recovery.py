"""Recovery: published examples, the restricted likelihood by numbers, and coverage at the sizes evaluations have."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from evalkit.errors import EstimateError
from evalkit.statistics.clustered_tango import ClusteredPairs
from evalkit.statistics.paired_proportions import fewest_right, recovery_ratio, recovery_scores, recovery_test
from evalkit.statistics.tango import PairedTable

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("both", "loss", "gain", "neither", "level", "limits", "digits"),
    [
        (446, 16, 5, 690, 0.90, (0.958, 0.992), 3),
        (43, 1, 0, 0, 0.90, (0.904, 1.039), 3),
        (8, 1, 3, 2, 0.95, (0.776, 2.033), 3),
        (1, 7, 1, 12, 0.95, (0.0653, 0.9069), 4),
    ],
    ids=["Tang 2003, table", "Tang 2003, one discordant pair", "Tang ML 2010", "DelRocco 2022"],
)
def test_published_intervals(both, loss, gain, neither, level, limits, digits):
    """As the tests of the R package ratesci (test3.R) assert and attribute them; the papers were not opened."""
    found = recovery_ratio(PairedTable(n11=both, n10=loss, n01=gain, n00=neither), level).interval
    assert (round(found.lower, digits), round(found.upper, digits)) == limits


@pytest.mark.parametrize("ratio", [0.9, 0.97, 1.0, 1.08])
@pytest.mark.parametrize("counts", [(70, 6, 3, 21), (400, 0, 4, 96), (400, 5, 0, 95), (30, 2, 2, 0)])
def test_the_restricted_estimate_maximises_the_likelihood(counts, ratio):
    both, loss, gain, _ = counts
    n = sum(counts)

    def minus_likelihood(q10):
        # p11 + q01 = ratio (p11 + q10): profile over p11, whose derivative is solved by numbers too.
        def inner(p11):
            p = np.array([p11, q10, ratio * (p11 + q10) - p11, 0.0])
            p[3] = 1.0 - p[:3].sum()
            if (p < -1e-12).any():
                return 1e9
            return -float((np.array(counts) * np.log(np.maximum(p, 1e-300)))[np.array(counts) > 0].sum())

        return minimize_scalar(inner, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-12}).fun

    best = minimize_scalar(minus_likelihood, bounds=(1e-9, 0.3), method="bounded", options={"xatol": 1e-10}).x
    some = both + loss + gain
    z = float(recovery_scores(both, loss, gain, n, ratio))
    variance = n * (1 + ratio) * best + some * (ratio - 1)
    assert z == pytest.approx((both + gain - ratio * (both + loss)) / np.sqrt(variance), rel=2e-3)


def lower_error(n, accuracy, rho, draws=None, seed=1):
    """P(lower 95 % limit above the truth) with equal accuracies: exact over flips, both right by its chance."""
    truth = 1.0
    if draws is not None:
        p = [accuracy - rho / 2, rho / 2, rho / 2, 1 - accuracy - rho / 2]
        table = np.random.default_rng(seed).multinomial(n, p, size=draws)
        return float(np.mean(recovery_scores(table[:, 0], table[:, 1], table[:, 2], n, truth) > Z))
    from scipy.stats import multinomial  # noqa: PLC0415

    n11, n10, n01 = np.meshgrid(np.arange(n + 1), np.arange(16), np.arange(16), indexing="ij")
    kept = n11 + n10 + n01 <= n
    cells = np.stack([n11[kept], n10[kept], n01[kept], n - n11[kept] - n10[kept] - n01[kept]], axis=-1)
    weights = multinomial.pmf(cells, n, [accuracy - rho / 2, rho / 2, rho / 2, 1 - accuracy - rho / 2])
    assert weights.sum() > 0.999
    return float(weights[recovery_scores(cells[:, 0], cells[:, 1], cells[:, 2], n, truth) > Z].sum())


@pytest.mark.parametrize(
    ("n", "accuracy", "rho", "draws"),
    [(100, 0.86, 0.03, None), (600, 0.99, 0.01, 300_000), (14_042, 0.86, 0.01, 300_000)],
)
def test_the_lower_limit_errs_as_often_as_it_says(n, accuracy, rho, draws):
    """The quadratic of Fieller had 8.9, 6.7 and 3.7 % here."""
    error = lower_error(n, accuracy, rho, draws)
    assert error <= 0.030, error


@pytest.mark.parametrize(
    ("n", "accuracy", "rho", "true"), [(600, 0.90, 0.04, 0.98), (14_042, 0.86, 0.03, 0.99), (2_000, 0.99, 0.02, 0.99)]
)
def test_a_recovery_at_the_asked_one_passes_as_rarely_as_it_says(n, accuracy, rho, true):
    lost = accuracy * (1 - true)
    p = [accuracy - (rho + lost) / 2, (rho + lost) / 2, (rho - lost) / 2, 1 - accuracy - (rho - lost) / 2]
    table = np.random.default_rng(2).multinomial(n, p, size=200_000)
    assert np.mean(recovery_scores(table[:, 0], table[:, 1], table[:, 2], n, true) > Z) <= 0.0285


def test_limits_are_where_the_test_says_and_turn_round_when_swapped():
    table = PairedTable(n11=500, n10=20, n01=12, n00=68)
    found = recovery_ratio(table, 0.95)
    assert recovery_test(table, found.interval.lower).z == pytest.approx(Z, abs=1e-6)
    assert recovery_test(table, found.interval.upper).z == pytest.approx(-Z, abs=1e-6)
    other = recovery_ratio(table.swapped(), 0.95)
    assert found.interval.lower * other.interval.upper == pytest.approx(1.0, rel=1e-9)


def test_without_a_flip_there_is_an_interval_and_the_fewest_right_answers_are_exact():
    least = fewest_right(0.99, 0.025)
    for right, passes in ((least, True), (least - 1, False)):
        table = PairedTable(n11=right, n10=0, n01=0, n00=50)
        assert (recovery_test(table, 0.99).p_certify < 0.025) is passes
        assert (recovery_ratio(table, 0.95).interval.lower > 0.99) is passes


@pytest.mark.parametrize("times", [2, 14])
def test_questions_that_flip_as_one_count_as_one(times):
    once = PairedTable(n11=500, n10=20, n01=12, n00=68)
    codes = np.repeat(np.arange(600), times)
    left = np.repeat(np.r_[np.ones(520), np.zeros(80)], times)
    right = np.repeat(np.r_[np.ones(500), np.zeros(20), np.ones(12), np.zeros(68)], times)
    many = ClusteredPairs.from_outcomes(left, right, codes)
    assert recovery_test(many, 0.97).z == pytest.approx(recovery_test(once, 0.97).z, rel=1e-9)
    assert recovery_ratio(many).interval.lower == pytest.approx(recovery_ratio(once).interval.lower, abs=1e-9)


def test_a_baseline_with_nothing_right_has_no_ratio_and_a_candidate_with_nothing_has_zero():
    with pytest.raises(EstimateError, match="no ratio"):
        recovery_ratio(PairedTable(n11=0, n10=0, n01=5, n00=20))
    found = recovery_ratio(PairedTable(n11=0, n10=20, n01=0, n00=5))
    assert (found.ratio, found.interval.lower) == (0.0, 0.0)
    assert found.interval.upper < 0.3
