"""The output layer a part of the vocabulary at a time, against all logits at once."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from evalkit.adapters.causal import forward as head

pytestmark = pytest.mark.system

WIDTH, WORDS, PLACES = 24, 103, 37


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    """Several parts, the last one short, and several rounds of places."""
    monkeypatch.setattr(head, "_ROWS", 10)
    monkeypatch.setattr(head, "_PART", {"cpu": 25, "cuda": 25})


def layer(dtype=torch.float32, *, bias=False):
    dice = torch.Generator().manual_seed(5)
    made = torch.nn.Linear(WIDTH, WORDS, bias=bias).requires_grad_(requires_grad=False)
    for weight in made.parameters():
        weight.copy_(torch.randn(weight.shape, generator=dice))
    return made.to(dtype)


def asked(dtype=torch.float32):
    dice = np.random.default_rng(7)
    states = torch.randn((PLACES, WIDTH), generator=torch.Generator().manual_seed(6)).to(dtype)
    owners = np.sort(dice.integers(0, PLACES, 90))
    return states, owners, dice.integers(0, WORDS, 90)


def expected(made, states, owners, targets):
    bias = 0 if made.bias is None else made.bias.double()
    logits = states.double() @ made.weight.double().t() + bias
    logprobs = logits.log_softmax(dim=-1)[owners, targets]
    return logprobs.numpy(), (logits.argmax(dim=-1)[owners] == torch.as_tensor(targets)).numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_parts_give_the_numbers_of_the_whole(dtype, bias):
    made = layer(dtype, bias=bias)
    states, owners, targets = asked(dtype)
    targets[::3] = (states.double() @ made.weight.double().t()).argmax(dim=-1)[owners[::3]]
    logprobs, greedy = head.score_targets(head.projection(made), states, owners, targets)
    wanted, likeliest = expected(made, states, owners, targets)
    np.testing.assert_allclose(logprobs, wanted, rtol=0, atol=1e-5)  # bf16 logits would be off by 1e-2
    assert greedy.tolist() == likeliest.tolist()
    assert 10 < greedy.sum() < 80


def test_of_equal_tokens_the_first_is_the_likeliest_wherever_it_lies():
    made = layer()
    made.weight[[3, 60, 99]] = 5 * made.weight[3].sign()  # in three parts
    states = made.weight[[3]] * 2
    owners = np.zeros(3, dtype=np.int64)
    logprobs, greedy = head.score_targets(head.projection(made), states, owners, np.array([3, 60, 99]))
    assert greedy.tolist() == [True, False, False]
    np.testing.assert_allclose(logprobs, -np.log(3), atol=1e-3)  # logits are near 1200


@pytest.mark.parametrize("place", [0, 30, 102])
def test_a_logit_that_is_no_number_spoils_its_place_and_no_other(place):
    made, spots = layer(), np.arange(PLACES)
    states, _, _ = asked()
    states[4] = torch.nan
    logprobs, greedy = head.score_targets(head.projection(made), states, spots, np.full(PLACES, place))
    assert np.flatnonzero(np.isnan(logprobs)).tolist() == [4]
    assert not greedy[4]


def test_a_layer_that_does_more_than_multiply_is_called():
    class Scaled(torch.nn.Linear):
        """Stands for a wrapper with an enabled quantizer."""

        is_enabled = True

        def forward(self, states):
            return 3 * super().forward(states)

    made = Scaled(WIDTH, WORDS, bias=False).requires_grad_(requires_grad=False)
    states, owners, targets = asked()
    logprobs, _ = head.score_targets(head.projection(made), states, owners, targets)
    logits = 3 * states.double() @ made.weight.double().t()
    np.testing.assert_allclose(logprobs, logits.log_softmax(dim=-1)[owners, targets], rtol=0, atol=1e-5)


def test_logits_that_a_model_made_are_taken_as_they_are():
    states, owners, targets = asked()
    logits = states @ layer().weight.t()
    logprobs, greedy = head.score_targets(head.whole_logits, logits, owners, targets)
    wanted, likeliest = expected(layer(), states, owners, targets)
    np.testing.assert_allclose(logprobs, wanted, rtol=0, atol=1e-5)
    assert greedy.tolist() == likeliest.tolist()
