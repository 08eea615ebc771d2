"""Rows and batches: which tokens are fed together.

In: encoded requests, a limit. Out: batches of rows of similar length behind one shared prefix.
Must not depend on: torch, models.

A row holds one request: what its context adds to the prefix, then every continuation without its last token (which is
predicted, never fed). Continuations see prefix, context and themselves, never one another, and each one's positions
begin again after the context; so one row gives the same numbers as one sequence per continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from evalkit.adapters.tokens import EncodedRequest, Ids

# Which requests share a prefix worth computing once.
#
# A group of n contexts with a common prefix of p tokens saves (n - 1) * p tokens of computation and costs one extra
# forward pass. The grouping that saves most is found exactly, by dynamic programming over the tree of common prefixes
# (the LCP-interval tree of the sorted contexts).
#
# Below a node some contexts belong to groups of longer prefixes and the others wait for a group above: each of them is
# worth the depth of that group, one of them is computed, and the group has its price. The nearer to the root, the less
# waiting is worth; so once a group is worth more than what waits, it is settled for good and never looked at again.


FORWARD_COST = 256
"""Price of one more group, in tokens: its own forward pass for the prefix and less evenly filled batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefixGroup:
    """Requests whose contexts begin with the same tokens.

    Attributes:
        length: tokens shared by all members; 0 where nothing is shared. Every member is longer than this.
        members: positions in the sequence of contexts.
    """

    length: int
    members: tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Node:
    """A subtree: its contexts share `depth` tokens.

    Attributes:
        leaves: contexts that hang here directly.
        children: subtrees with longer prefixes.
        waiting: contexts that a group here would take.
        inner: settled groups below this one.
        gain: tokens saved by a group here and by the inner ones.
        worth: tokens saved by everything below, at the depth last looked at.
        settled: whether this is a group for good.
    """

    depth: int
    leaves: list[int] = field(default_factory=list)
    children: list[_Node] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    inner: list[_Node] = field(default_factory=list)
    gain: int = 0
    worth: int = 0
    settled: bool = False

    def close(self, cost: int) -> None:
        """Weigh a group here against nothing; every context of the subtree is known."""
        below = sum(_settle(child, self.depth) for child in self.children)
        self.gain = len(self.leaves) * self.depth + below - self.depth - cost
        for node in _unsettled(self):
            self.waiting += node.leaves
            self.inner += [child for child in node.children if child.settled]


def share_prefixes(contexts: Sequence[Ids], cost: int = FORWARD_COST) -> list[PrefixGroup]:
    """Group contexts so that the fewest tokens are computed; contexts that share nothing form one last group.

    Args:
        contexts: token ids, each of length >= 1.
        cost: price of a group with a shared prefix, tokens; >= 0.
    """
    order = sorted(range(len(contexts)), key=lambda place: contexts[place].astype(">i4").tobytes())
    stack = [_Node(depth=0)]
    for rank, place in enumerate(order):
        shared = _common(contexts[place], contexts[order[rank + 1]]) if rank + 1 < len(order) else 0
        if shared > stack[-1].depth:
            stack.append(_Node(depth=shared))
        stack[-1].leaves.append(place)
        _climb(stack, shared, cost)
    root = stack[0]
    root.close(cost)
    return [*_groups(root.inner), *([PrefixGroup(length=0, members=tuple(root.waiting))] if root.waiting else [])]


def _climb(stack: list[_Node], depth: int, cost: int) -> None:
    """Close every node deeper than what the next context shares."""
    while stack[-1].depth > depth:
        node = stack.pop()
        node.close(cost)
        if stack[-1].depth < depth:
            stack.append(_Node(depth=depth))
        stack[-1].children.append(node)


def _settle(top: _Node, depth: int) -> int:
    """Return what a subtree saves if a context that waits is worth `depth`; settle the groups that are worth more."""
    for node in reversed(_unsettled(top)):
        node.worth = len(node.leaves) * depth + sum(child.worth for child in node.children)
        if node.gain > node.worth:
            node.settled, node.worth = True, node.gain
    return top.worth


def _unsettled(top: _Node) -> list[_Node]:
    """Return a node and all unsettled ones below, parents first; no recursion, for the tree may be a thousand deep."""
    found = [top]
    for node in found:
        found += [child for child in node.children if not child.settled]
    return found


def _groups(nodes: Sequence[_Node]) -> Iterator[PrefixGroup]:
    todo = list(nodes)
    for node in todo:
        todo += node.inner
        yield PrefixGroup(length=node.depth, members=tuple(node.waiting))


def _common(first: Ids, second: Ids) -> int:
    """Length of the common prefix, short of the last token: a member keeps at least one token of its own."""
    limit = min(len(first), len(second))
    different = np.flatnonzero(first[:limit] != second[:limit])
    return min(int(different[0]) if len(different) else limit, limit - 1)


# The largest batch that is tried when scoring.


_PLAIN_PART = 4
"""The plain path keeps full logits and repeats each context, so it gets a quarter of the tokens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenCost:
    """Bytes that a token takes, estimated.

    Attributes:
        fed: activations of a token that is fed, in the layer where they are largest, and its logits where all are kept.
        seen: keys and values of a token that attention looks at, in one layer, with the copies made for it.
        pair: attention mask, or weights, for each pair of a token that is fed and one that is looked at.
        kept: keys and values of a token in all layers.
    """

    fed: int
    seen: int
    pair: int
    kept: int

    def row(self, longest: int, prefix: int) -> int:
        """Return the bytes of one row of `longest` fed tokens behind `prefix` computed ones.

        >>> TokenCost(fed=100, seen=10, pair=1, kept=40).row(2, 3)
        260
        """
        return longest * self.fed + (prefix + longest) * (self.seen + longest * self.pair)


class BatchLimit:
    """How many rows are fed at once.

    Attributes:
        tokens: limit of rows times longest row; halved whenever memory ran out.
        cramped: whether a lack of memory has made a batch smaller than the first limit of tokens asks for.
    """

    def __init__(self, tokens: int, *, memory: int | None = None, cost: TokenCost | None = None) -> None:
        """Begin with limits.

        Args:
            tokens: rows times longest row.
            memory: bytes that a batch may take; None for no such limit.
            cost: what a token takes of it.
        """
        self.tokens, self._memory, self._cost, self.cramped = tokens, memory, cost, False

    def rows(self, longest: int, waiting: int | None = None, *, prefix: int = 0) -> int:
        """Return how many rows of `longest` tokens fit behind `prefix` computed ones; one is always tried.

        Args:
            longest: tokens of the longest row.
            waiting: rows that there are; None for many.
            prefix: tokens computed before.

        >>> BatchLimit(1000).rows(300), BatchLimit(1000).rows(5000)
        (3, 1)
        """
        wanted, affordable = self.tokens // max(1, longest), self._affordable(longest, prefix)
        self.cramped |= affordable < min(wanted, wanted if waiting is None else waiting)
        return max(1, min(wanted, affordable))

    def holds(self, lengths: Sequence[int]) -> bool:
        """Whether sequences of these lengths, each fed whole as on the plain path, fit together."""
        longest = max(lengths)
        within = len(lengths) * longest <= max(1, self.tokens // _PLAIN_PART)
        affordable = len(lengths) <= self._affordable(longest, 0)
        self.cramped |= within and not affordable
        return within and affordable

    def halve(self, rows: int, longest: int) -> None:
        """Take note of a batch that did not fit: from now on half as many tokens are fed at once.

        >>> limit = BatchLimit(1000)
        >>> limit.halve(4, 50)
        >>> limit.tokens
        100
        """
        self.tokens = max(1, min(self.tokens, rows * max(1, longest)) // 2)
        self.cramped = True

    def _affordable(self, longest: int, prefix: int) -> int:
        if self._memory is None or self._cost is None:
            return self.tokens
        return self._memory // max(1, self._cost.row(longest, prefix))


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
