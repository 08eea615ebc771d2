"""Where do the differences sit? One row per subject, advisory.

In: outcomes of complete pairs with their subjects. Out: rows with corrected p-values and shrunk differences.
May not know: verdicts; nothing here changes one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evalkit.statistics.checks import Floats, Integers
from evalkit.statistics.mcnemar import mcnemar
from evalkit.statistics.multiplicity import benjamini_hochberg


@dataclass(frozen=True, kw_only=True)
class SubjectRow:
    """One subject.

    Attributes:
        subject: name.
        n: complete pairs.
        losses, gains: items only the baseline, only the candidate has right.
        baseline_accuracy, candidate_accuracy: proportions.
        difference: candidate minus baseline.
        shrunk: the difference pulled toward the overall one, as far as chance explains the spread between subjects.
        midp: two-sided mid-p McNemar value.
        adjusted_p: after Benjamini and Hochberg over all subjects.
        flagged: on the advisory list.
    """

    subject: str
    n: int
    losses: int
    gains: int
    baseline_accuracy: float
    candidate_accuracy: float
    difference: float
    shrunk: float
    midp: float
    adjusted_p: float
    flagged: bool


def subject_rows(
    names: Sequence[str], codes: Integers, baseline: Floats, candidate: Floats, *, q: float
) -> tuple[SubjectRow, ...]:
    """Return one row for each of `names`, shape (s,); `codes` and outcomes have shape (n,)."""
    sizes = np.bincount(codes, minlength=len(names))
    right_b = np.bincount(codes, weights=baseline, minlength=len(names))
    right_c = np.bincount(codes, weights=candidate, minlength=len(names))
    losses = np.bincount(codes, weights=baseline * (1.0 - candidate), minlength=len(names))
    gains = np.bincount(codes, weights=candidate * (1.0 - baseline), minlength=len(names))
    differences = (gains - losses) / sizes
    shrunk = shrink(differences, sizes.astype(np.float64), float((gains + losses).sum() / sizes.sum()))
    midps = [mcnemar(int(loss), int(gain)).midp_p for loss, gain in zip(losses, gains, strict=True)]
    adjustment = benjamini_hochberg(midps, q)
    return tuple(
        SubjectRow(
            subject=name,
            n=int(sizes[at]),
            losses=int(losses[at]),
            gains=int(gains[at]),
            baseline_accuracy=float(right_b[at] / sizes[at]),
            candidate_accuracy=float(right_c[at] / sizes[at]),
            difference=float(differences[at]),
            shrunk=float(shrunk[at]),
            midp=midps[at],
            adjusted_p=adjustment.adjusted[at],
            flagged=adjustment.reject[at],
        )
        for at, name in enumerate(names)
    )


def shrink(differences: Floats, sizes: Floats, discordance: float) -> Floats:
    """Pull subject differences, shape (s,), toward the overall difference (empirical Bayes).

    The variance of one subject's difference is taken as (rho - D^2)/n_s with the overall rho and D, so no subject has
    variance zero; the spread between subjects is the moment estimate of DerSimonian and Laird (Controlled Clinical
    Trials 7:177, 1986). Without spread beyond chance every subject gets the overall difference.
    """
    overall = float((differences * sizes).sum() / sizes.sum())
    variance = discordance - overall**2
    if differences.size < 2 or variance <= 0.0:
        return np.full(differences.shape, overall)
    weights = sizes / variance
    q = float((weights * (differences - overall) ** 2).sum())
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    between = max(0.0, (q - (differences.size - 1)) / scale)
    kept: Floats = between / (between + variance / sizes)
    return overall + kept * (differences - overall)
