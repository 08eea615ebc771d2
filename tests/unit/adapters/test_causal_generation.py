"""Generation in batches with rows that come and go, against one answer at a time; a tiny random Llama in float32."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evalkit.adapters.base import Failure, GenerateRequest
from evalkit.adapters.causal import generation
from evalkit.adapters.causal.generation import Answer, Generator, nucleus

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

TEXT = "The harbour wakes before the town does and a train leaves the north station"
REQUESTS = [
    GenerateRequest(
        prompt=TEXT[: 3 + n * 25 % 72],
        max_tokens=(3, 17, 8, 30, 1, 12, 25)[n % 7],
        temperature=(0.0, 0.9, 0.0)[n % 3],
        top_p=(1.0, 0.8)[n % 2],
        seed=n,
        stop=(" t",) if n % 4 == 0 else (),
    )
    for n in range(14)
]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module")
def generate(model, tokenizer):
    def run(requests=REQUESTS, *, rows, tokens=10_000):
        answers = [
            Answer(index=index, request=request, prompt=tokenizer(request.prompt)["input_ids"])
            for index, request in enumerate(requests)
        ]
        pairs = list(Generator(model, tokenizer, ends=(1,), rows=rows, tokens=tokens).run(answers))
        assert sorted(index for index, _ in pairs) == list(range(len(requests)))
        return [answer for _, answer in sorted(pairs, key=lambda pair: pair[0])]

    return run


@pytest.fixture(scope="module")
def expected(generate):
    return generate(rows=1)


@pytest.fixture
def joins(monkeypatch):
    """How many rows were there, how many came, and after how many steps, each time that rows joined."""
    seen, steps = [], []
    join, step = generation._Batch.join, generation._Batch.step

    def joined(batch, answers):
        seen.append((len(batch.answers), len(answers), len(steps)))
        return join(batch, answers)

    def stepped(batch):
        steps.append(batch)
        return step(batch)

    monkeypatch.setattr(generation._Batch, "join", joined)
    monkeypatch.setattr(generation._Batch, "step", stepped)
    return seen


@pytest.mark.parametrize("rows", [2, 5, 32])
def test_answers_do_not_depend_on_what_is_generated_beside_them(generate, expected, joins, rows):
    assert generate(rows=rows) == expected
    refilled = [steps for held, _, steps in joins if held and steps]
    assert bool(refilled) == (rows < len(REQUESTS))


def test_one_at_a_time_means_what_the_model_says_token_by_token(model, tokenizer, expected):
    greedy = [(request, answer) for request, answer in zip(REQUESTS, expected, strict=True) if not request.temperature]
    for request, answer in greedy:
        tokens = tokenizer(request.prompt)["input_ids"]
        for _ in range(answer.completion_tokens):
            with torch.inference_mode():
                tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
        assert tokenizer.decode(tokens[answer.prompt_tokens :], skip_special_tokens=True).startswith(answer.text)
    assert len(greedy) > 5


def test_the_answers_of_these_tests_end_in_both_ways(expected):
    assert {answer.finish for answer in expected} == {"stop", "length"}
    assert len({answer.text for answer in expected}) > 8
    assert all(
        answer.completion_tokens == request.max_tokens
        for request, answer in zip(REQUESTS, expected, strict=True)
        if answer.finish == "length"
    )


def test_the_token_budget_bounds_the_rows(generate, expected, joins):
    assert generate(rows=32, tokens=60) == expected
    assert max(held + came for held, came, _ in joins) < 5


def test_where_memory_runs_out_answers_begin_again_in_smaller_batches(generate, expected, monkeypatch):
    forward, calls, sizes = generation._Batch._forward, [0], []

    def cramped(batch, ids, seen, positions, cache):
        calls[0] += 1
        if seen.shape[0] > 2 and calls[0] % 3 == 0:  # in the middle of answers too, not only when they begin
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        sizes.append(ids.shape[0])
        return forward(batch, ids, seen, positions, cache)

    monkeypatch.setattr(generation._Batch, "_forward", cramped)
    assert generate(rows=8) == expected
    assert max(sizes) > 2


def test_an_answer_that_does_not_fit_alone_fails_alone(generate, expected, monkeypatch):
    forward = generation._Batch._forward
    victim = max(range(len(REQUESTS)), key=lambda n: len(REQUESTS[n].prompt))

    def cramped(batch, ids, seen, positions, cache):
        if any(answer.index == victim for answer in batch.answers):
            raise MemoryError("no room")
        return forward(batch, ids, seen, positions, cache)

    monkeypatch.setattr(generation._Batch, "_forward", cramped)
    found = generate(rows=8)
    assert found[victim] == Failure(kind="out-of-memory", message="no room")
    assert [answer for n, answer in enumerate(found) if n != victim] == [
        answer for n, answer in enumerate(expected) if n != victim
    ]


def test_any_other_error_is_not_taken_for_a_lack_of_memory(generate, monkeypatch):
    def broken(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(generation._Batch, "_forward", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        generate(rows=8)


def test_numbers_that_are_not_finite_fail_their_answer_alone(generate, expected, monkeypatch):
    forward = generation._Batch._forward

    def broken(batch, ids, seen, positions, cache):
        logits = forward(batch, ids, seen, positions, cache)
        coming = batch.answers[-len(ids) :]
        for row, answer in enumerate(coming):
            if answer.index == 3 and len(answer.tokens) == 2:
                logits = logits.clone()
                logits[row, 7] = float("nan")
        return logits

    monkeypatch.setattr(generation._Batch, "_forward", broken)
    found = generate(rows=5)
    assert found[3] == Failure(kind="non-finite", message="logits of answer token 2 are not finite")
    assert found[:3] + found[4:] == expected[:3] + expected[4:]


def chosen(logits, **changes):
    request = GenerateRequest(**{"prompt": "", "max_tokens": 1, **changes})
    return Answer(index=0, request=request, prompt=[5]).choose(torch.tensor(logits))


@pytest.mark.parametrize("bad", [[0.0, float("nan")], [0.0, float("inf")], [-float("inf")] * 2])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_token_is_chosen_from_numbers_that_are_not_finite(bad, temperature):
    assert chosen(bad, temperature=temperature).kind == "non-finite"


def test_a_forbidden_token_is_no_reason_to_fail():
    assert chosen([0.5, -float("inf")]) == 0
    assert chosen([0.5, -float("inf")], temperature=2.0) == 0


def test_sampling_draws_in_the_shares_of_the_distribution():
    logits = [0.0, 1.0, 2.0]
    drawn = [chosen(logits, temperature=0.5, seed=seed) for seed in range(2000)]
    shares = torch.softmax(torch.tensor(logits) / 0.5, dim=0).tolist()
    for token, share in enumerate(shares):
        assert abs(drawn.count(token) / len(drawn) - share) < 4 * (share * (1 - share) / len(drawn)) ** 0.5


def test_a_nucleus_is_the_fewest_tokens_that_reach_top_p():
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3])
    for top_p, kept in ((0.0001, {1}), (0.4, {1}), (0.41, {1, 3}), (0.75, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        assert set(nucleus(probabilities, top_p).nonzero()[:, 0].tolist()) == kept
