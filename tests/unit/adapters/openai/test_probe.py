"""The probe chooses a way of scoring by what a server was seen to do, and refuses by what it was seen to do wrong."""

from __future__ import annotations

import json
import sys

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, ScoreRequest
from evalkit.errors import EngineError, UsageError

ITEM = ScoreRequest(context="Question: Say no\n\nAnswer:", continuations=(" A", " B"))


@pytest.mark.parametrize(
    ("family", "quirks", "scoring", "forced"),
    [
        ("vllm", {}, "echo", True),
        ("vllm", {"echo": "ignored"}, "next-token", True),
        ("vllm", {"echo": "shifted"}, "next-token", True),
        ("vllm", {"echo": "short"}, "next-token", True),
        ("vllm", {"echo": "ignored", "bias": "processed"}, "next-token", False),
        ("vllm", {"echo": "ignored", "bias": "ignored"}, "next-token", False),
        ("vllm", {"echo": "ignored", "names": "marked"}, "next-token", True),
        ("vllm", {"tokenize": False, "echo": "ignored"}, "next-token", False),
        ("vllm", {"ids": False, "echo": "ignored"}, "next-token", False),
        ("vllm", {"tokenize": False}, "echo", False),
        ("trtllm", {}, "next-token", False),
        ("trtllm", {"names": "stripped"}, "none", False),
        ("trtllm", {"logprobs": "refused"}, "none", False),
        ("trtllm", {"logprobs": "none"}, "none", False),
        ("trtllm", {"logprobs": "processed"}, "none", False),
        ("trtllm", {"most": 3}, "none", False),
    ],
)
def test_the_way_of_scoring_follows_from_what_was_seen(doubles, serve, connect, family, quirks, scoring, forced):
    engine = connect(serve(getattr(doubles, family)(**quirks)).url)
    assert (engine.identity.options["scoring"], engine.identity.options["forced_tokens"]) == (scoring, forced)
    assert engine.identity.fidelity == "engine"


@pytest.mark.parametrize(
    ("quirks", "words"),
    [
        ({"logprobs": "refused"}, "logprobs is not supported"),
        ({"logprobs": "none"}, "no log-probabilities"),
        ({"logprobs": "processed"}, "only 1 candidates"),
        ({"names": "stripped"}, "' A' and 'A' would be one"),
    ],
)
def test_a_server_that_cannot_score_is_refused_with_what_was_seen_and_may_still_generate(
    doubles, serve, connect, quirks, words
):
    server = serve(doubles.trtllm(**quirks))
    engine = connect(server.url)
    asked = len(server.bodies)
    with pytest.raises(EngineError, match=words):
        list(engine.score([ITEM]))
    assert len(server.bodies) == asked, "nothing is asked of a server that cannot score"
    assert list(engine.score([])) == []
    ((_, answer),) = engine.generate([GenerateRequest(prompt="Hello", max_tokens=3)])
    assert isinstance(answer, Generation)


def test_a_server_whose_numbers_are_not_finite_is_refused_unless_only_answers_are_wanted(doubles, serve, connect):
    server = serve(doubles.trtllm(logprobs="nan"))
    with pytest.raises(EngineError, match=r"not finite \(.*NaN.*next step: repair the model.*scoring: none"):
        connect(server.url)
    assert connect(server.url, scoring="none").identity.options["scoring"] == "none"


def test_a_wanted_way_that_is_not_offered_is_not_replaced_by_another(doubles, serve, connect):
    engine = connect(serve(doubles.trtllm()).url, scoring="echo")
    with pytest.raises(EngineError, match=r"echo: missing-token: the prompt has \d+ tokens, and 1 came"):
        list(engine.score([ITEM]))
    assert connect(serve().url, scoring="next-token").identity.options["scoring"] == "next-token"
    assert connect(serve().url, scoring="none").identity.options["scoring"] == "none"


def test_every_request_says_its_temperature_and_a_strict_server_gets_no_unknown_field(doubles, serve, connect):
    server = serve(doubles.trtllm())
    engine = connect(server.url)
    list(engine.score([ITEM]))
    list(engine.generate([GenerateRequest(prompt="Hello", max_tokens=3)]))
    asked = [body for path, body in server.bodies if path.startswith("/v1/")]
    assert len(asked) > 10
    assert all(body["temperature"] == 0 and body["top_p"] == 1.0 for body in asked)
    unknown = [body for body in asked if "evalkit_unknown_field" in body]
    assert len(unknown) == 1, "the probe's own trial"
    assert engine.findings["unknown fields"] == "refused with 400"
    list(engine.generate([GenerateRequest(prompt="Hello", max_tokens=3, temperature=0.7, seed=5)]))
    sampled = {"temperature": 0.7, "seed": 5, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert any(sampled.items() <= body.items() for _, body in server.bodies)


def test_fields_that_a_server_refuses_are_not_sent_and_their_lack_is_a_warning(doubles, serve, connect):
    server = serve(doubles.trtllm(refused=frozenset({"min_p", "seed"})))
    engine = connect(server.url)
    assert engine.identity.options["fields_when_sampled"] == {"top_k": 0}
    assert any("min_p" in line for line in engine.warnings)
    assert any("no seed" in line for line in engine.warnings)
    list(engine.generate([GenerateRequest(prompt="Hello", max_tokens=3, temperature=0.7)]))
    (body,) = [body for _, body in server.bodies if body.get("temperature") == 0.7]
    assert body["top_k"] == 0
    assert not {"min_p", "seed"} & body.keys()


def test_the_double_samples_when_no_temperature_is_sent(doubles, serve):
    """What a client would get that trusts a server's default."""
    server = serve(doubles.trtllm())
    body = {"model": "toy", "prompt": "Hello", "max_tokens": 8}
    texts = {server.answer("POST", "/v1/completions", body)["choices"][0]["text"] for _ in range(8)}
    assert len(texts) > 1
    greedy = {**body, "temperature": 0}
    assert len({server.answer("POST", "/v1/completions", greedy)["choices"][0]["text"] for _ in range(8)}) == 1


def test_a_server_that_cuts_prompts_is_refused(doubles, serve, connect):
    with pytest.raises(EngineError, match="cuts prompts: 576 tokens were sent, 511 fed"):
        connect(serve(doubles.vllm(truncates=True)).url)


def test_a_tokenizer_that_is_not_the_servers_is_refused(doubles, serve, connect):
    class Shifted(doubles.Toy):
        def encode(self, text, special=True):
            found = super().encode(text, special)
            return found if special == "own" else [(token + 1) % len(self.pieces) for token in found]

    server = serve(doubles.vllm())
    shifted = Shifted()
    real = server._tokens
    server._tokens = lambda path, body: (
        real(path, body) if path == "/detokenize" else {"tokens": shifted.encode(body["prompt"])}
    )
    with pytest.raises(EngineError, match="the tokenizer at hand is not the server's"):
        connect(server.url)


def test_a_model_that_is_not_served_is_named_with_those_that_are(serve, connect):
    with pytest.raises(UsageError, match="serves no model 'toi'; did you mean 'toy'"):
        connect(serve().url, model="toi")


def test_a_server_that_does_not_answer_is_named(connect):
    with pytest.raises(
        EngineError, match=r"http://127.0.0.1:9: no list of models: GET /v1/models: ConnectError: .* \(after 2 tries\)"
    ):
        connect("http://127.0.0.1:9", retries=1)


def test_a_server_without_endpoints_is_refused_and_one_of_them_is_enough(doubles, serve, connect):
    with pytest.raises(EngineError, match="neither endpoint answers"):
        connect(serve(doubles.vllm(paths=frozenset())).url)
    chat = connect(serve(doubles.vllm(paths=frozenset({"/v1/chat/completions"}))).url)
    with pytest.raises(UsageError, match="does not answer at /v1/completions"):
        list(chat.generate([GenerateRequest(prompt="Hello", max_tokens=3)]))
    text = connect(serve(doubles.vllm(paths=frozenset({"/v1/completions"}))).url)
    assert text.identity.chat_template_sha256 is None


def test_an_unknown_family_is_a_warning_and_its_version_is_unknown(doubles, serve, connect):
    engine = connect(serve(doubles.vllm(family="homemade")).url)
    assert any("server family 'homemade' is unknown" in line for line in engine.warnings)
    assert engine.identity.options["fields_when_sampled"] == {}


def test_a_tokenizer_that_leaves_out_the_start_token_is_another_prompt_and_not_used(serve, connect):
    server = serve()
    server._tokens = lambda path, body, real=server._tokens: real(path, {**body, "add_special_tokens": False})
    engine = connect(server.url)
    assert engine.identity.options["token_ids"] is False
    assert "text and ids are two prompts" in engine.findings["token ids"]
    assert any("text and ids are two prompts" in line for line in engine.warnings)


@pytest.mark.parametrize("page", ["/tokenize", "/detokenize"])
def test_a_fault_of_a_page_while_probing_is_an_error_and_not_another_engine(doubles, serve, connect, page):
    server = serve()
    real = server._tokens

    def broken(path, body):
        if path == page:
            raise sys.modules["model_server"].HttpError(503, "overloaded")
        return real(path, body)

    server._tokens = broken
    with pytest.raises(EngineError, match=r"no usable reply: .*503: overloaded.*next step"):
        connect(server.url, retries=0)


@pytest.mark.parametrize("data", [5, "toy", None, {"id": "toy"}, [5], [None]])
def test_a_list_of_models_of_another_type_lists_none(serve, connect, data):
    server = serve()
    server._page = lambda path: {"data": data}
    with pytest.raises(UsageError, match="lists none at all"):
        connect(server.url)


CHAT = "/v1/chat/completions"
TAKEN_BY = {"temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed"}


def refusing(server, rule):
    """Let a server answer 400 (or another status) with an object of its own wherever `rule(body)` returns one."""
    real = server._complete

    def complete(path, body):
        found = rule(body) if path == CHAT else None
        if found is not None:
            raise refusal(*found) if isinstance(found, tuple) else refusal(400, found)
        return real(path, {"max_tokens": body.get("max_completion_tokens", 8), **body})

    server._complete = complete


def refusal(status, body):
    return sys.modules["model_server"].HttpError(status, "", body)


def openai(param, message, code="unsupported_parameter"):
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def gpt5(body):
    if "max_tokens" in body:
        return openai(
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
        )
    if body["max_completion_tokens"] < 64:
        return openai(
            None,
            "Could not finish the message because max_tokens or model output limit was reached. "
            "Please try again with higher max_tokens.",
            None,
        )
    for name, value in (("temperature", 1), ("top_p", 1.0)):
        if body.get(name, value) != value:
            words = f"Unsupported value: '{name}' does not support {body[name]} with this model. Only the default (1)"
            return openai(name, f"{words} value is supported.", "unsupported_value")
    return None


def o3_mini(body):
    for name in ("temperature", "top_p", "stop"):
        if name in body:
            return openai(name, f"Unsupported parameter: '{name}' is not supported with this model.")
    return None


def claude(body):
    if {"temperature", "top_p"} <= body.keys():
        words = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
        return {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    return None


def later_claude(body):
    for name in ("temperature", "top_p"):
        if name in body:
            words = f"`{name}` is deprecated for this model."
            return {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    return None


def mistral(body):
    for name in ("seed", "stop"):
        if name in body:
            detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted"}]
            return 422, {"object": "error", "message": json.dumps({"detail": detail}), "param": None, "code": "1000"}
    return None


def gemini(body):
    unknown = [f'Invalid JSON payload received. Unknown name "{n}": Cannot find field.' for n in ("seed",) if n in body]
    return {"error": {"code": 400, "message": unknown[0], "status": "INVALID_ARGUMENT"}} if unknown else None


def litellm(body):
    if body.get("temperature", 1) != 1:
        words = (
            "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0. Only temperature=1 is supported."
        )
        return {"error": {"message": words, "type": "None", "param": "None", "code": "400"}}
    return None


@pytest.mark.parametrize(
    ("rule", "absent"),
    [
        (gpt5, {"temperature", "max_tokens"}),
        (o3_mini, {"temperature", "top_p", "stop"}),
        (claude, {"top_p"}),
        (later_claude, {"temperature", "top_p"}),
        (mistral, {"seed", "stop"}),
        (gemini, {"seed"}),
        (litellm, {"temperature"}),
    ],
)
def test_a_hosted_model_is_asked_without_what_it_refuses_and_its_identity_says_so(
    doubles, serve, connect, rule, absent
):
    server = serve(doubles.vllm(paths=frozenset({CHAT}), tokenize=False))
    refusing(server, rule)
    engine = connect(server.url)
    refused = set(engine.identity.options.get("not_sent", {}).get(CHAT, ()))
    assert refused == absent - {"seed"}
    assert ("temperature" in refused) == any("takes no temperature" in line for line in engine.warnings)
    asked = len(server.bodies)
    request = GenerateRequest(prompt=(Message(role="user", content="Hello"),), max_tokens=64, stop=("zzz",))
    ((_, answer),) = engine.generate([request])
    assert isinstance(answer, Generation)
    (body,) = [body for path, body in server.bodies[asked:] if path == CHAT]
    assert TAKEN_BY - body.keys() >= absent
    limit = "max_completion_tokens" if "max_tokens" in absent else "max_tokens"
    assert body[limit] == 64, "what the probe needed is not what an item is given"


def test_a_refused_field_whose_lack_would_change_the_question_is_an_error(doubles, serve, connect):
    server = serve(doubles.vllm(paths=frozenset({CHAT}), tokenize=False))
    refusing(server, claude)
    engine = connect(server.url)
    message = (Message(role="user", content="Hello"),)
    with pytest.raises(UsageError, match=r"takes no top_p \(.*cannot both.*top_p 0.9 is asked for; next step"):
        list(engine.generate([GenerateRequest(prompt=message, max_tokens=8, temperature=0.7, top_p=0.9)]))


def test_a_field_that_is_refused_after_the_probe_is_that_items_failure(doubles, serve, connect):
    server = serve(doubles.vllm(paths=frozenset({CHAT}), tokenize=False))
    engine = connect(server.url)
    refusing(server, o3_mini)
    ((_, answer),) = engine.generate([GenerateRequest(prompt=(Message(role="user", content="Hi"),), max_tokens=8)])
    assert isinstance(answer, Failure)
    assert "is not supported with this model" in answer.message


def test_a_refusal_of_log_probabilities_with_403_is_no_refusal_of_the_key(doubles, serve, connect):
    server = serve(doubles.vllm())
    real = server._complete

    def complete(path, body):
        if "logprobs" in body:
            raise refusal(403, openai(None, "You are not allowed to request logprobs from this model", None))
        return real(path, body)

    server._complete = complete
    engine = connect(server.url)
    assert engine.identity.options["scoring"] == "none"
    assert "not allowed to request logprobs" in engine.findings["next-token"]


@pytest.mark.parametrize("status", [500, 503, 520])
@pytest.mark.parametrize("field", ["logprobs", "logit_bias", "echo", "seed", "stop", "evalkit_unknown_field"])
def test_an_error_of_the_servers_own_is_never_taken_for_not_offered(doubles, serve, connect, status, field):
    server = serve(doubles.vllm())
    real = server._complete

    def complete(path, body):
        if field in body:
            raise sys.modules["model_server"].HttpError(status, "overloaded")
        return real(path, body)

    server._complete = complete
    with pytest.raises(EngineError, match=rf"the probe got no usable reply: .*HTTP {status}: overloaded.*next step"):
        connect(server.url, retries=0)
