"""Corrections for testing several hypotheses.

In: p-values. Out: adjusted p-values and decisions, in the order of the input.
Must not depend on: what the hypotheses are.

Holm and Bonferroni keep the chance of any false rejection at `alpha` under every dependence. Benjamini-Hochberg keeps
the expected share of false rejections at `q` for independent or positively dependent p-values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, checked_between, checked_vector


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """Decisions on a family of hypotheses.

    Attributes:
        method: name of the correction.
        threshold: the family's alpha or q.
        adjusted: adjusted p-values, in input order.
        reject: whether each null hypothesis is rejected, in input order.
    """

    method: str
    threshold: float
    adjusted: tuple[float, ...]
    reject: tuple[bool, ...]


def holm(p: ArrayLike, alpha: float = 0.05) -> Adjustment:
    """Apply Holm's step-down correction (Holm 1979, Scandinavian Journal of Statistics 6:65).

    The i-th smallest of m p-values (i from 0) is compared with alpha/(m - i), and the first that is not strictly below
    ends the rejections: equality does not reject.

    >>> result = holm([0.01, 0.04, 0.03, 0.005], alpha=0.05)
    >>> result.reject, [round(value, 6) for value in result.adjusted]
    ((True, False, False, True), [0.03, 0.06, 0.06, 0.02])

    Raises:
        EstimateError: no p-value, one outside [0, 1] or not finite, or `alpha` not inside (0, 1).
    """
    values, alpha = _p_values(p), checked_between("alpha", alpha, 0.0, 1.0)
    order = np.argsort(values, kind="stable")
    ranked, left = values[order], np.arange(values.size, 0, -1)
    adjusted = np.minimum(np.maximum.accumulate(ranked * left), 1.0)
    rejected = np.logical_and.accumulate(ranked < alpha / left)
    return _in_input_order("holm", alpha, order, adjusted, rejected)


def bonferroni(p: ArrayLike, alpha: float = 0.05) -> Adjustment:
    """Compare every p-value with alpha/m; equality does not reject.

    >>> bonferroni([0.01, 0.04], alpha=0.05).reject
    (True, False)

    Raises:
        EstimateError: as `holm`.
    """
    values, alpha = _p_values(p), checked_between("alpha", alpha, 0.0, 1.0)
    adjusted = np.minimum(values * values.size, 1.0)
    return _in_input_order("bonferroni", alpha, np.arange(values.size), adjusted, values < alpha / values.size)


def benjamini_hochberg(p: ArrayLike, q: float = 0.10) -> Adjustment:
    """Apply the step-up correction of Benjamini and Hochberg (1995, Journal of the Royal Statistical Society B 57:289).

    Every p-value up to the largest one that is at most q i/m (i its rank from 1) is rejected.

    >>> result = benjamini_hochberg([0.01, 0.02, 0.03, 0.9], q=0.05)
    >>> result.reject, [round(value, 6) for value in result.adjusted]
    ((True, True, True, False), [0.04, 0.04, 0.04, 0.9])

    Raises:
        EstimateError: no p-value, one outside [0, 1] or not finite, or `q` not inside (0, 1).
    """
    values, q = _p_values(p), checked_between("q", q, 0.0, 1.0)
    order = np.argsort(values, kind="stable")
    ranked, rank = values[order], np.arange(1, values.size + 1)
    adjusted = np.minimum.accumulate((ranked * values.size / rank)[::-1])[::-1]
    rejected = np.logical_or.accumulate((ranked <= q * rank / values.size)[::-1])[::-1]
    return _in_input_order("benjamini-hochberg", q, order, np.minimum(adjusted, 1.0), rejected)


def _p_values(p: ArrayLike) -> Floats:
    values = checked_vector("p", p, minimum=1)
    outside = (values < 0.0) | (values > 1.0)
    if outside.any():
        raise EstimateError(f"p[{int(np.argmax(outside))}] is {values[outside][0]!r}; allowed: 0 to 1")
    return values


def _in_input_order(
    method: str, threshold: float, order: np.ndarray, adjusted: Floats, rejected: np.ndarray
) -> Adjustment:
    back = np.argsort(order, kind="stable")
    return Adjustment(
        method=method,
        threshold=threshold,
        adjusted=tuple(float(value) for value in adjusted[back]),
        reject=tuple(bool(value) for value in rejected[back]),
    )
