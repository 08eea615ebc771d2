"""Attention of single queries by head groups, against transformers' own, on a tiny random Llama with shared keys."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from evalkit.adapters.causal import attention
from evalkit.adapters.causal.attention import attention_by, by_head_groups

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def model(tiny_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture
def shapes(monkeypatch):
    """Shapes of the queries that torch was handed."""
    seen = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def watched(query, *args, **kwargs):
        seen.append(tuple(query.shape))
        return plain(query, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    return seen


@torch.inference_mode()
def two_steps(model):
    """Logits after three prompts of different length, padded on the left, and one more token each."""
    lengths, dice = (9, 4, 7), torch.Generator().manual_seed(3)
    ids = torch.randint(2, 500, (3, max(lengths)), generator=dice)
    seen = torch.stack([(torch.arange(max(lengths)) >= max(lengths) - length).long() for length in lengths])
    cache = DynamicCache(config=model.config)
    positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
    model(input_ids=ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True)
    seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
    found = model(
        input_ids=torch.tensor([[5], [6], [7]]),
        attention_mask=seen,
        position_ids=seen.sum(dim=1, keepdim=True) - 1,
        past_key_values=cache,
        use_cache=True,
    )
    return found.logits[:, -1]


def test_the_numbers_are_those_of_transformers_and_nothing_is_repeated(model, shapes):
    expected = two_steps(model)
    heads = model.config.num_attention_heads
    assert shapes[-1][1:3] == (heads, 1)
    shapes.clear()
    with attention_by(by_head_groups):
        found = two_steps(model)
    groups = model.config.num_key_value_heads
    assert shapes[-1][1:3] == (groups, heads // groups)
    assert shapes[0][1:3] == (heads, 9), "a pass over many tokens is left to transformers"
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert (found != two_steps(model).roll(1, 0)).any(), "rows differ, so a mixed-up row would show"


def test_outside_of_the_block_the_call_is_passed_on(model, shapes):
    with attention_by(by_head_groups):
        pass
    two_steps(model)
    assert shapes[-1][1:3] == (model.config.num_attention_heads, 1)


def test_somebody_elses_attention_stays(model, monkeypatch):
    called = []

    def own(*args, **kwargs):
        called.append(args)
        return attention.sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS, "sdpa", own)
    with attention_by(by_head_groups):
        two_steps(model)
    assert len(called) == 2 * model.config.num_hidden_layers
