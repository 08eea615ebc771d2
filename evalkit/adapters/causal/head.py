"""The output layer: hidden states in, log-probabilities of chosen tokens out.

In: a model's output layer, hidden states, target tokens. Out: each target's log-probability, and whether it is greedy.
May not know: rows, batches, prefixes.

Logits are made for a part of the vocabulary at a time and never kept: a part stays in the processor's cache, while all
logits of a batch, 50 to 200 MB, would be written to memory and read back (measured: 1.7 times as long on a CPU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Scored = tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]
"""Natural log-probability of each target, and whether the target is the likeliest token; shapes (t,)."""

_ROWS = 512
"""Places projected at a time."""

_PART = {"cpu": 4096, "cuda": 65536}
"""Tokens of the vocabulary projected at a time: 512 rows of 4096 fp32 logits are 8 MB."""

Project = Callable[[Any], Iterator[tuple[int, Any]]]
"""Hidden states (places, width) to fp32 logits: parts of the vocabulary, each with its first token."""


def score_targets(
    project: Project, states: Any, owners: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
) -> Scored:
    """Score targets, shape (t,), each by the state of its owner.

    Args:
        project: the output layer.
        states: hidden states, shape (places, width).
        owners: for each target, the place that predicts it, shape (t,).
        targets: token ids, shape (t,).
    """
    logprobs, greedy = np.empty(len(targets), dtype=np.float32), np.empty(len(targets), dtype=np.bool_)
    for begin in range(0, len(states), _ROWS):
        here = np.flatnonzero((owners >= begin) & (owners < begin + _ROWS))
        rows = torch.as_tensor(owners[here] - begin, device=states.device)
        wanted = torch.as_tensor(targets[here], device=states.device)
        logprobs[here], greedy[here] = _score(project(states[begin : begin + _ROWS]), rows, wanted)
    return logprobs, greedy


def _score(parts: Iterator[tuple[int, Any]], rows: Any, wanted: Any) -> Scored:
    chosen = torch.zeros(len(wanted), dtype=torch.float32, device=wanted.device)
    total, best, likeliest = torch.tensor(-torch.inf), torch.tensor(-torch.inf), torch.tensor(-1)
    for first, logits in parts:
        tops, places = logits.max(dim=-1)
        likeliest = torch.where(tops > best.to(tops), places + first, likeliest.to(places))  # of equals the first
        best = torch.maximum(tops, best.to(tops))
        total = torch.logaddexp(total.to(tops), logits.logsumexp(dim=-1))
        held = (wanted >= first) & (wanted < first + logits.shape[-1])
        chosen[held] = logits[rows[held], wanted[held] - first]
    return (chosen - total[rows]).cpu().numpy(), (likeliest[rows] == wanted).cpu().numpy()


def whole_logits(states: Any) -> Iterator[tuple[int, Any]]:
    """Take states that are logits already."""
    yield 0, states.float()


def projection(head: Any) -> Project:
    """Return what makes fp32 logits of hidden states; bf16 logits near 20 step by 0.125, which would tie options."""

    def through_layer(states: Any) -> Iterator[tuple[int, Any]]:
        yield 0, head(states).float()

    def in_parts(states: Any) -> Iterator[tuple[int, Any]]:
        width = _PART["cuda" if states.is_cuda else "cpu"]
        for first in range(0, len(head.weight), width):
            logits = _product(states, head.weight[first : first + width])
            yield first, logits if head.bias is None else logits + head.bias[first : first + width].float()

    return in_parts if _is_plain_linear(head) else through_layer


def _product(states: Any, weight: Any) -> Any:
    if states.is_cuda and states.dtype != torch.float32:
        return torch.mm(states, weight.t(), out_dtype=torch.float32)
    return torch.mm(states.float(), weight.float().t())


def _is_plain_linear(head: Any) -> bool:
    """Whether a layer only multiplies by its weight: ModelOpt's wrapper with all quantizers off does."""
    quantized = any(getattr(part, "is_enabled", False) for part in head.modules())
    return isinstance(head, torch.nn.Linear) and not quantized
