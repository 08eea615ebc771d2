"""The gate: from test statistics to verdicts, for one release or for thousands of simulated ones.

In: arrays of statistics and p-values. Out: arrays of states and outcomes.
May not know: records, comparisons, messages. `decide` and the calibration tests go through the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evalkit.statistics.checks import Floats
from evalkit.statistics.multiplicity import holm
from evalkit.verdict.outcome import EndpointState, Outcome

Booleans: TypeAlias = NDArray[np.bool_]

STATES = (EndpointState.FAIL, EndpointState.OPEN, EndpointState.PASS)
"""States in the order of the codes -1, 0, 1 of `endpoint_states`."""

OUTCOMES = (Outcome.INVALID, Outcome.REJECTED, Outcome.CERTIFIED, Outcome.INCONCLUSIVE)
"""Outcomes in the order of the codes 0 to 3 of `outcomes`; also the order in which they are looked for."""


def endpoint_states(certifying: ArrayLike, rejecting: ArrayLike, critical: ArrayLike) -> NDArray[np.int8]:
    """Return 1 for PASS, -1 for FAIL, 0 for OPEN; broadcastable arrays.

    Args:
        certifying: statistic against the margin under the unfavourable fill.
        rejecting: the same under the favourable fill.
        critical: one-sided quantile. Equality is OPEN, and a NaN too.
    """
    passes = np.asarray(certifying) > np.asarray(critical)
    fails = np.asarray(rejecting) < -np.asarray(critical)
    # The unfavourable fill is never above the favourable one, so both at once would be a contradiction: not a pass.
    states: NDArray[np.int8] = np.where(fails, -1, np.where(passes, 1, 0)).astype(np.int8)
    return states


def recipe_p(p_certify: ArrayLike, alphas: Sequence[float], family_alpha: float) -> Floats:
    """Return one p-value per recipe, min(1, max over endpoints of p family_alpha/alpha), from shape (..., endpoints).

    >>> float(recipe_p([0.001, 0.03], [0.025, 0.05], 0.05))
    0.03
    """
    scaled = np.asarray(p_certify, dtype=np.float64) * (family_alpha / np.asarray(alphas, dtype=np.float64))
    worst: Floats = np.minimum(1.0, scaled.max(axis=-1))
    return worst


def holm_rejections(p: ArrayLike, family_alpha: float) -> Booleans:
    """Apply Holm's correction over the last axis, (..., recipes); True where "not good enough" is rejected."""
    values = np.asarray(p, dtype=np.float64)
    if values.shape[-1] == 1:
        return values < family_alpha
    return np.apply_along_axis(lambda row: np.array(holm(row, family_alpha).reject), -1, values)


def outcomes(
    states: ArrayLike, rejected_by_holm: ArrayLike, invalid: ArrayLike, demoted: ArrayLike
) -> NDArray[np.int8]:
    """Return codes into `OUTCOMES`; the first that fits wins: INVALID, REJECTED, CERTIFIED, INCONCLUSIVE.

    Args:
        states: of gating endpoints, shape (..., endpoints).
        rejected_by_holm: shape (...).
        invalid: something forbids judging, shape (...); without a gating endpoint it is always so.
        demoted: a guard, a cap or a rule forbids a certificate, shape (...).
    """
    codes = np.asarray(states)
    none = codes.shape[-1] == 0
    fails = (codes == -1).any(axis=-1)
    passes = (codes == 1).all(axis=-1) & np.asarray(rejected_by_holm) & ~np.asarray(demoted)
    chosen = np.select([np.asarray(invalid) | none, fails, passes], [0, 1, 2], default=3)
    return np.asarray(chosen, dtype=np.int8)
