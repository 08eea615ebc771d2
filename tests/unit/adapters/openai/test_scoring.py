"""Numbers that come out of a server are the model's own, to the last digit, whichever way they were asked for."""

from __future__ import annotations

import pytest

from evalkit.adapters.base import Failure, ScoreReply, ScoreRequest
from evalkit.errors import EngineError

LETTERS = (" A", " B", " C", " D")
REQUESTS = (
    ScoreRequest(context="Question: Say one\n\nAnswer:", continuations=LETTERS),
    ScoreRequest(context="The sky is", continuations=(" hot", " cold", " a very large town")),
    ScoreRequest(context="Count on: two, three,", continuations=(" four", " five")),
    ScoreRequest(context="Say yes ", continuations=("no", "yes")),
    ScoreRequest(context="", continuations=("The", "The sky")),
    ScoreRequest(context="Grüße 東京:", continuations=(" é", " yes")),
)


def expected(brain, request):
    """Score as lm-eval splits: white space moves to the continuation, the whole is encoded and cut."""
    cut = len(request.context.rstrip())
    context = brain.encode(request.context[:cut]) if request.context else [brain.start]
    sums, greedy, lengths = [], [], []
    for text in request.continuations:
        whole = brain.encode(request.context + text) if request.context else [*context, *brain.encode(text, False)]
        total, best = 0.0, True
        for place in range(len(context), len(whole)):
            numbers = brain.next(whole[:place])
            total += float(numbers[whole[place]])
            best = best and numbers[whole[place]] >= numbers.max()
        sums.append(total)
        greedy.append(bool(best))
        lengths.append(len(whole) - len(context))
    return sums, greedy, lengths


@pytest.mark.parametrize(
    "quirks", [{}, {"echo": "ignored"}, {"echo": "ignored", "names": "marked"}], ids=["echo", "next-token", "marked"]
)
def test_scores_are_the_models_own(doubles, serve, connect, quirks):
    server = serve(doubles.vllm(**quirks))
    engine = connect(server.url)
    found = dict(engine.score(REQUESTS))
    assert sorted(found) == list(range(len(REQUESTS)))
    for index, request in enumerate(REQUESTS):
        sums, greedy, lengths = expected(server.brain, request)
        reply = found[index]
        assert isinstance(reply, ScoreReply), reply
        assert reply.logprobs == pytest.approx(sums, abs=1e-9)
        assert (list(reply.greedy), list(reply.tokens)) == (greedy, lengths)
    assert any(any(reply.greedy) for reply in found.values())


def test_echoed_text_without_token_ids_is_split_at_the_continuation(doubles, serve, connect):
    server = serve(doubles.vllm(tokenize=False))
    engine = connect(server.url)
    assert engine.identity.options["token_ids"] is False
    found = dict(engine.score(REQUESTS[:4]))
    for index, request in enumerate(REQUESTS[:4]):
        sums, greedy, lengths = expected(server.brain, request)
        assert found[index].logprobs == pytest.approx(sums, abs=1e-9)
        assert (list(found[index].greedy), list(found[index].tokens)) == (greedy, lengths)
    ((_, empty),) = engine.score([REQUESTS[4]])
    assert (empty.kind, "empty context" in empty.message) == ("engine", True)


def test_letters_are_scored_by_text_where_there_are_no_token_ids(doubles, serve, connect):
    server = serve(doubles.trtllm(most=400))
    engine = connect(server.url, top_logprobs=400)
    ((_, reply),) = engine.score(REQUESTS[:1])
    sums, greedy, _ = expected(server.brain, REQUESTS[0])
    assert reply.logprobs == pytest.approx(sums, abs=1e-9)
    assert (list(reply.greedy), reply.tokens) == (greedy, (1, 1, 1, 1))


def test_a_letter_that_is_not_among_the_likeliest_is_a_failure_of_its_item_and_is_counted(doubles, serve, connect):
    server = serve(doubles.trtllm())
    engine = connect(server.url)
    requests = [ScoreRequest(context=f"Question: {n}\n\nAnswer:", continuations=LETTERS) for n in range(20)]
    replies = [reply for _, reply in sorted(engine.score(requests))]
    failed = [reply for reply in replies if isinstance(reply, Failure)]
    assert failed
    assert {reply.kind for reply in failed} == {"missing-token"}
    for request, reply in zip(requests, replies, strict=True):
        if isinstance(reply, ScoreReply):
            assert reply.logprobs == pytest.approx(expected(server.brain, request)[0], abs=1e-9)
    assert any(line.endswith(f"likeliest tokens: {len(failed)}") for line in engine.warnings)


def test_a_missing_letter_is_asked_for_by_name_where_a_bias_leaves_the_numbers(doubles, serve, connect):
    server = serve(doubles.vllm(echo="ignored"))
    engine = connect(server.url)
    requests = [ScoreRequest(context=f"Question: {n}\n\nAnswer:", continuations=LETTERS) for n in range(20)]
    for request, (_, reply) in zip(requests, sorted(engine.score(requests)), strict=True):
        assert reply.logprobs == pytest.approx(expected(server.brain, request)[0], abs=1e-9)
    assert any(line.startswith("tokens asked for by a bias: ") for line in engine.warnings)


def test_a_continuation_of_several_tokens_fails_alone_where_it_cannot_be_scored(doubles, serve, connect):
    engine = connect(serve(doubles.trtllm(most=400)).url, top_logprobs=400)
    several = ScoreRequest(context="The sky is", continuations=(" a very large town",))
    replies = [reply for _, reply in sorted(engine.score([REQUESTS[0], several]))]
    assert [type(reply) for reply in replies] == [ScoreReply, Failure]
    assert replies[1].kind == "missing-token"


def test_a_request_that_is_too_long_is_measured_and_never_sent(serve, connect):
    server = serve()
    engine = connect(server.url, max_length=40)
    assert engine.identity.options["max_length"] == 40
    list(engine.score(REQUESTS[:1]))
    server.bodies.clear()
    long = server.brain.encode(" no" * 60)[:90]
    replies = dict(engine.score([ScoreRequest(context=" no" * 60, continuations=(" yes",))]))
    assert replies[0].kind == "too-long"
    assert "the limit is 40" in replies[0].message
    sent = [body["prompt"] for path, body in server.bodies if path == "/v1/completions"]
    assert sent, "the model itself is still checked"
    assert all((server.brain.encode(one) if isinstance(one, str) else one)[:90] != long for one in sent)


def test_a_text_that_is_too_long_for_the_server_is_a_failure_of_that_name(doubles, serve, connect):
    engine = connect(serve(doubles.trtllm(most=400)).url, top_logprobs=400)
    replies = dict(engine.score([ScoreRequest(context=" no" * 600, continuations=LETTERS), REQUESTS[0]]))
    assert replies[0].kind == "too-long"
    assert "maximum context length is 512" in replies[0].message
    assert isinstance(replies[1], ScoreReply)


def test_requests_with_one_beginning_are_neighbours(doubles, serve, connect):
    server = serve(doubles.vllm(echo="ignored"))
    engine = connect(server.url, concurrency=1)
    contexts = [f"Question: {subject} {n}\n\nAnswer:" for n in range(4) for subject in ("sky", "Rome", "Paris")]
    requests = [ScoreRequest(context=context, continuations=LETTERS) for context in contexts]
    server.bodies.clear()
    found = list(engine.score(requests))
    assert len(found) == len(requests)
    sent = [body["prompt"] for path, body in server.bodies if path == "/v1/completions" and "logit_bias" not in body]
    wanted = [server.brain.encode(context) for context in sorted(contexts)]
    assert [prompt for prompt in sent if prompt in wanted] == wanted, "the known prompts of the server's check besides"


@pytest.mark.parametrize(
    ("quirks", "kind"), [({"logprobs": "nan"}, "non-finite"), ({"logprobs": "none"}, "missing-token")]
)
def test_a_server_that_breaks_after_the_probe_gives_failures_never_scores(doubles, serve, connect, quirks, kind):
    server = serve(doubles.vllm())
    engine = connect(server.url)
    server.quirks = doubles.vllm(**quirks)
    replies = [engine._scorer.score(request) for request in REQUESTS]
    assert {reply.kind for reply in replies} == {kind}
    with pytest.raises(EngineError, match="no longer answers the known prompt"):
        list(engine.score(REQUESTS))


def test_names_that_are_token_ids_are_ids(doubles, serve, connect):
    server = serve(doubles.vllm(most=400))
    plain = connect(server.url)
    expected = plain._scorer.score(ScoreRequest(context="The sky is", continuations=(" hot", " cold")))
    real = server._lists

    def named(rows, k):
        found = real(rows, k)
        found["tokens"] = [f"token_id:{token}" for token, _ in rows]
        for place, (token, numbers) in enumerate(rows):
            if numbers is not None:
                ids = sorted(range(len(numbers)), key=lambda one: -numbers[one])[:k]
                found["top_logprobs"][place] = {f"token_id:{one}": float(numbers[one]) for one in {*ids, token}}
        return found

    server._lists = named
    engine = connect(server.url)
    assert engine.identity.options["candidates_named_by"] == "id"
    found = engine._scorer.score(ScoreRequest(context="The sky is", continuations=(" hot", " cold")))
    assert found.logprobs == pytest.approx(expected.logprobs, abs=1e-9)
