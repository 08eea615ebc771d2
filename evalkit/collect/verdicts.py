"""Put questions to a judge and read its verdicts.

In: questions, a profile, the judge's engine. Out: one verdict for each question.
May not know: runs, files, who answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalkit.adapters.base import Engine, Failure, GenerateRequest, Generation, Message, ScoreReply, ScoreRequest
from evalkit.collect.asking import each_once
from evalkit.definitions import JudgeProfile
from evalkit.errors import DataError
from evalkit.judging import Question, fastchat_rating, parse_rating, weighted_rating
from evalkit.judging.plan import Verdict
from evalkit.judging.weights import CUE, continuations
from evalkit.records import JudgmentStatus

_REASK = (
    "Your reply could not be read as a rating ({problem}). "
    "Reply now with your rating alone, in the form [[n]], where n is a number from {low} to {high}."
)
_PROBLEMS = {
    "unparsed": "there is no [[n]] in it",
    "out_of_range": "the number is not on the scale",
    "truncated": "it was cut off at the length limit",
}


def verdicts(
    engine: Engine, profile: JudgeProfile, questions: Sequence[Question]
) -> Iterator[tuple[Question, Verdict]]:
    """Ask a judge each question and read its replies, as they come, in any order.

    Raises:
        EngineError: the engine left out a question or answered one twice.
    """
    if not questions:
        return
    if profile.answer == "rating_logprob":
        yield from _by_probability(engine, profile, questions)
        return
    unread: list[tuple[Question, Generation]] = []
    requests = [_request(profile, question, _messages(question)) for question in questions]
    for index, reply in each_once(engine.generate(requests), len(requests)):
        verdict = _read(profile, questions[index], reply)
        if profile.reask and isinstance(reply, Generation) and verdict.status in _PROBLEMS:
            unread.append((questions[index], reply))
        else:
            yield questions[index], verdict
    if unread:
        yield from _again(engine, profile, unread)


def _again(
    engine: Engine, profile: JudgeProfile, unread: Sequence[tuple[Question, Generation]]
) -> Iterator[tuple[Question, Verdict]]:
    """Ask once more, saying what was wrong; a second unreadable reply stays unread."""
    requests = []
    for question, first in unread:
        problem = _PROBLEMS[_read(profile, question, first).status]
        words = _REASK.format(problem=problem, low=profile.scale[0], high=profile.scale[1])
        said = (Message(role="assistant", content=first.text), Message(role="user", content=words))
        requests.append(_request(profile, question, (*_messages(question), *said)))
    for index, reply in each_once(engine.generate(requests), len(requests)):
        question, first = unread[index]
        verdict = _read(profile, question, reply)
        details = {**verdict.details, "asked_again": True, "first_text": first.text}
        yield question, Verdict(status=verdict.status, score=verdict.score, text=verdict.text, details=details)


def _messages(question: Question) -> tuple[Message, ...]:
    system = (Message(role="system", content=question.system),) if question.system else ()
    return (*system, Message(role="user", content=question.user))


def _request(profile: JudgeProfile, question: Question, messages: tuple[Message, ...]) -> GenerateRequest:
    return GenerateRequest(
        prompt=messages, max_tokens=profile.max_tokens, temperature=profile.temperature, seed=question.seed
    )


def _read(profile: JudgeProfile, question: Question, reply: Generation | Failure) -> Verdict:
    if isinstance(reply, Failure):
        return _unanswered(reply)
    text = reply.text.encode("utf-8", "replace").decode()
    parsed = parse_rating(text, reply.finish, profile.scale)
    details = {
        "ambiguous": parsed.ambiguous,
        "reason": parsed.reason,
        "fastchat": fastchat_rating(text),
        "reference": question.reference,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
    }
    return Verdict(status=parsed.status, score=parsed.score, text=text, details=details)


def _by_probability(
    engine: Engine, profile: JudgeProfile, questions: Sequence[Question]
) -> Iterator[tuple[Question, Verdict]]:
    numbers = continuations(profile.scale)
    requests = [
        ScoreRequest(context="\n\n".join(filter(None, (question.system, question.user))) + CUE, continuations=numbers)
        for question in questions
    ]
    for index, reply in each_once(engine.score(requests), len(requests)):
        yield questions[index], _weighed(profile, questions[index], reply)


def _weighed(profile: JudgeProfile, question: Question, reply: ScoreReply | Failure) -> Verdict:
    if isinstance(reply, Failure):
        return _unanswered(reply)
    try:
        found = weighted_rating(profile.scale, reply.logprobs, reply.tokens)
    except DataError as error:
        return _unanswered(Failure(kind="non-finite", message=str(error)))
    details = {
        "probabilities": list(found.probabilities),
        "mass": found.mass,
        "reference": question.reference,
    }
    return Verdict(status="ok", score=found.score, details=details)


def _unanswered(failure: Failure) -> Verdict:
    status: JudgmentStatus = "refused" if failure.kind == "refused" else "api_error"
    message = f"{failure.kind}: {failure.message}".encode("utf-8", "replace").decode()
    return Verdict(status=status, score=None, details={"failure": message})
