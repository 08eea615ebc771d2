"""Forward passes for scoring: batches of rows in, log-probabilities out.

In: a loaded causal model and batches of token ids. Out: log-probability and greediness of every predicted token.
Must not depend on: text, requests' meaning, recipes.

Four paths give the same numbers. `packed` computes a shared prefix once, feeds all continuations of a request in one
row behind a four-dimensional attention mask, and projects only the needed positions on the vocabulary, in fp32. `flat`
does so too, but feeds the rows end to end and computes attention itself (`flat.py`), on a CPU. `packed-full` is
`packed` with the model's own logits, for models that rescale them. `plain` feeds one sequence for each continuation,
padded on the right, and is right for every causal model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from evalkit.adapters.causal.attention import FlatAttention, Kept, Recorder, attention_by
from evalkit.adapters.causal.plan import Batch, Row
from evalkit.adapters.tokens import Ids

# The output layer: hidden states in, log-probabilities of chosen tokens out.
#
# Logits are made for a part of the vocabulary at a time and never kept: a part stays in the processor's cache, while
# all logits of a batch, 50 to 200 MB, would be written to memory and read back (measured: 1.7 times as long on a
# CPU).


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


ForwardPath = Literal["flat", "packed", "packed-full", "plain"]
HEADLESS: tuple[ForwardPath, ...] = ("flat", "packed")
"""Paths that stop before the output layer and apply it themselves, where tokens are predicted."""

_STEP = 32
"""Tokens of a batch that is fed end to end, rounded up to a multiple: oneDNN keeps code and memory for each size."""

Places = npt.NDArray[np.int64]
"""For each target, where it is predicted: its number among the states of all rows, shape (t,)."""


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
    """Runs batches through a model on one of the four paths; remembers the last prefix."""

    def __init__(self, model: Any, path: ForwardPath) -> None:
        self.model, self.path = model, path
        self.device = model.get_input_embeddings().weight.device
        self._prefix: tuple[bytes, Any] | None = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def run(self, batch: Batch) -> list[TokenScores]:
        """Score the rows of a batch, in order."""
        feed = {"flat": self._flat, "plain": self._plain}.get(self.path, self._packed)
        states, places = feed(batch)
        # All continuations of a row are first predicted at one place; it is projected once.
        spots, owners = np.unique(places, return_inverse=True)
        picked = states.flatten(0, 1)[torch.as_tensor(spots, device=states.device)]
        targets = np.concatenate([row.targets for row in batch.rows]).astype(np.int64)
        project = projection(self.model.get_output_embeddings()) if self.path in HEADLESS else whole_logits
        logprobs, greedy = score_targets(project, picked, owners, targets)
        cuts = np.cumsum([len(row.targets) for row in batch.rows])[:-1]
        pairs = zip(np.split(logprobs, cuts), np.split(greedy, cuts), strict=True)
        return [TokenScores(logprobs=values, greedy=flags) for values, flags in pairs]

    def forget(self) -> None:
        """Drop the remembered prefix."""
        self._prefix = None

    def _flat(self, batch: Batch) -> tuple[Any, Places]:
        rows, lengths = batch.rows, [len(row.tokens) for row in batch.rows]
        kept: Kept = self._shared(batch.prefix, self._record) or {}
        filler = np.zeros(-sum(lengths) % _STEP, dtype=np.int32)  # a row that nobody asks
        fill = [filler] if len(filler) else []
        tokens = np.concatenate([*(row.tokens for row in rows), *fill]).astype(np.int64)
        positions = np.concatenate([*(row.positions for row in rows), *fill]).astype(np.int64)
        # No attention but ours can use a mask of this size: a model that does not come to ours fails, and is not wrong.
        unfit = torch.zeros((1, 1, 1, 2), device=self.device)
        with attention_by(FlatAttention([*(row.branch for row in rows), *fill], kept, self.device)):
            states = self.model.base_model(
                input_ids=torch.as_tensor(tokens, device=self.device)[None],
                position_ids=torch.as_tensor(positions, device=self.device)[None],
                attention_mask=unfit,
                use_cache=False,
            ).last_hidden_state
        starts = np.cumsum([0, *lengths[:-1]])
        return states, np.concatenate([start + row.sources for start, row in zip(starts, rows, strict=True)])

    def _packed(self, batch: Batch) -> tuple[Any, Places]:
        rows, past = batch.rows, len(batch.prefix)
        dtype = self.model.get_input_embeddings().weight.dtype
        tokens, positions = _padded([row.tokens for row in rows], 0), _padded([row.positions for row in rows], past)
        inputs = {
            "input_ids": torch.as_tensor(tokens, device=self.device),
            "position_ids": torch.as_tensor(positions, device=self.device),
            "attention_mask": _tree_mask(_padded([row.branch for row in rows], -1), past, dtype, self.device),
            "past_key_values": self._shared(batch.prefix, self._cached),
            "use_cache": past > 0,
        }
        states = (
            self.model(**inputs).logits
            if self.path == "packed-full"
            else self.model.base_model(**inputs).last_hidden_state
        )
        numbers = np.repeat(np.arange(len(rows)), [len(row.sources) for row in rows])
        return states, numbers * states.shape[1] + np.concatenate([row.sources for row in rows])

    def _shared(self, prefix: Ids, compute: Callable[[Any], Any]) -> Any:
        """Return what is kept of a prefix for any number of rows; None for no prefix."""
        if not len(prefix):
            return None
        key = prefix.tobytes()
        if self._prefix is None or self._prefix[0] != key:
            self._prefix = None
            self._prefix = key, compute(torch.as_tensor(prefix.astype(np.int64), device=self.device)[None])
        return self._prefix[1]

    def _record(self, ids: Any) -> Kept:
        recorder = Recorder()
        with attention_by(recorder):
            self.model.base_model(input_ids=ids, use_cache=False)
        return recorder.kept

    def _cached(self, ids: Any) -> Any:
        cache = DynamicCache()
        self.model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
        return Cache(layers=[_SharedLayer(layer.keys, layer.values) for layer in cache.layers])

    def _plain(self, batch: Batch) -> tuple[Any, Places]:
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
        return states, np.asarray(numbers) * states.shape[1] + np.asarray(sources)


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
