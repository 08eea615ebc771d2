"""Comparisons: one task, two runs, paired item by item.

In: two runs. Out: `Comparison` with everything that is estimated and everything that forbids judging.
May not know: verdicts; how runs are collected; where they lie.
"""

from __future__ import annotations

from evalkit.comparison.aggregate import AggregateComparison, PublishedAccuracy, compare_aggregate
from evalkit.comparison.answers import AnswerComparison
from evalkit.comparison.choices import DistributionShift
from evalkit.comparison.compare import Comparison, compare, compare_endpoints
from evalkit.comparison.conversations import GroupMean, QuestionScore, RatingComparison, count_drops
from evalkit.comparison.coverage import Coverage, SideCoverage
from evalkit.comparison.differences import Difference
from evalkit.comparison.effects import EffectSizes
from evalkit.comparison.gates import GateComparison
from evalkit.comparison.means import FilledDifferences, MeanComparison
from evalkit.comparison.pairwise import PairwiseComparison
from evalkit.comparison.plain import to_plain
from evalkit.comparison.proportions import ProportionComparison
from evalkit.comparison.runs import Fault, RunLabel, RunView
from evalkit.comparison.settings import ComparisonSettings, settings_for
from evalkit.comparison.subjects import SubjectRow
from evalkit.comparison.units import Grouping, Units

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
