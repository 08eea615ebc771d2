"""Can a loss that n units may not have shown at all be excluded? Tests of a mean that know the range of its scores.

In: differences (candidate minus baseline) of independent units, the largest loss one unit can show. Out: the fewest
units, evidence, shares.
May not know: what is scored, or which margin is wanted.

A recipe that ruins a small share of units, and no other, shows n units of which none is ruined with probability
(1 - share)^n; Student's t then sees a perfect copy, whatever its level. No test without a bound on one unit's loss can
exclude that. With the bound L a bet can: if the mean difference is at most -margin, then for every stake f from 0 to 1
the product over units of 1 + f (d + margin)/(L - margin) has a mean of at most 1, so it reaches 1/alpha with a
probability of at most alpha (Markov's inequality), for every shape of loss, every n, and without any normal
approximation (Waudby-Smith and Ramdas 2024, Journal of the Royal Statistical Society B 86:1). The same bets watch a
nightly build (`sequential`).
"""

from __future__ import annotations

import math

import numpy as np

from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats, checked_between, checked_count, checked_positive


def fewest_units(margin: float, largest_loss: float, alpha: float) -> int:
    """Return the fewest units on which a loss of `margin` cannot stay unseen: ln(alpha)/ln(1 - margin/largest_loss).

    A recipe that loses everything on the share margin/largest_loss of units, and nothing elsewhere, shows n units
    without a loss with probability (1 - margin/largest_loss)^n. With fewer units than this not even a perfect copy can
    be told from it at level `alpha`.

    >>> fewest_units(0.01, 1.0, 0.025), fewest_units(0.3, 9.0, 0.05), fewest_units(0.3, 9.0, 0.05 / 4)
    (368, 89, 130)

    Raises:
        EstimateError: a margin not between 0 and the largest loss, or `alpha` not inside (0, 1).
    """
    share = _share(margin, largest_loss)
    return math.ceil(math.log(checked_between("alpha", alpha, 0.0, 1.0)) / math.log1p(-share))


def unseen_share(n: int, alpha: float) -> float:
    """Return the largest share of ruined units that n units may fail to show with probability `alpha`.

    >>> round(unseen_share(80, 0.05), 4)
    0.0368

    Raises:
        EstimateError: no unit, or `alpha` not inside (0, 1).
    """
    return -math.expm1(math.log(checked_between("alpha", alpha, 0.0, 1.0)) / checked_count("n", n, minimum=1))


def stakes(n: int, margin: float, largest_loss: float, alpha: float) -> tuple[float, ...]:
    """Return the stakes that are mixed, from n and the design alone: 1, and halves of it as long as they could pay.

    Halves serve differences that spread widely. One is added only if a perfect copy would still reach 1/`alpha` on
    every stake of the mixture, so that `fewest_units` is enough for a perfect copy, and mixing costs little.
    """
    gain = margin / (largest_loss - margin)
    chosen = [1.0]
    while n * math.log1p(gain * chosen[-1] / 2.0) >= math.log((len(chosen) + 1) / alpha):
        chosen.append(chosen[-1] / 2.0)
    return tuple(chosen)


def log_evidence(differences: Floats, margin: float, largest_loss: float, alpha: float) -> Floats:
    """Return the logarithm of the evidence against "the mean difference is at most -margin"; shape (..., n) to (...).

    The evidence is the mean over `stakes` of the product over units; exp(-evidence) is a p-value that holds its level
    for any distribution of differences that are at least -largest_loss. Never falls when a difference rises.

    >>> copy = np.zeros(368)
    >>> bool(log_evidence(copy, 0.01, 1.0, 0.025) >= math.log(1 / 0.025))
    True
    >>> copy[0] = -1.0
    >>> float(log_evidence(copy, 0.01, 1.0, 0.025))  # one unit lost all: the full stake is gone
    -inf

    Raises:
        EstimateError: a margin not between 0 and the largest loss; a difference below -largest_loss.
    """
    _share(margin, largest_loss)
    checked_between("alpha", alpha, 0.0, 1.0)
    if differences.size and float(differences.min()) < -largest_loss * (1.0 + 1e-9):
        raise EstimateError(f"a difference of {float(differences.min())!r} is below -{largest_loss:g}, the range's end")
    each = (differences + margin) / (largest_loss - margin)
    used = stakes(differences.shape[-1], margin, largest_loss, alpha)
    with np.errstate(divide="ignore"):
        paid = np.stack([np.log1p(np.maximum(stake * each, -1.0)).sum(axis=-1) for stake in used])
    evidence: Floats = np.logaddexp.reduce(paid, axis=0) - math.log(len(used))
    return evidence


def _share(margin: float, largest_loss: float) -> float:
    largest_loss = checked_positive("largest loss", largest_loss)
    return checked_between("margin", margin, 0.0, largest_loss) / largest_loss
