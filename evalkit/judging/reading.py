"""From a judge's reply to a rating, by the grammar of its profile.

In: a profile, a question, the reply's text or probabilities. Out: a `Rating`, or what to ask a second time.
Must not depend on: engines, runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.definitions.judge import JudgeProfile
from evalkit.degeneration.reasoning import Parted, ends_reasoning, part_reasoning
from evalkit.errors import DataError
from evalkit.judging.plan import Question, Rating
from evalkit.judging.ratings import (
    Choice,
    ParsedChoice,
    ParsedRating,
    as_choice,
    choice_schema,
    fastchat_choice,
    fastchat_rating,
    holds_object,
    parse_choice,
    parse_json_choice,
    parse_json_rating,
    parse_rating,
    rating_schema,
)
from evalkit.records.record import JudgmentStatus

# A rating from the probabilities a judge gives to the numbers of the scale, or a choice from those of three letters.
#
# Small judges often fail to write a rating, and never fail to have probabilities. The mean is also finer than a whole
# number (G-Eval, Liu et al. 2023, arXiv:2303.16634, section 2, uses the same weighting).


CUE = "\n\nRating:"
"""What follows the question, so that a number is the natural next word."""

CHOICE_CUE = "\n\nBetter answer:"
"""The same for a letter."""

CHOICES = (" A", " B", " C")
"""The letters to score, as they follow `CHOICE_CUE`; C is a tie."""


@dataclass(frozen=True, kw_only=True)
class WeightedRating:
    """A probability-weighted rating.

    Attributes:
        score: mean of the numbers under `probabilities`.
        probabilities: of each number of the scale, lowest first; they sum to 1.
        mass: probability of any number of the scale as the next words, before normalising, in [0, 1]; a judge that
            wanted to say something else has little of it.
    """

    score: float
    probabilities: tuple[float, ...]
    mass: float


def continuations(scale: tuple[int, int]) -> tuple[str, ...]:
    """Return the texts to score: every whole number of the scale after a space, as it follows `CUE`."""
    return tuple(f" {number}" for number in range(scale[0], scale[1] + 1))


def weighted_rating(scale: tuple[int, int], logprobs: Sequence[float], tokens: Sequence[int]) -> WeightedRating:
    """Return the mean rating.

    A tokenizer that writes "10" as "1" and "0" gives "1" the probability of everything that begins with 1. Where a
    longer number of the scale has more tokens than its beginning, its probability is therefore taken off.

    Args:
        scale: lowest and highest rating, whole numbers.
        logprobs: of each number of the scale, lowest first, natural logarithm, shape (n,).
        tokens: length of each number, tokens, shape (n,).

    Raises:
        DataError: a wrong number of values, a non-finite one, or no probability at all.

    >>> weighted_rating((1, 2), [math.log(0.3), math.log(0.1)], [1, 1]).score
    1.25
    """
    numbers = list(range(scale[0], scale[1] + 1))
    if not len(numbers) == len(logprobs) == len(tokens) or not all(map(math.isfinite, logprobs)):
        raise DataError(f"{len(numbers)} finite log-probabilities were needed, not {list(logprobs)}")
    words = [str(number) for number in numbers]
    top = max(logprobs)
    relative = [math.exp(value - top) for value in logprobs]
    alone = []
    for word, weight, length in zip(words, relative, tokens, strict=True):
        longer = (
            other
            for text, other, size in zip(words, relative, tokens, strict=True)
            if len(text) == len(word) + 1 and text.startswith(word) and size > length
        )
        alone.append(max(0.0, weight - sum(longer)))
    total = math.fsum(alone)
    if total <= 0:
        raise DataError(f"no probability is left for any rating: {list(logprobs)}")
    probabilities = tuple(weight / total for weight in alone)
    return WeightedRating(
        score=math.fsum(number * weight for number, weight in zip(numbers, probabilities, strict=True)),
        probabilities=probabilities,
        mass=min(1.0, math.exp(top) * total),
    )


@dataclass(frozen=True, kw_only=True)
class WeightedChoice:
    """The likeliest choice.

    Attributes:
        choice: "A", "B" or "tie"; a tie too where the likeliest two are equal.
        probabilities: of A, B and C; they sum to 1.
        mass: probability of any of them as the next word, before normalising, in [0, 1].
    """

    choice: Choice
    probabilities: tuple[float, ...]
    mass: float


def likeliest_choice(logprobs: Sequence[float]) -> WeightedChoice:
    """Return the likeliest of A, B and C.

    Args:
        logprobs: of `CHOICES`, natural logarithm, shape (3,).

    Raises:
        DataError: a wrong number of values, or a non-finite one.

    >>> likeliest_choice([math.log(0.2), math.log(0.1), math.log(0.1)]).choice
    'A'
    """
    if len(logprobs) != len(CHOICES) or not all(map(math.isfinite, logprobs)):
        raise DataError(f"{len(CHOICES)} finite log-probabilities were needed, not {list(logprobs)}")
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    best = [letter for letter, value in zip("ABC", logprobs, strict=True) if value == top]
    return WeightedChoice(
        choice=as_choice(best[0]) if len(best) == 1 else "tie",
        probabilities=tuple(weight / math.fsum(weights) for weight in weights),
        mass=min(1.0, math.exp(top) * math.fsum(weights)),
    )


Finish = Literal["stop", "length"]

_FORMS = {
    "rating_text": "your rating alone, in the form [[n]], where n is a number from {low} to {high}",
    "rating_json": 'the JSON object alone, in the form {{"reasoning": "...", "rating": n}}, where n is a whole or half '
    "number from {low} to {high}",
    "choice_text": "your verdict alone: [[A]], [[B]], or [[C]] for a tie",
    "choice_json": 'the JSON object alone, in the form {{"reasoning": "...", "winner": "..."}}, where the winner is '
    "A, B or tie",
}
_PROBLEMS = {
    "out_of_range": "the number is not on the scale",
    "truncated": "it was cut off at the length limit",
    "planted": "the only verdict in it also stands in the material and may be a quotation",
    "several": "it holds several verdicts, and none of them stands alone on the last line",
    "reasoning": "it holds reasoning whose end cannot be told from the verdict",
    "contradicted": "a rating in plain words after the one in brackets is another one",
    "off_grid": "the number is neither whole nor half",
    "empty": "it is empty",
    "no_rating": "the object has no number under 'rating'",
    "no_winner": "the object has no 'A', 'B' or 'tie' under 'winner'",
}
_UNREADABLE = "no verdict in the form asked for is in it"

REASK = ("unparsed", "out_of_range", "truncated")
"""Statuses after which a judge may be asked once more."""

UNREAD = (*REASK, "api_error")
"""Statuses of a question that was asked and got no rating."""


def next_step(rating: Rating) -> str:
    """Return what helps against replies without a rating, as far as one of them shows it."""
    if rating.status == "api_error":
        return "look at the judge's server, then repeat the same command with --retry-failed"
    if rating.details.get("reason") == "reasoning" or "reasoning" in rating.details or rating.status == "truncated":
        return (
            "start the judge's server with a reasoning parser (vLLM, SGLang, trtllm-serve: --reasoning-parser), and "
            "give the profile's max_tokens room for the reasoning and the rating"
        )
    return "read some replies in judgments/, then choose another judge or a profile whose form it keeps to"


def writes(profile: JudgeProfile) -> bool:
    """Say whether the judge writes its rating; otherwise its probabilities are read."""
    return not profile.answer.endswith("_logprob")


def answer_schema(profile: JudgeProfile) -> str | None:
    """Return the JSON schema of the judge's reply as text, or None for a reply in words."""
    if profile.answer == "rating_json":
        return rating_schema()
    return choice_schema() if profile.answer == "choice_json" else None


def scored_texts(profile: JudgeProfile) -> tuple[str, tuple[str, ...]]:
    """Return the cue after the question and the next words whose probabilities are read."""
    return (CUE, continuations(profile.scale)) if profile.mode == "single" else (CHOICE_CUE, CHOICES)


def read_reply(profile: JudgeProfile, question: Question, text: str, finish: Finish, reasoning: str = "") -> Rating:
    """Return the rating in a written reply.

    Reasoning at the beginning of the text is taken off and kept in the details; so is `reasoning`, which a server sent
    apart. Nothing in it is ever a rating.
    """
    parted = _parted(profile, question, text)
    parsed = _parsed(profile, question, parted, finish)
    said = text if parted.form in ("unclosed", "unclear") else parted.answer
    details: dict[str, Any] = {
        "ambiguous": parsed.ambiguous,
        "reason": parsed.reason,
        "reference": question.reference,
    }
    thought = reasoning or (parted.reasoning if parted.form == "closed" else "")
    if thought:
        details["reasoning"] = thought
    if isinstance(parsed, ParsedRating):
        details["fastchat"] = fastchat_rating(text)
        return Rating(status=parsed.status, score=parsed.score, text=said, details=details)
    details |= {"choice": parsed.choice, "fastchat": fastchat_choice(text)}
    return Rating(status=parsed.status, score=choice_score(parsed.choice, question), text=said, details=details)


def _parted(profile: JudgeProfile, question: Question, text: str) -> Parted:
    """Part a reply; where the end of a block may be quoted from an answer, nobody can tell where the judge's own is."""
    whole = Parted(form="none", reasoning="", answer=text)
    if profile.answer.endswith("_json") and holds_object(text):
        return whole
    parted = part_reasoning(text)
    if parted.form == "closed" and any(ends_reasoning(answer) for answer in question.answers):
        return Parted(form="unclear", reasoning=text, answer="")
    return parted


def _parsed(profile: JudgeProfile, question: Question, parted: Parted, finish: Finish) -> ParsedRating | ParsedChoice:
    if parted.form in ("unclosed", "unclear"):
        cut: JudgmentStatus = "truncated" if finish == "length" else "unparsed"
        if profile.mode == "single":
            return ParsedRating(status=cut, score=None, reason="reasoning")
        return ParsedChoice(status=cut, choice=None, reason="reasoning")
    if profile.answer == "rating_json":
        return parse_json_rating(parted.answer, finish, profile.scale, question.answers)
    if profile.answer == "rating_text":
        return parse_rating(parted.answer, finish, profile.scale, question.answers)
    if profile.answer == "choice_json":
        return parse_json_choice(parted.answer, finish, question.answers)
    return parse_choice(parted.answer, finish, question.answers)


def read_probabilities(
    profile: JudgeProfile, question: Question, logprobs: Sequence[float], tokens: Sequence[int]
) -> Rating:
    """Return the rating in the log-probabilities of `scored_texts`, shape (k,).

    Raises:
        DataError: a value is not finite, or no probability is left.
    """
    if profile.mode == "pairwise":
        chosen = likeliest_choice(logprobs)
        details = {
            "choice": chosen.choice,
            "probabilities": list(chosen.probabilities),
            "mass": chosen.mass,
            "reference": question.reference,
        }
        return Rating(status="ok", score=choice_score(chosen.choice, question), details=details)
    found = weighted_rating(profile.scale, logprobs, tokens)
    return Rating(
        status="ok",
        score=found.score,
        details={
            "probabilities": list(found.probabilities),
            "mass": found.mass,
            "reference": question.reference,
        },
    )


def choice_score(choice: Choice | None, question: Question) -> float | None:
    """Return a choice as the score of the judged answer: 1 better, 0 a tie, -1 worse."""
    if choice is None:
        return None
    if question.judged_first is None:
        raise DataError(f"question {question.key} is about one answer, so it has no winner")
    if choice == "tie":
        return 0.0
    return 1.0 if (choice == "A") == question.judged_first else -1.0


def second_question(profile: JudgeProfile, rating: Rating) -> str:
    """Return the one further message after a reply that could not be read: what was wrong, and the form."""
    problem = _PROBLEMS.get(rating.status) or _PROBLEMS.get(str(rating.details.get("reason"))) or _UNREADABLE
    form = _FORMS[profile.answer].format(low=profile.scale[0], high=profile.scale[1])
    kind = "rating" if profile.mode == "single" else "verdict"
    return f"Your reply could not be read as a {kind}: {problem}. Reply now with {form}."


# What a judging will cost, before the first question is asked.


CHARACTERS_A_TOKEN = 4
"""Characters of English for each token, roughly."""

RATING_TOKENS = 200
"""Tokens a judge writes for a rating with its reasons, on average: 750 characters in published judgments."""

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
        """Return the money it costs at prices per million tokens, in the unit of the prices."""
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / _MILLION

    def told(self, price: tuple[float, float] | None) -> str:
        """Return one sentence, with the cost where prices per million input and output tokens are given."""
        if price is None:
            return self.text
        return f"{self.text}; about {self.cost(*price):.2f} at {price[0]:g} and {price[1]:g} per million tokens"

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
        completion_tokens=min(RATING_TOKENS, profile.max_tokens) * len(asked) if written else 0,
        most_completion_tokens=profile.max_tokens * len(asked) * again if written else 0,
        most_calls=len(asked) * again,
    )
