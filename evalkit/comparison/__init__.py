"""Comparisons: one task, two runs, paired item by item.

In: two runs. Out: `Comparison` with everything that is estimated and everything that forbids judging.
Must not depend on: verdicts; how runs are collected; where they lie.
"""

from __future__ import annotations

from evalkit.comparison.answers import AnswerComparison, GateComparison
from evalkit.comparison.compare import Comparison, DistributionShift, compare, compare_endpoints
from evalkit.comparison.conversations import QuestionScore, RatingComparison, count_drops
from evalkit.comparison.means import (
    AggregateComparison,
    FilledDifferences,
    GroupMean,
    MeanComparison,
    PublishedAccuracy,
    compare_aggregate,
)
from evalkit.comparison.pairing import Coverage, SideCoverage
from evalkit.comparison.pairwise import PairwiseComparison
from evalkit.comparison.proportions import EffectSizes, ProportionComparison, SubjectRow
from evalkit.comparison.runs import ComparisonSettings, Difference, Fault, RunLabel, RunView, settings_for
from evalkit.comparison.units import Grouping, Units
from evalkit.records.canonical import to_plain

__all__ = [
    "AggregateComparison",
    "AnswerComparison",
    "Comparison",
    "ComparisonSettings",
    "Coverage",
    "Difference",
    "DistributionShift",
    "EffectSizes",
    "Fault",
    "FilledDifferences",
    "GateComparison",
    "GroupMean",
    "Grouping",
    "MeanComparison",
    "PairwiseComparison",
    "ProportionComparison",
    "PublishedAccuracy",
    "QuestionScore",
    "RatingComparison",
    "RunLabel",
    "RunView",
    "SideCoverage",
    "SubjectRow",
    "Units",
    "compare",
    "compare_aggregate",
    "compare_endpoints",
    "count_drops",
    "settings_for",
    "to_plain",
]
