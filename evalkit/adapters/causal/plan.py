"""Rows and batches: which tokens are fed together.

In: encoded requests, a limit. Out: batches of rows of similar length behind one shared prefix.
May not know: torch, models.

A row holds one request: what its context adds to the prefix, then every continuation without its last token (which is
predicted, never fed). Continuations see prefix, context and themselves, never one another, and each one's positions
begin again after the context; so one row gives the same numbers as one sequence per continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from evalkit.adapters.causal.limit import BatchLimit
from evalkit.adapters.causal.prefixes import share_prefixes
from evalkit.adapters.causal.tokens import EncodedRequest, Ids


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Row:
    """One request as it is fed.

    Attributes:
        request: the request.
        tokens: token ids after the prefix, shape (s,).
        positions: position of each token in its own sequence, shape (s,).
        branch: 0 for context tokens, 1 + index of the continuation otherwise, shape (s,).
        sources: row places whose output predicts a continuation token, shape (t,), continuation after continuation.
        targets: the token ids predicted there, shape (t,).
    """

    request: EncodedRequest
    tokens: Ids
    positions: Ids
    branch: Ids
    sources: Ids
    targets: Ids


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Batch:
    """Rows fed together after one shared prefix (token ids, possibly none)."""

    prefix: Ids
    rows: tuple[Row, ...]

    def halves(self) -> tuple[Batch, Batch]:
        """Split for a machine that ran out of memory."""
        middle = len(self.rows) // 2
        return Batch(prefix=self.prefix, rows=self.rows[:middle]), Batch(prefix=self.prefix, rows=self.rows[middle:])


def make_row(request: EncodedRequest, prefix_length: int) -> Row:
    """Lay out one request behind a prefix that is computed elsewhere."""
    suffix = request.context[prefix_length:]
    last, place, start = len(suffix) - 1, len(suffix), len(request.context)
    tokens, positions, branch = [suffix], [np.arange(prefix_length, start)], [np.zeros(len(suffix))]
    sources: list[int] = []
    targets: list[int] = []
    for number, continuation in enumerate(request.continuations, start=1):
        fed = len(continuation) - 1
        tokens.append(np.asarray(continuation[:fed], dtype=np.int32))
        positions.append(np.arange(start, start + fed))
        branch.append(np.full(fed, number))
        sources += [last, *range(place, place + fed)]
        targets += continuation
        place += fed
    return Row(
        request=request,
        tokens=np.concatenate(tokens).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        branch=np.concatenate(branch).astype(np.int32),
        sources=np.asarray(sources, dtype=np.int32),
        targets=np.asarray(targets, dtype=np.int32),
    )


def plan_batches(requests: Sequence[EncodedRequest], limit: BatchLimit) -> Iterator[Batch]:
    """Yield batches, the longest rows of each prefix first, so that a lack of memory shows at once.

    Args:
        requests: encoded requests.
        limit: looked at before each batch, so a limit that was lowered holds for the next one; a single longer row is
            still a batch.
    """
    for group in share_prefixes([request.context for request in requests]):
        prefix = requests[group.members[0]].context[: group.length]
        rows = [make_row(requests[place], group.length) for place in group.members]
        rows.sort(key=lambda row: (-len(row.tokens), row.request.index))
        fits = partial(limit.rows, prefix=group.length)
        for chunk in chunks([len(row.tokens) for row in rows], fits):
            yield Batch(prefix=prefix, rows=tuple(rows[chunk]))


def chunks(lengths: Sequence[int], fits: Callable[[int, int], int]) -> Iterator[slice]:
    """Cut descending lengths into runs of as many as `fits` says of the first length and the number that is left.

    >>> list(chunks([5, 4, 4, 1], lambda longest, _left: 8 // longest))
    [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None)]
    """
    begin = 0
    while begin < len(lengths):
        end = min(begin + fits(lengths[begin], len(lengths) - begin), len(lengths))
        yield slice(begin, end)
        begin = end
