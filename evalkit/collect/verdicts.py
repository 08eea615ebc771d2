"""Put questions to a judge and read its verdicts.

In: questions, a profile, the judge's engine, a budget. Out: one verdict for each question.
May not know: runs, files, who answered, how a verdict is worded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from evalkit.adapters.base import (
    Engine,
    Failure,
    GenerateRequest,
    Generation,
    Message,
    ScoreReply,
    ScoreRequest,
    watch_waste,
)
from evalkit.collect.asking import each_once
from evalkit.collect.budget import Budget
from evalkit.definitions import JudgeProfile
from evalkit.errors import DataError
from evalkit.judging import Question, Verdict
from evalkit.judging.reading import (
    REASK,
    answer_schema,
    read_probabilities,
    read_reply,
    scored_texts,
    second_question,
    writes,
)
from evalkit.records import JudgmentStatus

R = TypeVar("R", GenerateRequest, ScoreRequest)
A = TypeVar("A", Generation | Failure, ScoreReply | Failure)


def verdicts(
    engine: Engine, profile: JudgeProfile, questions: Sequence[Question], budget: Budget | None = None
) -> Iterator[tuple[Question, Verdict]]:
    """Ask a judge each question and read its replies, as they come, in any order.

    Raises:
        EngineError: the engine left out a question or answered one twice.
        InterruptedRunError: the budget is used up.
    """
    if not questions:
        return
    spent = budget or Budget()
    if not writes(profile):
        yield from _by_probability(engine, profile, questions, spent)
        return
    unread: list[tuple[Question, Generation]] = []
    requests = [_request(profile, question, _messages(question)) for question in questions]
    for index, reply in _asked(engine, engine.generate, requests, spent):
        verdict = _read(profile, questions[index], reply)
        if profile.reask and isinstance(reply, Generation) and verdict.status in REASK:
            unread.append((questions[index], reply))
        else:
            yield questions[index], verdict
    if unread:
        yield from _again(engine, profile, unread, spent)


def _asked(
    engine: Engine, ask: Callable[[Sequence[R]], Iterator[tuple[int, A]]], requests: Sequence[R], budget: Budget
) -> Iterator[tuple[int, A]]:
    """Send requests as far as the budget goes, all at once where it covers them, and count what they use."""
    start = 0
    while start < len(requests):
        count = budget.affordable(requests[start:])
        left = dict(enumerate(requests[start : start + count]))
        budget.reserve(list(left.values()))
        watch_waste(engine, budget.wasted)
        try:
            for index, reply in each_once(ask(requests[start : start + count]), count):
                budget.used(left.pop(index), reply)
                yield start + index, reply
        finally:
            watch_waste(engine, None)
            budget.release(list(left.values()))
        start += count


def _again(
    engine: Engine, profile: JudgeProfile, unread: Sequence[tuple[Question, Generation]], budget: Budget
) -> Iterator[tuple[Question, Verdict]]:
    """Ask once more, saying what was wrong; a second unreadable reply stays unread."""
    requests = []
    for question, first in unread:
        words = second_question(profile, _read(profile, question, first))
        said = (Message(role="assistant", content=first.text), Message(role="user", content=words))
        requests.append(_request(profile, question, (*_messages(question), *said)))
    for index, reply in _asked(engine, engine.generate, requests, budget):
        question, first = unread[index]
        verdict = _read(profile, question, reply)
        details = {
            **verdict.details,
            "asked_again": True,
            "first_text": _encodable(first.text),
            "prompt_tokens": first.prompt_tokens + verdict.details.get("prompt_tokens", 0),
            "completion_tokens": first.completion_tokens + verdict.details.get("completion_tokens", 0),
        }
        yield question, Verdict(status=verdict.status, score=verdict.score, text=verdict.text, details=details)


def _messages(question: Question) -> tuple[Message, ...]:
    system = (Message(role="system", content=question.system),) if question.system else ()
    return (*system, Message(role="user", content=question.user))


def _request(profile: JudgeProfile, question: Question, messages: tuple[Message, ...]) -> GenerateRequest:
    return GenerateRequest(
        prompt=messages,
        max_tokens=profile.max_tokens,
        temperature=profile.temperature,
        seed=question.seed,
        json_schema=answer_schema(profile),
    )


def _read(profile: JudgeProfile, question: Question, reply: Generation | Failure) -> Verdict:
    if isinstance(reply, Failure):
        return _unanswered(reply)
    verdict = read_reply(profile, question, _encodable(reply.text), reply.finish, _encodable(reply.reasoning))
    tokens = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens}
    return Verdict(status=verdict.status, score=verdict.score, text=verdict.text, details={**verdict.details, **tokens})


def _by_probability(
    engine: Engine, profile: JudgeProfile, questions: Sequence[Question], budget: Budget
) -> Iterator[tuple[Question, Verdict]]:
    cue, texts = scored_texts(profile)
    requests = [
        ScoreRequest(context="\n\n".join(filter(None, (question.system, question.user))) + cue, continuations=texts)
        for question in questions
    ]
    for index, reply in _asked(engine, engine.score, requests, budget):
        yield questions[index], _weighed(profile, questions[index], reply)


def _weighed(profile: JudgeProfile, question: Question, reply: ScoreReply | Failure) -> Verdict:
    if isinstance(reply, Failure):
        return _unanswered(reply)
    try:
        return read_probabilities(profile, question, reply.logprobs, reply.tokens)
    except DataError as error:
        return _unanswered(Failure(kind="non-finite", message=str(error)))


def _unanswered(failure: Failure) -> Verdict:
    status: JudgmentStatus = "refused" if failure.kind == "refused" else "api_error"
    message = _encodable(f"{failure.kind}: {failure.message}")
    return Verdict(status=status, score=None, details={"failure": message})


def _encodable(text: str) -> str:
    """Return a text that any file can hold: a server may send half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()
