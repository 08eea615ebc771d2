"""How far two models' probabilities over the answer choices lie apart.

In: log-probabilities of every choice from both sides, shape (n, k), and the index of the right choice, shape (n,).
Out: per-item arrays and their means.
Must not depend on: what the choices say, or what is decided; these are tripwires and planning input, never a verdict.

All measures are on the distribution over the k choices, that is after normalising the log-probabilities over them.
Directions: changes are candidate minus baseline; the divergence is KL(baseline || candidate), in nats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, Integers, as_matrix


def normalised_log_probabilities(log_probabilities: ArrayLike) -> Floats:
    """Return log-softmax over the choices, shape (n, k).

    >>> np.exp(normalised_log_probabilities([[-1.0, -1.0], [0.0, -np.log(3)]])).round(6).tolist()
    [[0.5, 0.5], [0.75, 0.25]]

    Raises:
        EstimateError: not shape (n, k >= 2), or a value that is not finite.
    """
    matrix = as_matrix("log-probabilities", log_probabilities)
    normalised: Floats = matrix - logsumexp(matrix, axis=1, keepdims=True)
    return normalised


def log_probability_correct(log_probabilities: ArrayLike, targets: ArrayLike) -> Floats:
    """Return log p(right choice) after normalising over the choices, shape (n,).

    Raises:
        EstimateError: as `normalised_log_probabilities`, or a target that is no index of a choice.
    """
    normalised = normalised_log_probabilities(log_probabilities)
    index = _checked_targets(targets, normalised.shape)
    return np.take_along_axis(normalised, index[:, np.newaxis], axis=1)[:, 0]


def soft_accuracy(log_probabilities: ArrayLike, targets: ArrayLike) -> Floats:
    """Return the probability mass on the right choice, shape (n,), each in [0, 1].

    >>> soft_accuracy([[0.0, -np.log(3)]], [0]).round(6).tolist()
    [0.75]

    Raises:
        EstimateError: as `log_probability_correct`.
    """
    return np.exp(log_probability_correct(log_probabilities, targets))


def choice_divergence(baseline: ArrayLike, candidate: ArrayLike) -> Floats:
    """Return KL(baseline || candidate) over the choices in nats, shape (n,), never below 0.

    >>> half, quarter = [[0.0, 0.0]], [[0.0, -np.log(3)]]
    >>> choice_divergence(half, quarter).round(6).tolist()
    [0.143841]

    Raises:
        EstimateError: as `normalised_log_probabilities`, or different shapes.
    """
    left, right = _same_shape(baseline, candidate)
    divergence: Floats = (np.exp(left) * (left - right)).sum(axis=1)
    return np.maximum(divergence, 0.0)


@dataclass(frozen=True, kw_only=True)
class ChoiceShift:
    """Means over the items of the distance between two models on the answer choices.

    Attributes:
        n: items.
        choices: choices of every item.
        baseline_soft_accuracy: mean probability the baseline gives to the right choice.
        candidate_soft_accuracy: the same for the candidate.
        log_probability_change: mean change of log p(right choice), candidate minus baseline, in nats.
        divergence: mean KL(baseline || candidate), in nats.
        top1_agreement: share of items on which both sides prefer the same choice, right or wrong.
    """

    n: int
    choices: int
    baseline_soft_accuracy: float
    candidate_soft_accuracy: float
    log_probability_change: float
    divergence: float
    top1_agreement: float


def choice_shift(baseline: ArrayLike, candidate: ArrayLike, targets: ArrayLike) -> ChoiceShift:
    """Summarise two arrays of choice log-probabilities, each (n, k), against the right choices, shape (n,).

    Of choices that tie for the top, the first counts as preferred.

    >>> shift = choice_shift([[0.0, 0.0]], [[0.0, -np.log(3)]], [0])
    >>> round(shift.candidate_soft_accuracy, 6), round(shift.log_probability_change, 6), shift.top1_agreement
    (0.75, 0.405465, 1.0)

    Raises:
        EstimateError: as `log_probability_correct`, or different shapes.
    """
    left, right = _same_shape(baseline, candidate)
    before, after = log_probability_correct(left, targets), log_probability_correct(right, targets)
    return ChoiceShift(
        n=left.shape[0],
        choices=left.shape[1],
        baseline_soft_accuracy=float(np.exp(before).mean()),
        candidate_soft_accuracy=float(np.exp(after).mean()),
        log_probability_change=float((after - before).mean()),
        divergence=float(choice_divergence(left, right).mean()),
        top1_agreement=float(np.mean(left.argmax(axis=1) == right.argmax(axis=1))),
    )


def _same_shape(baseline: ArrayLike, candidate: ArrayLike) -> tuple[Floats, Floats]:
    left, right = normalised_log_probabilities(baseline), normalised_log_probabilities(candidate)
    if left.shape != right.shape:
        raise EstimateError(f"baseline has shape {left.shape} and candidate {right.shape}; allowed: the same shape")
    return left, right


def _checked_targets(targets: ArrayLike, shape: tuple[int, ...]) -> Integers:
    index = np.asarray(targets)
    if index.shape != shape[:1] or index.dtype.kind not in "iu":
        raise EstimateError(f"targets has shape {index.shape} and type {index.dtype}; allowed: {shape[0]} integers")
    if (index < 0).any() or (index >= shape[1]).any():
        raise EstimateError(f"targets holds {int(index.min())} to {int(index.max())}; allowed: 0 to {shape[1] - 1}")
    return index.astype(np.int64)
