"""Judging: which words a judge is asked with, and how its answer becomes a rating or a choice.

In: answers, a judge profile, reference answers. Out: questions to put to a judge, ratings read from what came back.
Must not depend on: engines, which run is the baseline, files under `outputs/`.
"""

from __future__ import annotations

from evalkit.judging.plan import JudgingPlan, Place, Question, Rating, pair_sha256, plan_judging, plan_pairs
from evalkit.judging.ratings import (
    JudgeWords,
    choice_schema,
    fastchat_choice,
    fastchat_rating,
    load_words,
    parse_choice,
    parse_json_choice,
    parse_json_rating,
    parse_rating,
    rating_schema,
)
from evalkit.judging.reading import WeightedRating, weighted_rating

__all__ = [
    "JudgeWords",
    "JudgingPlan",
    "Place",
    "Question",
    "Rating",
    "WeightedRating",
    "choice_schema",
    "fastchat_choice",
    "fastchat_rating",
    "load_words",
    "pair_sha256",
    "parse_choice",
    "parse_json_choice",
    "parse_json_rating",
    "parse_rating",
    "plan_judging",
    "plan_pairs",
    "rating_schema",
    "weighted_rating",
]
