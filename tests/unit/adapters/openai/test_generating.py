"""Answers carry the settings that were asked for, end where they should, and are failures where they were cut off."""

from __future__ import annotations

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message


def ask(prompt="Count on: one, two,", **changes):
    return GenerateRequest(**{"prompt": prompt, "max_tokens": 5, **changes})


def one(engine, request):
    ((index, reply),) = engine.generate([request])
    assert index == 0
    return reply


def test_an_answer_is_what_the_model_says(doubles, serve, connect):
    server = serve()
    reply = one(connect(server.url), ask())
    ids = server.brain.encode("Count on: one, two,")
    fed = list(ids)
    for _ in range(5):
        fed.append(int(server.brain.next(fed).argmax()))
    assert reply.text == "".join(map(server.brain.piece, fed[len(ids) :]))
    assert reply.text.startswith(" three")
    assert (reply.finish, reply.prompt_tokens, reply.completion_tokens) == ("length", len(ids), 5)


def test_messages_go_to_the_chat_endpoint_with_every_turn(serve, connect):
    server = serve()
    talk = (Message(role="system", content="Be brief."), Message(role="user", content="Say yes"))
    reply = one(connect(server.url), ask(talk))
    path, body = next((path, body) for path, body in reversed(server.bodies) if "chat" in path)
    assert path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say yes"}]
    assert reply.prompt_tokens == len(server.brain.encode(server.brain.chat(body["messages"]), False))


def test_a_chat_endpoint_that_wants_the_newer_name_of_the_limit_gets_it(doubles, serve, connect):
    server = serve(doubles.vllm(chat_limit="max_completion_tokens", paths=frozenset({"/v1/chat/completions"})))
    engine = connect(server.url, scoring="none")
    reply = one(engine, ask((Message(role="user", content="Say yes"),), max_tokens=3))
    assert isinstance(reply, Generation)
    assert reply.completion_tokens <= 3
    assert any(body.get("max_completion_tokens") == 3 for _, body in server.bodies)


@pytest.mark.parametrize("honest", [True, False], ids=["server cuts", "server does not"])
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(doubles, serve, connect, honest):
    server = serve()
    if not honest:
        server._generate = lambda ids, body, limit, real=server._generate: real(ids, {**body, "stop": []}, limit)
    engine = connect(server.url)
    whole = one(engine, ask(max_tokens=8))
    cut = one(engine, ask(max_tokens=8, stop=("never", whole.text[4:6])))
    assert cut.text == whole.text[: whole.text.index(whole.text[4:6])]
    assert cut.finish == "stop"


def test_sampled_answers_follow_their_seed(serve, connect):
    engine = connect(serve().url)
    requests = [ask(temperature=1.5, seed=seed) for seed in range(4)]
    first, second = (dict(engine.generate(requests)) for _ in range(2))
    assert first == second
    assert len({reply.text for reply in first.values()}) > 1


def test_a_prompt_without_room_for_its_answer_is_measured_and_not_sent(serve, connect):
    server = serve()
    engine = connect(server.url, max_length=40)
    server.bodies.clear()
    reply = one(engine, ask(max_tokens=35))
    assert (reply.kind, "the limit is 40" in reply.message) == ("too-long", True)
    assert not any(body.get("max_tokens") == 35 for _, body in server.bodies)


def test_a_conversation_without_room_for_its_answer_is_no_answer(serve, connect):
    reply = one(connect(serve().url, max_length=40), ask((Message(role="user", content="no " * 9),), max_tokens=35))
    assert (reply.kind, "the limit is 40" in reply.message) == ("too-long", True)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"finish_reason": "content_filter"}, "refused", "withheld"),
        ({"message": {"content": None, "refusal": "I will not."}}, "refused", "I will not"),
        ({"finish_reason": "error"}, "transport", "finish_reason is 'error'"),
        ({"finish_reason": None}, "transport", "finish_reason is None"),
        ({"message": {"content": 5}}, "transport", "no text"),
        ({"message": {}}, "transport", "no text"),
        ({"message": []}, "transport", "no text"),
    ],
)
def test_a_reply_without_an_answer_is_a_failure(serve, connect, change, kind, words):
    server = serve()
    engine = connect(server.url)
    server._complete = lambda path, body, real=server._complete: _changed(real(path, body), change)
    reply = engine._generator.generate(ask((Message(role="user", content="Hello"),)))
    assert isinstance(reply, Failure)
    assert (reply.kind, words in reply.message) == (kind, True), reply


def _changed(reply, change):
    reply["choices"][0].update(change)
    return reply


def test_an_answer_that_the_context_cut_short_is_no_answer(doubles, serve, connect):
    server = serve()
    engine = connect(server.url)
    server._generate = lambda ids, body, limit, real=server._generate: real(ids, body, min(limit, 2))
    reply = engine._generator.generate(ask(max_tokens=5))
    assert (reply.kind, "ended after 2 of 5" in reply.message) == ("too-long", True)


def test_a_server_that_feeds_other_tokens_than_it_was_sent_is_noticed(doubles, serve, connect):
    """A start token added to token ids that begin with one, or a prompt that was cut."""
    server = serve()
    engine = connect(server.url)
    server._prompt = lambda body, chat, real=server._prompt: [server.brain.start, *real(body, chat)]
    reply = engine._generator.generate(ask())
    assert (reply.kind, "the server fed" in reply.message) == ("engine", True)


def test_a_doubled_start_token_is_a_failure(doubles, serve, connect):
    class Doubling(doubles.Toy):
        def encode(self, text, special=True):
            found = super().encode(text, special)
            return [self.start, *found] if special and text.startswith("<|start|>") else found

    engine = connect(serve(brain=Doubling()).url)
    assert isinstance(one(engine, ask("Hello")), Generation)
    assert isinstance(one(engine, ask("<|start|>Hello")), Generation), "a start token that is there is not added again"
    assert one(engine, ask("<|start|><|start|>Hello")).kind == "engine"


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": None, "reasoning_content": "Let me think."}, "", "Let me think."),
        ({"content": None}, "", ""),
        ({"content": "Yes.", "reasoning": "Hm."}, "Yes.", "Hm."),
        ({"content": [{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}]}, "Yes.", ""),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
                    {"type": "text", "text": "Yes."},
                ]
            },
            "Yes.",
            "Hm.",
        ),
    ],
)
def test_a_thought_that_takes_all_the_tokens_is_an_empty_answer_of_the_models_own(
    serve, connect, message, text, reasoning
):
    server = serve()
    engine = connect(server.url)
    server._complete = lambda path, body, real=server._complete: _changed(real(path, body), {"message": message})
    before = len(server.bodies)
    reply = engine._generator.generate(ask((Message(role="user", content="Hello"),)))
    assert (reply.text, reply.reasoning, reply.finish) == (text, reasoning, "length")
    assert len(server.bodies) == before + 1, "asked once"


def test_what_was_paid_and_cannot_be_read_is_told_and_not_asked_again_past_the_cap(serve, connect):
    server = serve()
    engine, told = connect(server.url, retries=6), []
    server._complete = lambda path, body, real=server._complete: _changed(real(path, body), {"finish_reason": None})

    def waste(read, written):
        told.append((read, written))
        return len(told) < 3

    engine.on_waste = waste
    reply = engine._generator.generate(ask((Message(role="user", content="Hello"),)))
    assert (reply.kind, reply.counted) == ("transport", True)
    assert "not asked again, for another try would pass the cap (after 3 tries)" in reply.message
    assert len(told) == 3
    assert all(read > 0 and written == 5 for read, written in told)
