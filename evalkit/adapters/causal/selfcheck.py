"""Which scoring path a model may use, found by trying.

In: a loaded model. Out: the fastest path whose numbers agree with the plain one on a small probe.
Must not depend on: text, recipes.

A model may ignore a four-dimensional mask or given positions (relative biases, sliding windows, recurrence) or rescale
its logits after the output layer. Rather than list such models, each path is compared with the plain one. The model
compared is a sibling of the same class and configuration, with two layers, narrow feed-forward layers and random fp32
weights: bf16 rounding and the steps of fake quantization are as large as what a wrong mask does, so the loaded model
itself cannot tell them apart.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from evalkit.adapters.causal.forward import ForwardPath, Scorer
from evalkit.adapters.causal.plan import Batch, make_row
from evalkit.adapters.tokens import EncodedRequest
from evalkit.errors import EngineError

TOLERANCE = 1e-3
"""Largest difference of one token's log-probability, nats: fp32 rounding stays below 1e-5, a wrong mask above 1e-2."""

_SEED = 20240824
_SHARED, _SUFFIXES, _LENGTHS = 12, (6, 3, 9), (1, 3, 2, 5)
VOCABULARY, _LAYERS, _NARROW, _WINDOW = 256, 2, 64, 8

UNFIT = (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError, KeyError)
"""What a model that cannot take the inputs of a path raises; the plain path takes any."""


def keeps_all_tokens(model: Any) -> bool:
    """Whether every layer keeps keys and values of all tokens: no sliding window, no recurrent state."""
    try:
        layers = DynamicCache(config=model.config).layers
    except UNFIT:
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def agreed_path(model: Any, wanted: str) -> ForwardPath:
    """Return the scoring path for the word of the option `scoring`.

    Raises:
        EngineError: "packed" was asked for and its numbers differ from the plain ones.
    """
    if wanted == "plain":
        return "plain"
    path = choose_path(model)
    if wanted == "packed" and path == "plain":
        raise EngineError(
            "scoring: packed was asked for, but its numbers differ from plain ones for this model; "
            "next step: scoring: auto"
        )
    return path


def choose_path(model: Any) -> ForwardPath:
    """Return the fastest path that agrees with `plain`; `plain` where no sibling can be built to try it on."""
    if not keeps_all_tokens(model) or model.get_output_embeddings() is None:
        return "plain"
    try:
        sibling = small_sibling(model)
        expected = _logprobs(sibling, "plain")
    except UNFIT:
        return "plain"
    on_host = all(weight.device.type == "cpu" for weight in model.parameters())
    paths: tuple[ForwardPath, ...] = ("flat", "packed", "packed-full") if on_host else ("packed", "packed-full")
    return next((path for path in paths if _agrees(sibling, path, expected)), "plain")


def small_sibling(model: Any) -> Any:
    """Build a model of the same class with two layers and random weights that make attention matter."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers, config.vocab_size = _LAYERS, VOCABULARY
    config.pad_token_id = config.bos_token_id = config.eos_token_id = None
    for name in ("sliding_window", "attention_window_size"):
        if (getattr(config, name, None) or 0) > _WINDOW:
            setattr(config, name, _WINDOW)  # short enough for a probe to leave it behind
    for name in ("layer_types", "mlp_layer_types"):
        if getattr(config, name, None):
            setattr(config, name, getattr(config, name)[:_LAYERS])
    for name in ("intermediate_size", "moe_intermediate_size"):
        if getattr(config, name, None):
            setattr(config, name, _NARROW)
    if getattr(config, "quantization_config", None) is not None:
        del config.quantization_config
    config._attn_implementation = model.config._attn_implementation
    config.dtype = torch.float32
    kind = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("modelopt"))
    device = model.get_input_embeddings().weight.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        sibling = kind(config).float().eval()
        for weight in sibling.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=float(weight.shape[-1]) ** -0.5)
    return sibling.to(device)


def _agrees(sibling: Any, path: ForwardPath, expected: Any) -> bool:
    try:
        found = _logprobs(sibling, path)
    except UNFIT:
        return False
    return float(np.abs(found - expected).max()) <= TOLERANCE


def _logprobs(model: Any, path: ForwardPath) -> Any:
    return np.concatenate([scores.logprobs for scores in Scorer(model, path).run(_probe())])


def _probe() -> Batch:
    dice = np.random.default_rng(_SEED)
    shared = dice.integers(0, VOCABULARY, _SHARED)
    rows = []
    for index, suffix in enumerate(_SUFFIXES):
        context = np.concatenate([shared, dice.integers(0, VOCABULARY, suffix)]).astype(np.int32)
        continuations = tuple(tuple(dice.integers(0, VOCABULARY, length).tolist()) for length in _LENGTHS)
        rows.append(make_row(EncodedRequest(index=index, context=context, continuations=continuations), _SHARED))
    return Batch(prefix=shared.astype(np.int32), rows=tuple(rows))
