"""Other ways to compute attention, put in the place of transformers' `sdpa` for a while.

In: transformers' `sdpa` attention, called by a model or by ModelOpt's wrapper. Out: the same numbers, sooner.
Must not depend on: what is scored or generated, caches, masks' meaning.

ModelOpt's attention rounds queries, keys and values and then calls `sdpa`, so recipes hold for every way here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from evalkit.adapters.tokens import Ids

Way = Callable[[Any, Any, Any, Any, Any, dict[str, Any]], Any]
"""Called with module, query (rows, heads, queries, size), key, value, mask and the options that transformers gives.
Returns (rows, queries, heads, size), or None to leave the call to transformers."""

_WAY: ContextVar[Way | None] = ContextVar("way", default=None)


@contextmanager
def attention_by(way: Way) -> Iterator[None]:
    """Within the block, in this thread, `sdpa` attention is offered to `way` first.

    If somebody else has replaced `sdpa`, nothing changes.
    """
    if ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward:
        ALL_ATTENTION_FUNCTIONS["sdpa"] = _attention  # stays: outside of the block it only passes the call on
    token = _WAY.set(way)
    try:
        yield
    finally:
        _WAY.reset(token)


def _attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *args: Any, **kwargs: Any
) -> tuple[Any, None]:
    way = _WAY.get()
    found = None if way is None or args else way(module, query, key, value, attention_mask, kwargs)
    if found is not None:
        return found, None
    passed: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)
    return passed


def by_head_groups(_: Any, query: Any, key: Any, value: Any, mask: Any, options: dict[str, Any]) -> Any:
    """Attend with one new token for each row, without copying shared keys and values, on a CPU.

    Where a mask is given, transformers repeats the keys and values of every head group and hands torch many heads of
    one query each. With one new token for each row the heads of a group can stand as the queries of one head instead:
    nothing is copied, and the processor gets products of a better shape (7 times as fast with 9 heads on 3).
    """
    if not _can_be_grouped(query, key, mask, options):
        return None
    rows, heads, _, size = query.shape
    groups = key.shape[1]
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, groups, heads // groups, size),
        key,
        value,
        attn_mask=mask,
        scale=options.get("scaling"),
    )
    return out.reshape(rows, 1, heads, value.shape[-1])


def _can_be_grouped(query: Any, key: Any, mask: Any, options: dict[str, Any]) -> bool:
    one = query.shape[2] == 1 and query.device.type == "cpu"
    shared = key.shape[1] < query.shape[1] and query.shape[1] % key.shape[1] == 0
    return one and shared and is_plain(options) and (mask is None or mask.shape[1:3] == (1, 1))


def is_plain(options: dict[str, Any]) -> bool:
    """Whether attention is the softmax of scaled products and a mask, with nothing dropped and nothing added."""
    return not options.get("dropout") and options.get("position_bias") is None


# Attention of rows that are fed end to end, as one sequence, behind a prefix that was computed before.
#
# Fed so, the linear layers compute no padding. A token sees two parts. The prefix is the same for all, so all queries
# of a head group go through one product with its keys, without a mask and without copying it for each row. What a row
# adds is padded to the longest row and masked, for attention alone. Each part gives the logarithm of its sum of
# weights; by these the two are averaged, which is what one softmax over both would give.


Kept = dict[int, tuple[Any, Any]]
"""Keys and values of a prefix, (1, groups, p, size) each, by the identity of the attention module that made them."""


class Recorder:
    """A way of attention that keeps what each layer sees of a prefix, as a recipe has rounded it."""

    def __init__(self) -> None:
        self.kept: Kept = {}

    def __call__(self, module: Any, _query: Any, key: Any, value: Any, _mask: Any, _options: dict[str, Any]) -> None:
        """Keep keys and values; the attention itself is left to transformers."""
        self.kept[id(module)] = key, value


class FlatAttention:
    """A way of attention for rows that are fed end to end."""

    def __init__(self, branches: Sequence[Ids], prefix: Kept, device: Any) -> None:
        """Lay out the rows.

        Args:
            branches: for each row, shape (s,): 0 for tokens of its context, 1 + its number for those of a continuation.
            prefix: what was recorded of the shared prefix; empty where there is none.
            device: where the model is.
        """
        self._prefix, self._device = prefix, device
        lengths = [len(branch) for branch in branches]
        self._rows, self._longest = len(lengths), max(lengths)
        inside = np.arange(self._longest) < np.asarray(lengths)[:, None]
        self._spots = np.flatnonzero(inside)
        self._tokens = np.zeros(inside.shape, dtype=np.int64)
        self._tokens[inside] = np.arange(len(self._spots))
        padded = np.full(inside.shape, -1, dtype=np.int64)
        padded[inside] = np.concatenate(branches)
        self._seen = torch.as_tensor(_seen(padded), device=device)
        self._layouts: dict[tuple[int, int], tuple[Any, Any, Any]] = {}

    def __call__(self, module: Any, query: Any, key: Any, value: Any, _mask: Any, options: dict[str, Any]) -> Any:
        """Attend; shapes (1, heads, t, size) for t tokens of all rows.

        Raises:
            NotImplementedError: attention of a kind that cannot be computed in two parts here.
        """
        groups, share = key.shape[1], query.shape[1] // key.shape[1]
        _check(query, key, value, options)
        count, size, scale = query.shape[2], query.shape[3], options.get("scaling")
        queries, back, mask = self._layout(groups, share, query.dtype)
        places = torch.as_tensor(self._tokens.ravel(), device=self._device)
        padded = query[0].transpose(0, 1).reshape(-1, size)[queries].view(self._rows, groups, -1, size)
        own, weight = _attend(padded, self._by_row(key, places), self._by_row(value, places), mask, scale)
        own = own.reshape(-1, size)[back]
        if self._prefix:
            every = query[0].unflatten(0, (groups, share)).transpose(1, 2).reshape(1, groups, -1, size)
            keys, values = self._prefix[id(module)]
            shared, base = _attend(every, keys, values, None, scale)
            part = torch.sigmoid(weight.reshape(-1)[back] - base.reshape(-1))
            own = torch.lerp(shared.reshape(-1, size).float(), own.float(), part[:, None]).to(query.dtype)
        return own.view(groups, count, share, size).transpose(0, 1).reshape(1, count, groups * share, size)

    def _by_row(self, states: Any, places: Any) -> Any:
        """Return keys or values (1, groups, t, size) as (rows, groups, longest, size)."""
        groups, size = states.shape[1], states.shape[3]
        return states[0].transpose(0, 1)[places].view(self._rows, -1, groups, size).transpose(1, 2)

    def _layout(self, groups: int, share: int, dtype: Any) -> tuple[Any, Any, Any]:
        """Return where padded queries come from, where each token's answers are, and the mask.

        Queries are taken from (t, groups, share) and laid out as (rows, groups, longest, share); answers are taken from
        there and laid out as (groups, t, share).
        """
        found = self._layouts.get((groups, share))
        if found is None:
            heads = np.arange(groups * share).reshape(groups, 1, share)
            queries = self._tokens[:, None, :, None] * (groups * share) + heads
            numbers = np.arange(queries.size).reshape(queries.shape).transpose(1, 0, 2, 3)
            back = numbers.reshape(groups, -1, share)[:, self._spots]
            mask = torch.zeros(self._seen.shape, dtype=dtype, device=self._device)
            mask = mask.masked_fill_(~self._seen, torch.finfo(dtype).min).repeat_interleave(share, dim=1)[:, None]
            found = (*(torch.as_tensor(part.ravel(), device=self._device) for part in (queries, back)), mask)
            self._layouts[groups, share] = found
        return found


def _seen(branch: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which tokens see which, shape (rows, s, s): up to itself, its row's context and its own branch.

    Padding (branch -1) sees itself, so that no row of the attention is empty and no NaN arises.
    """
    query, key = branch[:, :, None], branch[:, None, :]
    return np.tril((key == 0) | (key == query))


def _attend(query: Any, key: Any, value: Any, mask: Any, scale: float | None) -> tuple[Any, Any]:
    """Return attention, shape of the query, and the natural logarithm of each query's sum of weights, fp32."""
    found: tuple[Any, Any] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=mask, scale=scale
    )
    return found


def _check(query: Any, key: Any, value: Any, options: dict[str, Any]) -> None:
    divisible = query.shape[1] % key.shape[1] == 0 and query.shape[3] == key.shape[3] == value.shape[3]
    alike = query.dtype == key.dtype == value.dtype and query.shape[2] == key.shape[2]
    if not (query.device.type == "cpu" and query.shape[0] == 1 and divisible and alike and is_plain(options)):
        raise NotImplementedError("this attention cannot be computed in two parts")
