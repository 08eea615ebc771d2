"""Right-or-wrong items: the fourfold tables of what was seen and of both fills.

In: aligned outcomes, NaN where missing, and subjects. Out: `ProportionComparison`.
May not know: margins as such, verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.comparison.effects import EffectSizes, effect_sizes
from evalkit.comparison.plain import NOT_JSON
from evalkit.comparison.subjects import SubjectRow, subject_rows
from evalkit.comparison.units import UnitCodes, Units, view_units
from evalkit.errors import EstimateError
from evalkit.statistics.checks import Floats
from evalkit.statistics.clustered_tango import ClusteredPairs
from evalkit.statistics.paired_table import PairedTable


@dataclass(frozen=True, kw_only=True)
class ClusteredTables:
    """Pairs by cluster: those seen, and all planned ones under both fills."""

    observed: ClusteredPairs
    unfavourable: ClusteredPairs
    favourable: ClusteredPairs


@dataclass(frozen=True, kw_only=True)
class ProportionComparison:
    """A paired comparison of accuracies.

    Attributes:
        observed: pairs marked on both sides; None without any.
        unfavourable: all planned pairs, a missing candidate wrong and a missing baseline right.
        favourable: the reverse.
        effects: effect sizes of `observed`; None below two pairs.
        subjects: one row per subject, of `observed`.
        units: what counts as one; None without any pair.
        clustered: the three tables by cluster; None without any pair.
    """

    observed: PairedTable | None
    unfavourable: PairedTable
    favourable: PairedTable
    effects: EffectSizes | None
    subjects: tuple[SubjectRow, ...]
    units: Units | None = None
    clustered: ClusteredTables | None = field(default=None, repr=False, compare=False, metadata=NOT_JSON)


def compare_proportions(
    baseline: Floats,
    candidate: Floats,
    subjects: Sequence[str],
    unseen: int,
    *,
    margin: float,
    subjects_q: float,
    seed: int,
    codes: UnitCodes | None = None,
) -> ProportionComparison:
    """Compare outcomes 0 and 1, each of shape (n,), NaN where missing.

    Args:
        baseline: outcomes.
        candidate: outcomes.
        subjects: subject of each pair, shape (n,).
        unseen: planned pairs with no outcome on either side.
        margin: proportion, for the equivalence p-value.
        subjects_q: false-alarm share of the list of subjects.
        seed: of the bootstrap.
        codes: what each planned pair shares with others; None where each is a unit of its own.

    Raises:
        EstimateError: nothing was planned, or an outcome is neither 0 nor 1.
    """
    seen = ~np.isnan(baseline) & ~np.isnan(candidate)
    observed = PairedTable.from_outcomes(baseline[seen], candidate[seen]) if seen.any() else None
    names, found = np.unique(np.asarray(subjects, dtype=str)[seen], return_inverse=True)
    subject_codes = found.astype(np.int64)
    worst = _filled(baseline, candidate, missing_baseline=1.0, missing_candidate=0.0, unseen=unseen)
    best = _filled(baseline, candidate, missing_baseline=0.0, missing_candidate=1.0, unseen=unseen)
    view = view_units(codes, seen, candidate[seen] - baseline[seen]) if codes is not None and seen.any() else None
    tables: ClusteredTables | None = None
    if view is not None:
        tables = ClusteredTables(
            observed=ClusteredPairs.from_outcomes(baseline[seen], candidate[seen], view.observed),
            unfavourable=ClusteredPairs.from_outcomes(*worst, view.planned),
            favourable=ClusteredPairs.from_outcomes(*best, view.planned),
        )
    effects: EffectSizes | None = None
    rows: tuple[SubjectRow, ...] = ()
    if observed is not None and observed.n >= 2:
        differences = candidate[seen] - baseline[seen]
        rng = np.random.default_rng(seed)
        effects = effect_sizes(
            observed,
            differences,
            subject_codes,
            margin=margin,
            rng=rng,
            clustered_pairs=tables.observed if tables else None,
        )
        rows = subject_rows(names.tolist(), subject_codes, baseline[seen], candidate[seen], q=subjects_q)
    return ProportionComparison(
        observed=observed,
        unfavourable=PairedTable.from_outcomes(*worst),
        favourable=PairedTable.from_outcomes(*best),
        effects=effects,
        subjects=rows,
        units=view.units if view else None,
        clustered=tables,
    )


def _filled(
    baseline: Floats, candidate: Floats, *, missing_baseline: float, missing_candidate: float, unseen: int
) -> tuple[Floats, Floats]:
    if baseline.size + unseen == 0:
        raise EstimateError("nothing was planned, so there is nothing to compare")
    left = np.concatenate([np.nan_to_num(baseline, nan=missing_baseline), np.full(unseen, missing_baseline)])
    right = np.concatenate([np.nan_to_num(candidate, nan=missing_candidate), np.full(unseen, missing_candidate)])
    return left, right
