"""Attention of rows fed end to end, against one dense softmax for each row, and models that do not come to it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evalkit.adapters.base import ScoreRequest
from evalkit.adapters.causal import attention
from evalkit.adapters.causal.attention import FlatAttention, Recorder, attention_by
from evalkit.adapters.causal.forward import Scorer
from evalkit.adapters.causal.plan import BatchLimit, plan_batches
from evalkit.adapters.causal.selfcheck import choose_path
from evalkit.adapters.tokens import encode_requests

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

SIZE, PREFIX = 16, 11
BRANCHES = ([0, 0, 0, 1, 1, 2], [0], [0, 0, 1, 2, 2, 2, 2, 3])
LAYER = object()


def drawn(heads, tokens, seed, dtype=torch.float32):
    return torch.randn((1, heads, tokens, SIZE), generator=torch.Generator().manual_seed(seed)).to(dtype)


def branches():
    return [np.array(branch, dtype=np.int32) for branch in BRANCHES]


def dense(query, key, value, shared, scale):
    """What every token sees, by one softmax in fp64, row after row, without any layout."""
    heads, groups = query.shape[1], key.shape[1]
    found, start = torch.zeros(query.shape, dtype=torch.float64), 0
    for branch in BRANCHES:
        for place, mine in enumerate(branch):
            seen = [start + other for other in range(place + 1) if branch[other] in (0, mine)]
            for head in range(heads):
                group = head * groups // heads
                keys, values = key[0, group, seen].double(), value[0, group, seen].double()
                if shared:
                    keys = torch.cat([shared[0][0, group].double(), keys])
                    values = torch.cat([shared[1][0, group].double(), values])
                weights = (keys @ query[0, head, start + place].double() * scale).softmax(dim=0)
                found[0, head, start + place] = weights @ values
        start += len(branch)
    return found


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("prefix", [0, PREFIX])
@pytest.mark.parametrize("scale", [SIZE**-0.5, 0.7])
def test_two_parts_are_one_softmax(heads, groups, prefix, scale):
    tokens = sum(map(len, BRANCHES))
    query, key, value = drawn(heads, tokens, 1), drawn(groups, tokens, 2), drawn(groups, tokens, 3)
    kept = {id(LAYER): (drawn(groups, prefix, 4), drawn(groups, prefix, 5))} if prefix else {}
    way = FlatAttention(branches(), kept, torch.device("cpu"))
    expected = dense(query, key, value, kept.get(id(LAYER)), scale).transpose(1, 2)
    for _ in range(2):  # the second layer finds the layout made
        found = way(LAYER, query, key, value, None, {"scaling": scale})
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)
    assert float(expected.std()) > 0.1, "what is compared differs from place to place"


def test_in_bf16_the_parts_are_averaged_in_fp32():
    tokens, dtype = sum(map(len, BRANCHES)), torch.bfloat16
    query, key, value = drawn(4, tokens, 1, dtype), drawn(2, tokens, 2, dtype), drawn(2, tokens, 3, dtype)
    kept = {id(LAYER): (drawn(2, PREFIX, 4, dtype), drawn(2, PREFIX, 5, dtype))}
    found = FlatAttention(branches(), kept, torch.device("cpu"))(LAYER, query, key, value, None, {})
    assert found.dtype == dtype
    expected = dense(query, key, value, kept[id(LAYER)], SIZE**-0.5).transpose(1, 2)
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"dropout": 0.1}},
        {"options": {"position_bias": torch.zeros(1)}},
        {"key": drawn(3, 15, 2)},
        {"key": drawn(2, 9, 2)},
        {"value": drawn(2, 15, 2)[..., :8]},
        {"value": drawn(2, 15, 2, torch.bfloat16)},
        {"query": drawn(4, 15, 1).expand(2, -1, -1, -1)},
    ],
)
def test_attention_of_another_kind_is_refused(change):
    given = {"query": drawn(4, 15, 1), "key": drawn(2, 15, 2), "value": drawn(2, 15, 3), "options": {}} | change
    way = FlatAttention(branches(), {}, torch.device("cpu"))
    with pytest.raises(NotImplementedError, match="cannot be computed in two parts"):
        way(LAYER, given["query"], given["key"], given["value"], None, given["options"])


SHOTS = "".join(f"Question: what is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(9))
REQUESTS = tuple(
    ScoreRequest(context=f"{SHOTS}Question: {text}\nAnswer:", continuations=(" 20", " a number near twenty"))
    for text in ("what is ten and ten?", "what is the colour of the sea?", "what?")
)


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options).eval()


def batches(folder):
    encoded = list(encode_requests(AutoTokenizer.from_pretrained(folder), REQUESTS))
    return list(plan_batches(encoded, BatchLimit(5000)))


def test_a_prefix_is_fed_once_and_rows_are_fed_end_to_end(tiny_folder):
    model, fed = load(tiny_folder), []
    model.get_input_embeddings().register_forward_pre_hook(lambda _, given: fed.append(tuple(given[0].shape)))
    (batch,) = batches(tiny_folder)
    scorer = Scorer(model, "flat")
    scorer.run(batch)
    scorer.run(batch)
    tokens = sum(len(row.tokens) for row in batch.rows)
    (first, *others) = fed
    assert first == (1, len(batch.prefix))
    assert others == [(1, -(-tokens // 32) * 32)] * 2
    assert tokens % 32


def test_a_model_that_attends_in_its_own_way_fails_and_is_not_wrong(tiny_folder):
    model = load(tiny_folder, attn_implementation="eager")
    (batch,) = batches(tiny_folder)
    with pytest.raises(RuntimeError):
        Scorer(model, "flat").run(batch)
    assert choose_path(model) == "packed"


def test_where_somebody_has_replaced_attention_the_flat_path_is_not_taken(tiny_folder, monkeypatch):
    def own(*args, **kwargs):
        return attention.sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setitem(attention.ALL_ATTENTION_FUNCTIONS, "sdpa", own)
    assert choose_path(load(tiny_folder)) == "packed"


def test_what_is_recorded_of_a_prefix_is_what_its_attention_sees(tiny_folder):
    model, recorder = load(tiny_folder), Recorder()
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode(), attention_by(recorder):
        model(input_ids=tokens, use_cache=False)
    layers = model.config.num_hidden_layers
    assert len(recorder.kept) == layers
    with torch.inference_mode():
        seen = model(input_ids=tokens, use_cache=True).past_key_values.layers
    for (keys, values), layer in zip(recorder.kept.values(), seen, strict=True):
        assert torch.equal(keys, layer.keys)
        assert torch.equal(values, layer.values)
