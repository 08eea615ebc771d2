"""What every engine promises (`evalkit/adapters/base.py`), whoever made it."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, ScoreReply, ScoreRequest
from evalkit.errors import EngineError
from evalkit.records import EngineIdentity, build, canonical_json

FRANCE = "The capital of France is"
SCORES = (
    ScoreRequest(context=FRANCE, continuations=(" Paris", " Rome", " a very large town")),
    ScoreRequest(context="Water boils when it is", continuations=(" hot", " cold")),
    ScoreRequest(context=f"{FRANCE} Paris. The capital of Italy is", continuations=(" Rome", " Paris")),
    ScoreRequest(context="Two and two make", continuations=(" four", " a number near five", " six", " seven of them")),
    ScoreRequest(context=FRANCE, continuations=(" Paris", " Rome", " a very large town")),
)
LONG = "so " * 200
TALK = (
    Message(role="system", content="You are brief."),
    Message(role="user", content="Say yes."),
    Message(role="assistant", content="Yes."),
    Message(role="user", content="Say it again."),
)
PROMPTS = ("Once upon a time", "The sky is", TALK, "Once upon a time")
MAX_TOKENS = 6


def scored(engine: Any, requests: Sequence[ScoreRequest]) -> list[Any]:
    return in_order(engine.score(requests), len(requests))


def generated(engine: Any, *requests: GenerateRequest) -> list[Any]:
    return in_order(engine.generate(requests), len(requests))


def in_order(replies: Iterator[tuple[int, Any]], count: int) -> list[Any]:
    found = list(replies)
    assert sorted(index for index, _ in found) == list(range(count)), "each request is answered once"
    return [reply for _, reply in sorted(found, key=lambda pair: pair[0])]


def ask(prompt: Any = "Once upon a time", **changes: Any) -> GenerateRequest:
    return GenerateRequest(**{"prompt": prompt, "max_tokens": MAX_TOKENS, **changes})


def furthest(left: Sequence[ScoreReply], right: Sequence[ScoreReply]) -> float:
    return max(
        abs(a - b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


def test_scores_have_one_finite_number_a_flag_and_a_length_for_each_continuation(engine):
    for request, reply in zip(SCORES, scored(engine, SCORES), strict=True):
        assert isinstance(reply, ScoreReply)
        assert len(reply.logprobs) == len(reply.greedy) == len(reply.tokens) == len(request.continuations)
        assert all(type(value) is float and math.isfinite(value) and value <= 0.0 for value in reply.logprobs)
        assert all(type(flag) is bool for flag in reply.greedy)
        assert all(type(tokens) is int and tokens >= 1 for tokens in reply.tokens)


def test_a_greedy_continuation_of_one_token_is_the_likeliest_one(engine):
    for reply in scored(engine, SCORES):
        greedy = [
            place for place, (flag, n) in enumerate(zip(reply.greedy, reply.tokens, strict=True)) if flag and n == 1
        ]
        singles = [value for value, n in zip(reply.logprobs, reply.tokens, strict=True) if n == 1]
        assert all(reply.logprobs[place] == max(singles) for place in greedy)


def test_scores_do_not_depend_on_order_or_company(engine, rounding):
    tolerance = rounding(SCORES)
    together = scored(engine, SCORES)
    backwards = scored(engine, SCORES[::-1])[::-1]
    alone = [scored(engine, [request])[0] for request in SCORES]
    assert furthest(together, backwards) <= tolerance
    assert furthest(together, alone) <= tolerance
    assert [reply.tokens for reply in together] == [reply.tokens for reply in backwards] == [r.tokens for r in alone]


def test_a_continuation_does_not_depend_on_the_others_of_its_request(engine, rounding):
    if engine.identity.adapter == "scripted":
        pytest.skip("a scripted answer is drawn for a place among continuations")
    together = scored(engine, SCORES)
    backwards = scored(engine, [replace(request, continuations=request.continuations[::-1]) for request in SCORES])
    backwards = [replace(reply, logprobs=reply.logprobs[::-1]) for reply in backwards]
    assert furthest(together, backwards) <= rounding(SCORES)
    assert furthest(together, one_by_one(engine)) <= rounding(SCORES)


def one_by_one(engine: Any) -> list[ScoreReply]:
    """Each continuation asked as a request of its own."""
    replies = []
    for request in SCORES:
        parts = scored(engine, [replace(request, continuations=(text,)) for text in request.continuations])
        replies.append(replace(parts[0], logprobs=tuple(part.logprobs[0] for part in parts)))
    return replies


def test_the_same_question_gets_the_same_answer(engine, rounding):
    first, second = scored(engine, SCORES), scored(engine, SCORES)
    assert first == second
    assert SCORES[0] == SCORES[-1]
    assert furthest(first[:1], first[-1:]) <= rounding(SCORES)
    assert generated(engine, ask()) == generated(engine, ask())


def test_different_questions_get_different_scores(engine):
    first, second = scored(engine, [ScoreRequest(context=text, continuations=(" Paris", " Rome")) for text in "AB"])
    assert first.logprobs != second.logprobs


def test_an_empty_context_is_scored(engine):
    (reply,) = scored(engine, [ScoreRequest(context="", continuations=("The", "A house"))])
    assert isinstance(reply, ScoreReply)
    assert len(set(reply.logprobs)) == 2


def test_a_continuation_of_several_tokens_is_scored_whole(engine):
    (reply,) = scored(engine, [ScoreRequest(context=FRANCE, continuations=(" Paris", " a very large town"))])
    assert reply.tokens[1] >= 4 > reply.tokens[0]


def test_a_request_that_is_too_long_fails_alone_and_is_never_cut(engine):
    requests = [
        SCORES[0],
        ScoreRequest(context=LONG, continuations=(" yes", " no")),
        ScoreRequest(context="A", continuations=(" yes", f" {LONG}")),
        SCORES[1],
    ]
    replies = scored(engine, requests)
    assert [type(reply) for reply in replies] == [ScoreReply, Failure, Failure, ScoreReply]
    assert {reply.kind for reply in replies if isinstance(reply, Failure)} == {"too-long"}
    assert all("64" in reply.message for reply in replies if isinstance(reply, Failure))


def test_a_prompt_without_room_for_its_answer_fails_alone(engine):
    replies = generated(engine, ask(LONG), ask(), ask("Hello", max_tokens=64))
    assert [type(reply) for reply in replies] == [Failure, Generation, Failure]
    assert [replies[0].kind, replies[2].kind] == ["too-long", "too-long"]


def test_nothing_asked_nothing_answered(engine):
    assert list(engine.score([])) == []
    assert list(engine.generate([])) == []


def test_answers_are_greedy_within_the_limit_and_say_why_they_ended(engine):
    answers = generated(engine, *map(ask, PROMPTS))
    for answer in answers:
        assert isinstance(answer, Generation)
        assert answer.text
        assert answer.prompt_tokens >= 1
        assert 1 <= answer.completion_tokens <= MAX_TOKENS
        assert answer.finish in ("stop", "length")
        assert answer.finish == "stop" or answer.completion_tokens == MAX_TOKENS
    assert answers[0] == answers[-1]


def test_an_answer_is_the_beginning_of_a_longer_one(engine):
    longer, shorter = generated(engine, ask())[0], generated(engine, ask(max_tokens=2))[0]
    assert (shorter.finish, shorter.completion_tokens) == ("length", 2)
    assert longer.text.startswith(shorter.text)
    assert longer.text != shorter.text


def test_an_answer_ends_before_a_stop_text(engine):
    (whole,) = generated(engine, ask())
    words = re.findall(r"\s\w+", whole.text)
    assert len(words) >= 2
    (cut,) = generated(engine, ask(stop=("never to be found", words[1])))
    assert cut.text == whole.text[: whole.text.index(words[1])]
    assert cut.finish == "stop"


def test_sampling_follows_its_seed(engine):
    requests = [ask(temperature=1.5, seed=seed) for seed in (1, 2, 3)]
    answers = generated(engine, *requests)
    assert len({answer.text for answer in answers}) > 1
    assert [answer.text for answer in generated(engine, *requests)] == [answer.text for answer in answers]


def test_a_greedy_answer_has_no_seed(engine):
    assert generated(engine, ask(seed=1)) == generated(engine, ask(seed=2))


def test_chat_messages_are_one_prompt_and_every_turn_of_it_counts(engine):
    whole, last = generated(engine, ask(TALK), ask(TALK[-1:]))
    assert isinstance(whole, Generation)
    assert whole.prompt_tokens > last.prompt_tokens > 3


def test_the_identity_is_complete_and_can_be_stored(engine):
    identity = engine.identity
    row = asdict(identity)
    assert build(EngineIdentity, row).sha256 == identity.sha256
    assert all(row[name] for name in ("adapter", "model", "recipe", "dtype", "device", "versions", "quantization"))
    assert all(re.fullmatch("[0-9a-f]{64}", row[name]) for name in ("weights_sha256", "tokenizer_sha256"))
    assert row["chat_template_sha256"] is None or re.fullmatch("[0-9a-f]{64}", row["chat_template_sha256"])
    assert (row["recipe"] == "none") == (row["recipe_sha256"] is None)
    assert row["fidelity"] in ("simulated", "dequantised", "engine")
    assert {"algorithm", "kv_cache", "enabled"} <= row["quantization"].keys()
    assert row["options"]["max_length"] == 64


def test_the_identity_names_no_place_on_this_machine(engine):
    assert not re.search(r'"(/|~|[A-Za-z]:\\\\)', canonical_json(asdict(engine.identity)))


def test_a_closed_engine_says_so_and_can_be_closed_again(engine):
    closed = copy.copy(engine)  # shares the model with the engine of the other tests, which stays open
    closed.close()
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        list(closed.score(SCORES))
    with pytest.raises(EngineError, match="closed"):
        list(closed.generate([ask()]))
    assert closed.identity == engine.identity
