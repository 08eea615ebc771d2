"""Judging: which words a judge is asked with, and how its answer becomes a rating.

In: answers, a judge profile, reference answers. Out: questions to put to a judge, ratings read from what came back.
May not know: engines, which run is the baseline, files under `outputs/`.
"""

from __future__ import annotations

from evalkit.judging.plan import JudgingPlan, Question, plan_judging
from evalkit.judging.ratings import fastchat_rating, parse_choice, parse_rating
from evalkit.judging.weights import WeightedRating, weighted_rating
from evalkit.judging.words import JudgeWords, load_words

__all__ = [
    "JudgeWords",
    "JudgingPlan",
    "Question",
    "WeightedRating",
    "fastchat_rating",
    "load_words",
    "parse_choice",
    "parse_rating",
    "plan_judging",
    "weighted_rating",
]
