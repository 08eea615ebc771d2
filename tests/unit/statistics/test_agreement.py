from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa as other_kappa

from evalkit.errors import EstimateError
from evalkit.statistics.agreement import cohen_kappa, flip_rate, rogan_gladen


def test_kappa_agrees_with_statsmodels():
    rng = np.random.default_rng(6)
    first, second = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    second[:80] = first[:80]
    table = np.zeros((4, 4))
    np.add.at(table, (first, second), 1)
    assert cohen_kappa(first, second).kappa == pytest.approx(other_kappa(table).kappa, abs=1e-12)


def test_kappa_of_full_agreement_and_of_none():
    assert cohen_kappa(["a", "b", "a"], ["a", "b", "a"]).kappa == 1.0
    assert cohen_kappa(["a", "b"], ["b", "a"]).kappa == -1.0


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["a", "a"], ["a", "a"], "chance agreement"),
        (["a"], ["a"], "1 item"),
        (["a", "b"], ["a"], "same item order"),
        ([1.0, float("nan")], [1.0, 2.0], "NaN"),
        ([[1, 2]], [[1, 2]], "one label for each item"),
    ],
)
def test_kappa_without_meaning_is_refused(first, second, message):
    with pytest.raises(EstimateError, match=message):
        cohen_kappa(first, second)


def test_flips_are_counted_both_ways():
    result = flip_rate([1, 0, 1, 0], [0, 1, 1, 0])
    assert (result.flips, result.n, result.rate) == (2, 4, 0.5)
    assert result.interval.lower + result.interval.upper == pytest.approx(1.0)


def test_a_run_against_itself_has_no_flip_but_an_upper_limit():
    result = flip_rate(np.ones(100), np.ones(100))
    assert (result.rate, result.interval.lower) == (0.0, 0.0)
    assert result.interval.upper == pytest.approx(0.037, abs=0.0005)


def test_a_perfect_rater_needs_no_correction():
    result = rogan_gladen(20, 120, 1.0, 1.0)
    assert result.estimate == pytest.approx(20 / 120)
    assert result.normal is not None


def test_a_share_of_zero_has_a_wilson_but_no_normal_interval():
    result = rogan_gladen(0, 120, 0.9, 0.99)
    assert result.normal is None
    assert result.wilson.lower < 0.0 < result.wilson.upper
    assert result.estimate < 0.0


@pytest.mark.parametrize(
    ("positives", "n", "sensitivity", "specificity"),
    [(5, 10, 0.5, 0.5), (5, 10, 1.2, 0.9), (11, 10, 0.9, 0.9), (5, 10, 0.9, float("nan")), (1, 1, 0.9, 0.9)],
)
def test_a_useless_rater_and_impossible_counts_are_refused(positives, n, sensitivity, specificity):
    with pytest.raises(EstimateError):
        rogan_gladen(positives, n, sensitivity, specificity)
