"""Right-or-wrong items: the fourfold tables of what was seen and of both fills.

In: aligned outcomes, NaN where missing, and subjects. Out: `ProportionComparison`.
Must not depend on: margins as such, verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.comparison.means import Attempts
from evalkit.comparison.units import UnitCodes, Units, view_units
from evalkit.errors import EstimateError
from evalkit.records.canonical import NOT_JSON
from evalkit.statistics.agreement import FlipRate
from evalkit.statistics.checks import Floats, Integers, Interval
from evalkit.statistics.clustered_tango import ClusteredPairs, clustered_tango_interval
from evalkit.statistics.clusters import ClusteredMean, bootstrap_mean_interval, clustered_mean
from evalkit.statistics.multiplicity import benjamini_hochberg
from evalkit.statistics.paired_proportions import (
    DiscordantRatio,
    McNemar,
    PairedTable,
    Recovery,
    discordant_ratio,
    mcnemar,
    newcombe_interval,
    recovery_ratio,
    tango_interval,
    tost_p,
    wilson_interval,
)

# Every effect size a report shows for right-or-wrong items.
#
# The intervals speak for the wider population the items stand for, unless their name says otherwise: the clustered ones
# speak for further subjects, as a sensitivity analysis.


@dataclass(frozen=True, kw_only=True)
class EffectSizes:
    """Effect sizes of one fourfold table; differences are candidate minus baseline, as proportions.

    Attributes:
        n: complete pairs; every interval here is from them.
        difference: D.
        interval: Tango's, at 95 %, by cluster where items share one; decides nothing itself but agrees with the test.
        newcombe: Newcombe's method 10, as a check.
        baseline_accuracy, candidate_accuracy: proportions.
        flips: discordance with its Wilson interval.
        mcnemar: p-values of "as many losses as gains".
        gains_per_loss: n01/n10 with an exact interval.
        equivalence_margin, equivalence_p: two one-sided tests at the first margin.
        recovery: p_c/p_b with its interval.
        clustered: mean difference with its standard error over subjects and the design effect.
        clustered_interval: at 95 %, over further subjects.
        bootstrap: interval of D from resampled subjects (sensitivity), at 95 %.
        macro_difference: mean of the subjects' differences.
        unavailable: what could not be estimated, and why.
    """

    n: int
    difference: float
    interval: Interval
    newcombe: Interval
    baseline_accuracy: float
    candidate_accuracy: float
    flips: FlipRate
    mcnemar: McNemar
    gains_per_loss: DiscordantRatio | None
    equivalence_margin: float
    equivalence_p: float
    recovery: Recovery | None
    clustered: ClusteredMean | None
    clustered_interval: Interval | None
    bootstrap: Interval | None
    macro_difference: float
    unavailable: Mapping[str, str]


def effect_sizes(
    table: PairedTable,
    differences: Floats,
    subjects: Integers,
    *,
    margin: float,
    rng: np.random.Generator,
    clustered_pairs: ClusteredPairs | None = None,
) -> EffectSizes:
    """Return all effect sizes of a table of at least two pairs.

    Args:
        table: complete pairs.
        differences: -1, 0 or 1 for each pair, shape (n,).
        subjects: subject code of each pair, 0 to s - 1 without gaps, shape (n,).
        margin: proportion, for the equivalence test.
        rng: for the bootstrap.
        clustered_pairs: the same pairs by cluster; None where each is a unit of its own.

    Raises:
        EstimateError: fewer than two pairs.
    """
    attempts = Attempts()
    clustered = attempts.make("clustered", lambda: clustered_mean(differences, subjects))
    return EffectSizes(
        n=table.n,
        difference=table.difference,
        interval=tango_interval(table) if clustered_pairs is None else clustered_tango_interval(clustered_pairs),
        newcombe=newcombe_interval(table),
        baseline_accuracy=table.baseline_accuracy,
        candidate_accuracy=table.candidate_accuracy,
        flips=FlipRate(
            flips=table.discordant,
            n=table.n,
            rate=table.discordance,
            interval=wilson_interval(table.discordant, table.n),
        ),
        mcnemar=mcnemar(table.n10, table.n01),
        gains_per_loss=attempts.make("gains_per_loss", lambda: discordant_ratio(table.n10, table.n01)),
        equivalence_margin=margin,
        equivalence_p=tost_p(table, margin),
        recovery=attempts.make("recovery", lambda: recovery_ratio(clustered_pairs or table)),
        clustered=clustered,
        clustered_interval=clustered.interval() if clustered else None,
        bootstrap=attempts.make(
            "bootstrap",
            lambda: bootstrap_mean_interval(differences, rng, method="percentile", clusters=subjects),
        ),
        macro_difference=float((np.bincount(subjects, weights=differences) / np.bincount(subjects)).mean()),
        unavailable=attempts.unavailable,
    )


# Where do the differences sit? One row per subject, advisory.


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
