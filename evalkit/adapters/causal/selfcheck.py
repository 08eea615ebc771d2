"""Which scoring path a model may use, found by trying.

In: a loaded model. Out: the fastest path whose numbers agree with the plain one on a small probe.
May not know: text, recipes.

A model may ignore a four-dimensional mask or given positions (relative biases, sliding windows, recurrence) or rescale
its logits after the output layer. Rather than list such models, each path is compared with the plain one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from evalkit.adapters.causal.forward import Path, Scorer
from evalkit.adapters.causal.plan import Batch, make_row
from evalkit.adapters.causal.tokens import EncodedRequest
from evalkit.errors import EngineError

TOLERANCE = {torch.float32: 2e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Largest difference of one token's log-probability, nats: rounding, far below what a wrong mask does."""

_SHARED, _SUFFIXES, _LENGTHS = 12, (6, 3, 9), (1, 3, 2, 5)


def keeps_all_tokens(model: Any) -> bool:
    """Whether every layer keeps keys and values of all tokens: no sliding window, no recurrent state."""
    try:
        layers = DynamicCache(config=model.config).layers
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def choose_path(model: Any, slack: float = 1.0) -> Path:
    """Return the fastest path that agrees with `plain` on the probe.

    Args:
        model: a loaded causal model in evaluation mode.
        slack: factor on the tolerance, for fake quantization, which turns rounding into steps.
    """
    if not keeps_all_tokens(model) or model.get_output_embeddings() is None:
        return "plain"
    limit = slack * TOLERANCE.get(model.get_input_embeddings().weight.dtype, 0.0)
    batch = _probe(int(model.get_input_embeddings().weight.shape[0]))
    expected = _logprobs(Scorer(model, "plain"), batch)
    paths: tuple[Path, ...] = ("packed", "packed-full")
    for path in paths:
        try:
            found = _logprobs(Scorer(model, path), batch)
        except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError, IndexError):
            continue  # a model that cannot take the inputs of this path; the plain one takes any
        if float(np.abs(found - expected).max()) <= limit:
            return path
    return "plain"


def agreed_path(model: Any, wanted: str, slack: float = 1.0) -> Path:
    """Return the scoring path for the word of the option `scoring`.

    Raises:
        EngineError: "packed" was asked for and its numbers differ from the plain ones.
    """
    if wanted == "plain":
        return "plain"
    path = choose_path(model, slack)
    if wanted == "packed" and path == "plain":
        raise EngineError(
            "scoring: packed was asked for, but its numbers differ from plain ones for this model; "
            "next step: scoring: auto"
        )
    return path


def _logprobs(scorer: Scorer, batch: Batch) -> Any:
    return np.concatenate([scores.logprobs for scores in scorer.run(batch)])


def _probe(vocabulary: int) -> Batch:
    dice = np.random.default_rng(20240824)
    shared = dice.integers(0, vocabulary, _SHARED)
    rows = []
    for index, suffix in enumerate(_SUFFIXES):
        context = np.concatenate([shared, dice.integers(0, vocabulary, suffix)]).astype(np.int32)
        continuations = tuple(tuple(dice.integers(0, vocabulary, length).tolist()) for length in _LENGTHS)
        rows.append(make_row(EncodedRequest(index=index, context=context, continuations=continuations), _SHARED))
    return Batch(prefix=shared.astype(np.int32), rows=tuple(rows))
