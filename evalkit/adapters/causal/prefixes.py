"""Which requests share a prefix worth computing once.

In: token ids of contexts. Out: groups of requests, each with the length of the prefix its members share.
May not know: torch, models, what the tokens mean.

A group of n contexts with a common prefix of p tokens saves (n - 1) * p tokens of computation and costs one extra
forward pass. The grouping that saves most is found exactly, by dynamic programming over the tree of common prefixes
(the LCP-interval tree of the sorted contexts).

Below a node some contexts belong to groups of longer prefixes and the others wait for a group above: each of them is
worth the depth of that group, one of them is computed, and the group has its price. The nearer to the root, the less
waiting is worth; so once a group is worth more than what waits, it is settled for good and never looked at again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from evalkit.adapters.causal.tokens import Ids

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
