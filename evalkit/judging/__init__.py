"""Judging: which words a judge is asked with, and how its answer becomes a rating or a choice.

In: answers, a judge profile, reference answers. Out: questions to put to a judge, verdicts read from what came back.
May not know: engines, which run is the baseline, files under `outputs/`.
"""

from __future__ import annotations

from evalkit.judging.pairs import pair_sha256, plan_pairs
from evalkit.judging.plan import plan_judging
from evalkit.judging.questions import JudgingPlan, Place, Question, Verdict
from evalkit.judging.ratings import fastchat_choice, fastchat_rating, parse_choice, parse_rating
from evalkit.judging.structured import choice_schema, parse_json_choice, parse_json_rating, rating_schema
from evalkit.judging.weights import WeightedRating, weighted_rating
from evalkit.judging.words import JudgeWords, load_words

__all__ = [
    "JudgeWords",
    "JudgingPlan",
    "Place",
    "Question",
    "Verdict",
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
