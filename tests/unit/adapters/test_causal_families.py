"""Families of models whose layers forget, keep a state or count positions in their own way, against transformers alone.

Every model is tiny, random and in float32. What is right is one pass over one unpadded text, without any cache.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from evalkit.adapters.base import GenerateRequest, ScoreReply, ScoreRequest
from evalkit.adapters.causal.engine import score_requests
from evalkit.adapters.causal.forward import Scorer
from evalkit.adapters.causal.generation import Answer, Generator, choose_way
from evalkit.adapters.causal.plan import BatchLimit
from evalkit.adapters.causal.selfcheck import choose_path
from evalkit.adapters.tokens import encode_requests

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

WINDOW = 6
SMALL = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "max_position_embeddings": 512}
LINEAR = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}

FAMILIES = {
    "Llama": (SMALL | HEADS, "flat", "batched"),
    "GPT2": (
        SMALL | {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512, "hidden_size": 32},
        "flat",
        "batched",
    ),
    "Mistral": (SMALL | HEADS | {"sliding_window": WINDOW}, "plain", "alone"),
    "Gemma3": (SMALL | HEADS | {"head_dim": 16, "sliding_window": WINDOW}, "plain", "alone"),
    "GptOss": (
        SMALL | HEADS | {"head_dim": 16, "sliding_window": WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2},
        "plain",
        "alone",
    ),
    "Mamba": (SMALL | {"state_size": 4}, "plain", "recomputed"),
    "Mamba2": (
        SMALL | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
        "plain",
        "recomputed",
    ),
    "RecurrentGemma": (
        SMALL
        | {"num_attention_heads": 2, "intermediate_size": 64, "attention_window_size": WINDOW}
        | {"num_hidden_layers": 3, "block_types": ("recurrent", "recurrent", "attention")},
        "plain",
        "recomputed",
    ),
    "Qwen3Next": (
        SMALL | HEADS | LINEAR | {"head_dim": 16, "layer_types": ["linear_attention", "full_attention"]},
        "plain",
        "alone",
    ),
}
"""Family to its configuration, the path it is to be scored on, and the way it is to generate."""

CLASSES = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}

SHOTS = "".join(f"Question: what is {n} and {n}?\nAnswer: {2 * n}\n\n" for n in range(6))
REQUESTS = (
    ScoreRequest(context=f"{SHOTS}Question: what is ten and ten?\nAnswer:", continuations=(" 20", " 21", " a number")),
    ScoreRequest(context=f"{SHOTS}Question: what is the sea?\nAnswer:", continuations=(" blue", " red or green, who")),
    ScoreRequest(context="The harbour wakes ", continuations=("before", "after the town does")),
    ScoreRequest(context="A train", continuations=(" leaves", " arrives late")),
)
PROMPTS = tuple(
    GenerateRequest(prompt=text, max_tokens=limit, temperature=heat, seed=limit)
    for text, limit, heat in (
        ("The harbour wakes before the town does", 20, 0.0),
        ("A train", 9, 0.0),
        (SHOTS, 14, 0.0),
        ("Once upon a time", 12, 0.8),
    )
)


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return transformers.AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request):
    config, model = CLASSES.get(request.param, (f"{request.param}Config", f"{request.param}ForCausalLM"))
    values, path, way = FAMILIES[request.param]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        made = getattr(transformers, model)(getattr(transformers, config)(**values)).float().eval()
        for name, weight in made.named_parameters():  # some families begin with weights too small to tell tokens apart
            if weight.dim() == 2 and "A_log" not in name:
                torch.nn.init.normal_(weight, std=1.5 * float(weight.shape[-1]) ** -0.5)
    return made, path, way


@torch.inference_mode()
def whole(model, tokens):
    """Logits of every position of one text, from one pass."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0].double()


@torch.inference_mode()
def one_by_one(model, tokenizer):
    """The log-probability of each continuation, from one pass over each text."""
    found = []
    for encoded in encode_requests(tokenizer, REQUESTS):
        context = encoded.context.tolist()
        for tokens in encoded.continuations:
            rows = whole(model, [*context, *tokens]).log_softmax(dim=-1)[len(context) - 1 : -1]
            found.append(float(rows.gather(1, torch.tensor(tokens)[:, None]).sum()))
    return found


def test_a_family_is_scored_on_the_fastest_path_that_is_right(family):
    model, path, way = family
    assert choose_path(model) == path
    assert choose_way(model, choose_path(model)) == way


def test_scores_are_those_of_one_pass_over_each_text(family, tokenizer, other_processor):
    model, path, _ = family
    replies = dict(score_requests(Scorer(model, path), tokenizer, REQUESTS, max_length=500, limit=BatchLimit(4000)))
    assert all(isinstance(reply, ScoreReply) for reply in replies.values()), replies
    found = [value for _, reply in sorted(replies.items()) for value in reply.logprobs]
    wanted = one_by_one(model, tokenizer)
    tolerance = other_processor.tolerance(lambda: one_by_one(model, tokenizer))
    assert found == pytest.approx(wanted, rel=0.0, abs=tolerance)
    assert max(map(abs, wanted)) > 5.0


def test_answers_are_those_of_one_pass_for_each_token(family, tokenizer):
    model, _, way = family
    answers = [
        Answer(index=at, request=request, prompt=tokenizer(request.prompt)["input_ids"])
        for at, request in enumerate(PROMPTS)
    ]
    found = dict(Generator(model, tokenizer, ends=(), rows=3, tokens=10_000, way=way).run(answers))
    for at, request in enumerate(PROMPTS):
        alone = Answer(index=at, request=request, prompt=tokenizer(request.prompt)["input_ids"])
        ended = None
        while ended is None:
            token = alone.choose(whole(model, [*alone.prompt, *alone.tokens])[-1].float())
            ended = alone.ended(token, tokenizer, ())
        assert found[at] == ended
    assert len({answer.text for answer in found.values()}) == len(PROMPTS)


def test_a_wrong_way_would_be_seen(tokenizer):
    """A state that is kept elsewhere makes every token but the first forget the prompt; the probe must notice."""
    config = transformers.MambaConfig(**SMALL, state_size=4)
    model = transformers.MambaForCausalLM(config).float().eval()
    assert choose_way(model, "plain") == "recomputed"
