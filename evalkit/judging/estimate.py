"""What a judging will cost, before the first question is asked.

In: the questions of a plan. Out: calls and tokens, and money for prices that the user gives.
May not know: any price; who judges; what was judged before, unless those questions are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.definitions import JudgeProfile
from evalkit.judging.questions import Question
from evalkit.judging.reading import writes

CHARACTERS_A_TOKEN = 4
"""Characters of English for each token, roughly."""

VERDICT_TOKENS = 200
"""Tokens a judge writes for a verdict with its reasons, on average: 750 characters in published judgments."""

_MILLION = 1e6


@dataclass(frozen=True, kw_only=True)
class JudgingEstimate:
    """What is to be asked.

    Attributes:
        calls: questions to put to the judge.
        free: judgments without a question: answers that are equal or that a rule scores.
        prompt_tokens: to be read by the judge, estimated from characters.
        completion_tokens: to be written by it, on average; 0 where only its probabilities are read.
        most_completion_tokens: the same if every reply reached its limit.
        most_calls: calls if every reply had to be asked for twice.
    """

    calls: int
    free: int
    prompt_tokens: int
    completion_tokens: int
    most_completion_tokens: int
    most_calls: int

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the money it costs at prices for a million tokens, in the unit of the prices."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / _MILLION

    def told(self, price: tuple[float, float] | None) -> str:
        """Return one sentence, with the cost where prices for a million tokens read and written are given."""
        if price is None:
            return self.text
        return f"{self.text}; about {self.cost(*price):.2f} at {price[0]:g} and {price[1]:g} for a million tokens"

    @property
    def text(self) -> str:
        """One sentence."""
        written = f", about {self.completion_tokens:,} written" if self.completion_tokens else ""
        most = f" (at most {self.most_completion_tokens:,})" if self.completion_tokens else ""
        return (
            f"{self.calls:,} questions to the judge, {self.free:,} judgments free of charge; about "
            f"{self.prompt_tokens:,} tokens read{written}{most}"
        )


def estimate(profile: JudgeProfile, questions: Sequence[Question]) -> JudgingEstimate:
    """Estimate what a list of questions costs; rule-scored ones are free."""
    asked = [question for question in questions if question.rule is None]
    judgments = sum(len(question.places) for question in questions)
    characters = sum(len(question.user) + len(question.system or "") for question in asked)
    written = writes(profile)
    again = 2 if profile.reask else 1
    return JudgingEstimate(
        calls=len(asked),
        free=max(0, judgments - len(asked)),
        prompt_tokens=-(-characters // CHARACTERS_A_TOKEN),
        completion_tokens=min(VERDICT_TOKENS, profile.max_tokens) * len(asked) if written else 0,
        most_completion_tokens=profile.max_tokens * len(asked) * again if written else 0,
        most_calls=len(asked) * again,
    )
