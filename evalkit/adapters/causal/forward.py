"""Forward passes for scoring: batches of rows in, log-probabilities out.

In: a loaded causal model and batches of token ids. Out: log-probability and greediness of every predicted token.
May not know: text, requests' meaning, recipes.

Three paths give the same numbers. `packed` computes a shared prefix once, feeds all continuations of a request in one
row behind a four-dimensional attention mask, and projects only the needed positions on the vocabulary, in fp32.
`packed-full` does the same with the model's own logits, for models that rescale them. `plain` feeds one sequence for
each continuation, padded on the right, and is right for every causal model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evalkit.adapters.causal.plan import Batch, Row
from evalkit.adapters.causal.tokens import Ids

Path = Literal["packed", "packed-full", "plain"]

_HEAD_ROWS = 256
"""Positions projected on the vocabulary at a time: 256 rows of 128k fp32 logits are 131 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenScores:
    """Scores of one row's predicted tokens, in the order of `Row.targets`.

    Attributes:
        logprobs: natural log-probability of each target token, shape (t,), fp32; may hold a NaN.
        greedy: whether each target is the most likely token, shape (t,).
    """

    logprobs: npt.NDArray[np.float32]
    greedy: npt.NDArray[np.bool_]


class _SharedLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of a prefix, seen by every row of a batch; what a row adds is used once and not kept."""

    def __init__(self, keys: Any, values: Any) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        rows = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(rows, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(rows, -1, -1, -1), value_states], dim=-2),
        )


class Scorer:
    """Runs batches through a model on one of the three paths; remembers the last prefix."""

    def __init__(self, model: Any, path: Path) -> None:
        self.model, self.path = model, path
        self.device = model.get_input_embeddings().weight.device
        self._prefix: tuple[bytes, Any] | None = None
        self._head_weight: Any = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def run(self, batch: Batch) -> list[TokenScores]:
        """Score the rows of a batch, in order."""
        states, (numbers, places) = self._plain(batch) if self.path == "plain" else self._packed(batch)
        # All continuations of a row are first predicted at one place; it is projected once.
        spots, owners = np.unique(numbers * states.shape[1] + places, return_inverse=True)
        picked = states.flatten(0, 1)[torch.as_tensor(spots, device=states.device)]
        targets = np.concatenate([row.targets for row in batch.rows]).astype(np.int64)
        logprobs, greedy = self._score(picked, owners, targets)
        cuts = np.cumsum([len(row.targets) for row in batch.rows])[:-1]
        pairs = zip(np.split(logprobs, cuts), np.split(greedy, cuts), strict=True)
        return [TokenScores(logprobs=values, greedy=flags) for values, flags in pairs]

    def forget(self) -> None:
        """Drop the remembered prefix and the fp32 copy of the output weights."""
        self._prefix = self._head_weight = None

    def _packed(self, batch: Batch) -> tuple[Any, tuple[Any, Any]]:
        rows, past = batch.rows, len(batch.prefix)
        dtype = self.model.get_input_embeddings().weight.dtype
        tokens, positions = _padded([row.tokens for row in rows], 0), _padded([row.positions for row in rows], past)
        inputs = {
            "input_ids": torch.as_tensor(tokens, device=self.device),
            "position_ids": torch.as_tensor(positions, device=self.device),
            "attention_mask": _tree_mask(_padded([row.branch for row in rows], -1), past, dtype, self.device),
            "past_key_values": self._shared(batch.prefix),
            "use_cache": past > 0,
        }
        states = (
            self.model(**inputs).logits
            if self.path == "packed-full"
            else self.model.base_model(**inputs).last_hidden_state
        )
        numbers = np.repeat(np.arange(len(rows)), [len(row.sources) for row in rows])
        return states, (numbers, np.concatenate([row.sources for row in rows]).astype(np.int64))

    def _shared(self, prefix: Ids) -> Any:
        """Return a cache that holds the prefix for any number of rows; None for no prefix."""
        if not len(prefix):
            return None
        key = prefix.tobytes()
        if self._prefix is None or self._prefix[0] != key:
            self._prefix = None
            cache = DynamicCache()
            ids = torch.as_tensor(prefix.astype(np.int64), device=self.device)[None]
            self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
            self._prefix = key, Cache(layers=[_SharedLayer(layer.keys, layer.values) for layer in cache.layers])
        return self._prefix[1]

    def _plain(self, batch: Batch) -> tuple[Any, tuple[Any, Any]]:
        sequences: list[Ids] = []
        sources: list[int] = []
        numbers: list[int] = []
        for row in batch.rows:
            context = row.request.context
            for tokens in row.request.continuations:
                numbers += [len(sequences)] * len(tokens)
                sources += range(len(context) - 1, len(context) - 1 + len(tokens))
                sequences.append(np.concatenate([context, tokens[:-1]]))
        mask = _padded([np.ones(len(sequence)) for sequence in sequences], 0)
        states = self.model(
            input_ids=torch.as_tensor(_padded(sequences, 0), device=self.device),
            attention_mask=torch.as_tensor(mask, device=self.device),
            use_cache=False,
        ).logits
        return states, (np.asarray(numbers), np.asarray(sources))

    def _score(
        self, states: Any, owners: npt.NDArray[np.int64], targets: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Score targets, shape (t,), each by the state of its owner; states (places, width), owners (t,)."""
        logprobs, greedy = np.empty(len(targets), dtype=np.float32), np.empty(len(targets), dtype=np.bool_)
        for begin in range(0, len(states), _HEAD_ROWS):
            logits = self._logits(states[begin : begin + _HEAD_ROWS])
            here = np.flatnonzero((owners >= begin) & (owners < begin + _HEAD_ROWS))
            rows = torch.as_tensor(owners[here] - begin, device=logits.device)
            wanted = torch.as_tensor(targets[here], device=logits.device)
            chosen = logits[rows, wanted] - logits.logsumexp(dim=-1)[rows]
            logprobs[here] = chosen.cpu().numpy()
            greedy[here] = (logits.argmax(dim=-1)[rows] == wanted).cpu().numpy()
        return logprobs, greedy

    def _logits(self, states: Any) -> Any:
        """Return fp32 logits; bf16 logits near 20 step by 0.125, which would tie options that differ."""
        if self.path != "packed":
            return states.float()
        head = self.model.get_output_embeddings()
        if states.dtype == torch.float32 or not _is_plain_linear(head):
            return head(states).float()
        if states.is_cuda:
            logits = torch.mm(states, head.weight.t(), out_dtype=torch.float32)
        else:
            if self._head_weight is None:
                self._head_weight = head.weight.float()
            logits = torch.mm(states.float(), self._head_weight.t())
        return logits if head.bias is None else logits + head.bias.float()


def _is_plain_linear(head: Any) -> bool:
    """Whether a layer only multiplies by its weight: ModelOpt's wrapper with all quantizers off does."""
    quantized = any(getattr(part, "is_enabled", False) for part in head.modules())
    return isinstance(head, torch.nn.Linear) and not quantized


def _padded(rows: Sequence[npt.NDArray[Any]], fill: int) -> npt.NDArray[np.int64]:
    """Return one array of shape (rows, longest), filled on the right."""
    padded = np.full((len(rows), max(len(row) for row in rows)), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def _tree_mask(branches: npt.NDArray[np.int64], past: int, dtype: Any, device: Any) -> Any:
    """Return an additive mask of shape (rows, 1, s, past + s).

    A token sees the prefix and, up to itself, its row's context and its own branch. Padding (branch -1) sees itself,
    so that no row of the attention is empty and no NaN arises.
    """
    branch = torch.as_tensor(branches, device=device)
    query, key = branch[:, :, None], branch[:, None, :]
    seen = ((key == 0) | (key == query)).tril()
    mask = torch.zeros((*seen.shape[:2], past + seen.shape[2]), dtype=dtype, device=device)
    mask[:, :, past:].masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None]


def row_cost(row: Row) -> int:
    """Tokens of a row on the plain path: every continuation repeats the context."""
    return sum(len(row.request.context) + len(tokens) - 1 for tokens in row.request.continuations)
