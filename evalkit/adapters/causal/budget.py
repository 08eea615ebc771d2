"""Batch sizes: from the kind of device, lowered where memory does not suffice for them.

In: a loaded model. Out: a limit for scoring and one for generating.
May not know: requests, text.

Costs are estimates from the model's configuration. One that is too low costs a failed batch, since the limit is then
halved and the run goes on; one that is too high costs speed. Half of what is free is planned for. What a lack of memory
lowers is told (`CausalEngine.warnings`), for other batches round otherwise.
"""

from __future__ import annotations

from typing import Any

from evalkit.adapters.causal.forward import HEADLESS, Path
from evalkit.adapters.causal.limit import BatchLimit, TokenCost
from evalkit.adapters.causal.memory import free_bytes

SCORED_TOKENS = {"cpu": 1024, "cuda": 32768}
"""Tokens fed at once where memory is plenty: what keeps activations in a processor's cache, or a GPU busy."""

KEPT_TOKENS = {"cpu": 32768, "cuda": 262144}
"""Tokens whose keys and values are kept while generating, where memory is plenty."""

_SHARE = 0.5
"""Of the free memory, what a batch may take."""


def scoring_limit(model: Any, path: Path, wanted: int | None) -> BatchLimit:
    """Return the limit for scoring: the tokens that were asked for, or what free memory allows."""
    if wanted is not None:
        return BatchLimit(wanted)
    free = free_bytes(model)
    memory = None if free is None else int(free * _SHARE)
    return BatchLimit(SCORED_TOKENS[_kind(model)], memory=memory, cost=token_cost(model, path))


def kept_tokens(model: Any, wanted: int | None) -> tuple[int, int]:
    """Return the tokens kept while generating, and how many they would be with memory enough.

    Both are the number that was asked for, if one was: whether it fits is the user's to know.
    """
    if wanted is not None:
        return wanted, wanted
    free, most = free_bytes(model), KEPT_TOKENS[_kind(model)]
    allowed = most if free is None else max(1, min(most, int(free * _SHARE) // token_cost(model, "packed").kept))
    return allowed, most


def token_cost(model: Any, path: Path) -> TokenCost:
    """Estimate what a token costs; a size that the configuration lacks is taken at its usual proportions."""
    config = model.config.get_text_config(decoder=True)
    size = model.get_input_embeddings().weight.dtype.itemsize
    hidden = _whole(config, ("hidden_size", "n_embd", "d_model"), 1024)
    heads = _whole(config, ("num_attention_heads", "n_head"), max(1, hidden // 64))
    width = _whole(config, ("head_dim",), max(1, hidden // heads))
    inner = _whole(config, ("intermediate_size", "n_inner", "ffn_dim"), 4 * hidden)
    routed = _whole(config, ("moe_intermediate_size",), 0) * _whole(config, ("num_experts_per_tok",), 0)
    logits = 0 if path in HEADLESS else (size + 4) * _whole(config, ("vocab_size",), 0)
    keys = 2 * size * width * _whole(config, ("num_key_value_heads",), heads)
    eager = model.config._attn_implementation == "eager"
    return TokenCost(
        fed=size * (6 * hidden + 2 * heads * width + 3 * max(inner, routed)) + 8 * hidden + logits,
        seen=keys + 2 * size * heads * width,
        pair=heads * (size + 4) if eager else 2 * size,
        kept=keys * _whole(config, ("num_hidden_layers", "n_layer"), 1),
    )


def _whole(config: Any, names: tuple[str, ...], otherwise: int) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int) and value > 0), otherwise)


def _kind(model: Any) -> str:
    return "cuda" if model.get_input_embeddings().weight.is_cuda else "cpu"
