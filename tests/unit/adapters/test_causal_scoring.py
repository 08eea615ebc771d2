"""The three scoring paths against one forward pass for each text, on a tiny random Llama in float32."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from evalkit.adapters.base import Failure, ScoreReply, ScoreRequest
from evalkit.adapters.causal.engine import score_requests
from evalkit.adapters.causal.forward import Scorer
from evalkit.adapters.causal.plan import BatchLimit, plan_batches
from evalkit.adapters.causal.selfcheck import agreed_path, choose_path
from evalkit.adapters.tokens import encode_requests
from evalkit.errors import EngineError

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

PATHS = ("flat", "packed", "packed-full", "plain")
SHOTS = "".join(f"Question: what is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(9))
SMALL = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}


def shots(question: str, *continuations: str) -> ScoreRequest:
    return ScoreRequest(context=f"{SHOTS}Question: {question}\nAnswer:", continuations=continuations)


REQUESTS = (
    shots("what is ten and ten?", " 20", " 21", " a number near twenty"),
    shots("what is the colour of the sea?", " blue", " red or green, who knows"),
    shots("what?", " 7"),
    ScoreRequest(context="", continuations=("The harbour", "A")),
    ScoreRequest(context="The harbour wakes ", continuations=("before", "after the town does")),
    ScoreRequest(context="A train", continuations=(" leaves", " leaves", " arrives late")),
    shots("what is ten and ten?", " 20", " 21", " a number near twenty"),
)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture
def score(model, tokenizer):
    def run(path="packed", requests=REQUESTS, scorer=None, max_length=500, max_batch_tokens=300):
        pairs = list(
            score_requests(
                scorer or Scorer(model, path),
                tokenizer,
                requests,
                max_length=max_length,
                limit=BatchLimit(max_batch_tokens),
            )
        )
        assert sorted(index for index, _ in pairs) == list(range(len(requests)))
        return [reply for _, reply in sorted(pairs, key=lambda pair: pair[0])]

    return run


@pytest.fixture(scope="module")
def expected(model, tokenizer):
    """One forward pass for each continuation, nothing padded, nothing shared."""
    replies = []
    for encoded in encode_requests(tokenizer, REQUESTS):
        rows = [one_by_one(model, encoded.context.tolist(), list(tokens)) for tokens in encoded.continuations]
        replies.append(
            ScoreReply(
                logprobs=tuple(value for value, _ in rows),
                greedy=tuple(flag for _, flag in rows),
                tokens=tuple(len(tokens) for tokens in encoded.continuations),
            )
        )
    return replies


@torch.inference_mode()
def one_by_one(model, context, continuation):
    logits = model(input_ids=torch.tensor([context + continuation])).logits[0, len(context) - 1 : -1].double()
    wanted = torch.tensor(continuation)
    values = logits.log_softmax(dim=-1).gather(1, wanted[:, None])
    return float(values.sum()), bool((logits.argmax(dim=-1) == wanted).all())


def furthest(left, right):
    return max(
        abs(a - b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


@pytest.fixture(scope="module")
def tolerance(model, tokenizer, expected, other_processor):
    """Nats that rounding may move these numbers; what this machine's own rounding does to them, measured."""

    def numbers():
        return [
            one_by_one(model, encoded.context.tolist(), list(tokens))[0]
            for encoded in encode_requests(tokenizer, REQUESTS)
            for tokens in encoded.continuations
        ]

    return other_processor.tolerance(numbers)


def greedy(replies):
    return [reply.greedy for reply in replies]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("max_batch_tokens", [1, 90, 5000])
def test_every_path_gives_the_numbers_of_one_forward_pass_for_each_text(
    score, expected, tolerance, path, max_batch_tokens
):
    replies = score(path, max_batch_tokens=max_batch_tokens)
    assert furthest(replies, expected) < tolerance
    assert greedy(replies) == greedy(expected)
    assert [reply.tokens for reply in replies] == [reply.tokens for reply in expected]


def test_the_requests_of_these_tests_share_a_prefix(tokenizer):
    batches = list(plan_batches(list(encode_requests(tokenizer, REQUESTS)), BatchLimit(5000)))
    assert sorted((len(batch.prefix) > 100, len(batch.rows)) for batch in batches) == [(False, 3), (True, 4)]


def test_the_numbers_of_these_tests_are_not_all_alike(expected, tolerance):
    values = [value for reply in expected for value in reply.logprobs]
    assert max(values) - min(values) > 10.0
    assert abs(expected[0].logprobs[0] - expected[0].logprobs[1]) > 100 * tolerance


def test_a_continuation_is_scored_as_if_it_were_alone(score, expected, tolerance):
    requests = [
        ScoreRequest(context=one.context, continuations=(text,)) for one in REQUESTS for text in one.continuations
    ]
    alone = [reply.logprobs[0] for reply in score(requests=requests)]
    together = [value for reply in expected for value in reply.logprobs]
    assert max(abs(a - b) for a, b in zip(alone, together, strict=True)) < tolerance


@pytest.mark.parametrize("path", PATHS)
def test_the_limit_is_the_last_token_that_is_fed(score, tokenizer, path):
    (encoded,) = encode_requests(tokenizer, REQUESTS[:1])
    assert isinstance(score(path, REQUESTS[:1], max_length=encoded.longest)[0], ScoreReply)
    (reply,) = score(path, REQUESTS[:1], max_length=encoded.longest - 1)
    message = f"context and longest continuation need {encoded.longest} tokens; the limit is {encoded.longest - 1}"
    assert reply == Failure(kind="too-long", message=message)


@pytest.mark.parametrize("path", PATHS)
def test_where_memory_runs_out_halves_are_run_and_nothing_is_lost(score, expected, tolerance, model, path, monkeypatch):
    scorer, sizes = Scorer(model, path), []
    run = scorer.run

    def cramped(batch):
        sizes.append(len(batch.rows))
        if len(batch.rows) > 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return run(batch)

    monkeypatch.setattr(scorer, "run", cramped)
    replies = score(requests=REQUESTS, scorer=scorer, max_batch_tokens=5000)
    assert furthest(replies, expected) < tolerance
    assert max(sizes) > 1
    assert sizes.count(1) == len(REQUESTS)


def test_a_single_request_that_does_not_fit_fails_alone(score, expected, tolerance, model, monkeypatch):
    scorer = Scorer(model, "packed")
    run = scorer.run

    def cramped(batch):
        if any(row.request.index == 1 for row in batch.rows):
            raise MemoryError("no room\nfor it")
        return run(batch)

    monkeypatch.setattr(scorer, "run", cramped)
    replies = score(scorer=scorer, max_batch_tokens=5000)
    assert replies.pop(1) == Failure(kind="out-of-memory", message="no room")
    assert furthest(replies, [reply for index, reply in enumerate(expected) if index != 1]) < tolerance


def test_any_other_error_is_not_taken_for_a_lack_of_memory(score, model, monkeypatch):
    scorer = Scorer(model, "packed")

    def broken(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(scorer, "run", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        score(scorer=scorer)


def test_a_number_that_is_not_finite_fails_its_request_alone(score, expected, tolerance, model, monkeypatch):
    scorer = Scorer(model, "packed")
    run = scorer.run

    def broken(batch):
        found = run(batch)
        for row, values in zip(batch.rows, found, strict=True):
            if row.request.index == 3:
                values.logprobs[0] = float("nan")
        return found

    monkeypatch.setattr(scorer, "run", broken)
    replies = score(scorer=scorer)
    assert replies[3].kind == "non-finite"
    assert "(first: nan)" in replies[3].message
    assert furthest(replies[:3] + replies[4:], expected[:3] + expected[4:]) < tolerance


def test_a_llama_is_scored_flat(model):
    assert choose_path(model) == "flat"
    assert agreed_path(model, "plain") == "plain"


def test_a_model_that_rescales_its_logits_is_scored_with_them():
    assert choose_path(GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)).eval()) == "packed-full"


def test_a_model_whose_layers_forget_is_scored_plain():
    model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4)).eval()
    assert choose_path(model) == "plain"
    with pytest.raises(EngineError, match=r"scoring: packed was asked for, but .*; next step: scoring: auto"):
        agreed_path(model, "packed")
