"""From a judge's reply to a verdict, by the grammar of its profile.

In: a profile, a question, the reply's text or probabilities. Out: a `Verdict`, or what to ask a second time.
May not know: engines, runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from evalkit.definitions import JudgeProfile
from evalkit.degeneration import Parted, ends_reasoning, part_reasoning
from evalkit.errors import DataError
from evalkit.judging.questions import Question, Verdict
from evalkit.judging.ratings import (
    Choice,
    ParsedChoice,
    ParsedRating,
    fastchat_choice,
    fastchat_rating,
    parse_choice,
    parse_rating,
)
from evalkit.judging.structured import (
    choice_schema,
    holds_object,
    parse_json_choice,
    parse_json_rating,
    rating_schema,
)
from evalkit.judging.weights import CHOICE_CUE, CHOICES, CUE, continuations, likeliest_choice, weighted_rating
from evalkit.records import JudgmentStatus

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
"""Statuses of a question that was asked and got no verdict."""


def next_step(verdict: Verdict) -> str:
    """Return what helps against replies without a verdict, as far as one of them shows it."""
    if verdict.status == "api_error":
        return "look at the judge's server, then repeat the same command with --retry-failed"
    if verdict.details.get("reason") == "reasoning" or "reasoning" in verdict.details or verdict.status == "truncated":
        return (
            "start the judge's server with a reasoning parser (vLLM, SGLang, trtllm-serve: --reasoning-parser), and "
            "give the profile's max_tokens room for the reasoning and the verdict"
        )
    return "read some replies in judgments/, then choose another judge or a profile whose form it keeps to"


def writes(profile: JudgeProfile) -> bool:
    """Say whether the judge writes its verdict; otherwise its probabilities are read."""
    return not profile.answer.endswith("_logprob")


def answer_schema(profile: JudgeProfile) -> str | None:
    """Return the JSON schema of the judge's reply as text, or None for a reply in words."""
    if profile.answer == "rating_json":
        return rating_schema()
    return choice_schema() if profile.answer == "choice_json" else None


def scored_texts(profile: JudgeProfile) -> tuple[str, tuple[str, ...]]:
    """Return the cue after the question and the next words whose probabilities are read."""
    return (CUE, continuations(profile.scale)) if profile.mode == "single" else (CHOICE_CUE, CHOICES)


def read_reply(profile: JudgeProfile, question: Question, text: str, finish: Finish, reasoning: str = "") -> Verdict:
    """Return the verdict in a written reply.

    Reasoning at the beginning of the text is taken off and kept in the details; so is `reasoning`, which a server sent
    apart. Nothing in it is ever a verdict.
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
        return Verdict(status=parsed.status, score=parsed.score, text=said, details=details)
    details |= {"choice": parsed.choice, "fastchat": fastchat_choice(text)}
    return Verdict(status=parsed.status, score=choice_score(parsed.choice, question), text=said, details=details)


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
) -> Verdict:
    """Return the verdict in the log-probabilities of `scored_texts`, shape (k,).

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
        return Verdict(status="ok", score=choice_score(chosen.choice, question), details=details)
    found = weighted_rating(profile.scale, logprobs, tokens)
    return Verdict(
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


def second_question(profile: JudgeProfile, verdict: Verdict) -> str:
    """Return the one further message after a reply that could not be read: what was wrong, and the form."""
    problem = _PROBLEMS.get(verdict.status) or _PROBLEMS.get(str(verdict.details.get("reason"))) or _UNREADABLE
    form = _FORMS[profile.answer].format(low=profile.scale[0], high=profile.scale[1])
    kind = "rating" if profile.mode == "single" else "verdict"
    return f"Your reply could not be read as a {kind}: {problem}. Reply now with {form}."
