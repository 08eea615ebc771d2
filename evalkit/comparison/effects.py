"""Every effect size a report shows for right-or-wrong items.

In: a table of complete pairs, outcomes by subject. Out: `EffectSizes`, unrounded.
May not know: verdicts. The margin is only there for the equivalence p-value.

The intervals speak for the wider population the items stand for, unless their name says otherwise: the clustered ones
speak for further subjects, as a sensitivity analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evalkit.comparison.attempts import Attempts
from evalkit.statistics.agreement import FlipRate
from evalkit.statistics.bootstrap import bootstrap_mean_interval
from evalkit.statistics.checks import Floats, Integers
from evalkit.statistics.clustered_tango import ClusteredPairs, clustered_tango_interval
from evalkit.statistics.clusters import ClusteredMean, clustered_mean
from evalkit.statistics.interval import Interval
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
