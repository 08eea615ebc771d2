"""Which requests share a prefix worth computing once.

In: token ids of contexts. Out: groups of requests, each with the length of the prefix its members share.
May not know: torch, models, what the tokens mean.

A group of n contexts with a common prefix of p tokens saves (n - 1) * p tokens of computation and costs one extra
forward pass. The grouping that saves most is found exactly, by dynamic programming over the tree of common prefixes
(the LCP-interval tree of the sorted contexts), in time proportional to the number of contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(slots=True)
class _Node:
    """A subtree: its contexts share `depth` tokens; `groups` is the best grouping found below it."""

    depth: int
    members: list[int] = field(default_factory=list)
    groups: list[PrefixGroup] = field(default_factory=list)
    saved: int = 0

    def absorb(self, child: _Node) -> None:
        self.members += child.members
        self.groups += child.groups
        self.saved += child.saved

    def close(self, cost: int) -> _Node:
        here = (len(self.members) - 1) * self.depth - cost
        if here > self.saved:
            self.saved = here
            self.groups = [PrefixGroup(length=self.depth, members=tuple(self.members))]
        return self


def share_prefixes(contexts: Sequence[Ids], cost: int = FORWARD_COST) -> list[PrefixGroup]:
    """Group contexts so that the fewest tokens are computed; contexts that share nothing form one last group.

    Args:
        contexts: token ids, each of length >= 1.
        cost: price of a group with a shared prefix, tokens.
    """
    order = sorted(range(len(contexts)), key=lambda place: contexts[place].astype(">i4").tobytes())
    stack = [_Node(depth=0)]
    for rank, place in enumerate(order):
        node = _Node(depth=len(contexts[place]), members=[place])
        common = _common(contexts[place], contexts[order[rank + 1]]) if rank + 1 < len(order) else 0
        while stack[-1].depth > common:
            top = stack.pop()
            top.absorb(node)
            node = top.close(cost)
        if stack[-1].depth < common:
            stack.append(_Node(depth=common))
        stack[-1].absorb(node)
    shared = stack[0].groups
    grouped = {place for group in shared for place in group.members}
    alone = tuple(place for place in range(len(contexts)) if place not in grouped)
    return [*shared, PrefixGroup(length=0, members=alone)] if alone else shared


def _common(first: Ids, second: Ids) -> int:
    """Length of the common prefix, short of the last token: a member keeps at least one token of its own."""
    limit = min(len(first), len(second))
    different = np.flatnonzero(first[:limit] != second[:limit])
    return min(int(different[0]) if len(different) else limit, limit - 1)
