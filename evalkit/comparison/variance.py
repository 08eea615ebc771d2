"""Where does the noise of a rating come from, and what would buy most of it off?

In: the spread of question differences, of generations, of judgments, and the effort. Out: `VarianceParts`.
May not know: margins, verdicts, prices.

The variance of a question's difference is tau^2 + (2/G) sg^2 + (2/(T G J)) sj^2: what truly differs from question to
question, what another generation would change, what another judgment would change (T turns, G generations, J
judgments). Doubling questions, generations or judgments doubles the judge's work alike, so what each saves can be
compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Effort = Literal["questions", "generations", "judgments"]


@dataclass(frozen=True, kw_only=True)
class VarianceParts:
    """Parts of the variance of a question's difference.

    Attributes:
        sd: standard deviation of a question's difference, as observed.
        question: share of the variance that no second generation or judgment would change; while the judge's or the
            model's own share is unknown, it is in here.
        generation: share of the model's own dice; None if unknown (one generation, or one judgment, of each answer).
        judge: share of the judge's noise; None if unknown (one judgment of each answer).
        factors: what the standard error is multiplied by if one effort is doubled; an unknown one is absent.
        advice: the effort, questions aside, whose doubling helps most; None if nothing is known of either.
    """

    sd: float
    question: float
    generation: float | None
    judge: float | None
    factors: dict[Effort, float]
    advice: Effort | None


def variance_parts(
    sd: float | None,
    *,
    turns: int,
    generations: int,
    repeats: int,
    generation_sd: float | None,
    judgment_sd: float | None,
) -> VarianceParts | None:
    """Split a variance; None where the differences do not vary.

    A part that is estimated larger than the whole (both are noisy) takes all of it.

    >>> parts = variance_parts(1.0, turns=2, generations=1, repeats=2, generation_sd=None, judgment_sd=0.6)
    >>> round(parts.judge, 2), round(parts.factors["judgments"], 3), parts.advice
    (0.18, 0.954, 'judgments')
    """
    if sd is None or sd <= 0.0:
        return None
    total = sd**2
    judging = None if judgment_sd is None else 2.0 * judgment_sd**2 / (turns * generations * repeats)
    dice = None if generation_sd is None else 2.0 * generation_sd**2 / generations
    judge = None if judging is None else min(1.0, judging / total)
    generation = None if dice is None else min(1.0 - (judge or 0.0), dice / total)
    question = max(0.0, 1.0 - (judge or 0.0) - (generation or 0.0))
    factors: dict[Effort, float] = {"questions": math.sqrt(0.5)}
    if generation is not None:
        factors["generations"] = math.sqrt(question + (generation + (judge or 0.0)) / 2.0)
    if judge is not None:
        factors["judgments"] = math.sqrt(question + (generation or 0.0) + judge / 2.0)
    return VarianceParts(
        sd=sd,
        question=question,
        generation=generation,
        judge=judge,
        factors=factors,
        advice=_best(factors),
    )


def _best(factors: dict[Effort, float]) -> Effort | None:
    others = sorted((factor, name) for name, factor in factors.items() if name != "questions")
    return others[0][1] if others else None
