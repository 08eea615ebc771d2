from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import entropy

from evalkit.errors import EstimateError
from evalkit.statistics.distributions import (
    choice_divergence,
    choice_shift,
    log_probability_correct,
    soft_accuracy,
)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(9)
    return rng.normal(-3, 2, (30, 4)), rng.normal(-3, 2, (30, 4)), rng.integers(0, 4, 30)


def test_measures_agree_with_scipy(arrays):
    baseline, candidate, targets = arrays
    p, q = softmax(baseline, axis=1), softmax(candidate, axis=1)
    rows = np.arange(30)
    assert soft_accuracy(baseline, targets) == pytest.approx(p[rows, targets], abs=1e-12)
    assert choice_divergence(baseline, candidate) == pytest.approx(entropy(p, q, axis=1), abs=1e-12)
    shift = choice_shift(baseline, candidate, targets)
    assert shift.log_probability_change == pytest.approx(np.log(q[rows, targets] / p[rows, targets]).mean(), abs=1e-12)
    assert shift.top1_agreement == np.mean(p.argmax(1) == q.argmax(1))
    assert (shift.n, shift.choices) == (30, 4)


def test_a_model_against_itself_has_no_distance(arrays):
    baseline, _, targets = arrays
    shift = choice_shift(baseline, baseline, targets)
    assert (shift.log_probability_change, shift.divergence, shift.top1_agreement) == (0.0, 0.0, 1.0)


def test_a_constant_added_to_an_item_changes_nothing(arrays):
    baseline, candidate, targets = arrays
    moved = choice_shift(baseline + np.arange(30)[:, None], candidate, targets)
    assert moved.divergence == pytest.approx(choice_shift(baseline, candidate, targets).divergence, abs=1e-12)


def test_very_small_probabilities_do_not_overflow():
    assert log_probability_correct([[-1000.0, -2000.0]], [1]) == pytest.approx([-1000.0])


@pytest.mark.parametrize(
    ("matrix", "targets"),
    [
        ([[0.0, float("nan")]], [0]),
        ([[0.0, -float("inf")]], [0]),
        ([[0.0]], [0]),
        ([0.0, 1.0], [0]),
        (np.zeros((0, 4)), []),
        ([[0.0, 1.0]], [2]),
        ([[0.0, 1.0]], [-1]),
        ([[0.0, 1.0]], [0.0]),
        ([[0.0, 1.0]], [0, 1]),
    ],
)
def test_what_is_no_distribution_over_choices_is_refused(matrix, targets):
    with pytest.raises(EstimateError):
        soft_accuracy(matrix, targets)


def test_sides_with_different_choices_are_refused():
    with pytest.raises(EstimateError, match="same shape"):
        choice_shift(np.zeros((2, 4)), np.zeros((2, 5)), [0, 0])
