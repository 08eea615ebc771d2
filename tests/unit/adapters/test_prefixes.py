from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.adapters.causal.plan import PrefixGroup, share_prefixes

Context = tuple[int, ...]
CONTEXTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=7).map(tuple), min_size=1, max_size=7)


def groups_of(contexts: Sequence[Context], cost: int) -> list[PrefixGroup]:
    return share_prefixes([np.asarray(context, dtype=np.int32) for context in contexts], cost)


def saving(groups: Sequence[PrefixGroup], cost: int) -> int:
    return sum((len(group.members) - 1) * group.length - cost for group in groups if group.length)


def common(contexts: Sequence[Context]) -> int:
    """Tokens that all contexts share, short of the last one of each."""
    limit = min(map(len, contexts)) - 1
    return next((n for n in range(limit) if len({context[n] for context in contexts}) > 1), limit)


def greatest_saving(contexts: Sequence[Context], cost: int) -> int:
    """Try every partition."""

    @cache
    def best(left: Context) -> int:
        if not left:
            return 0
        first, *rest = left
        found = best(tuple(rest))
        for chosen in range(1, 2 ** len(rest)):
            members = [first, *(place for bit, place in enumerate(rest) if chosen >> bit & 1)]
            others = tuple(place for bit, place in enumerate(rest) if not chosen >> bit & 1)
            here = (len(members) - 1) * common([contexts[place] for place in members]) - cost
            if here > 0:
                found = max(found, here + best(others))
        return found

    return best(tuple(range(len(contexts))))


@settings(deadline=None, derandomize=True, max_examples=300)
@given(CONTEXTS, st.integers(0, 6))
def test_no_partition_saves_more(contexts, cost):
    assert saving(groups_of(contexts, cost), cost) == greatest_saving(contexts, cost)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(CONTEXTS, st.integers(0, 6))
def test_every_context_is_in_one_group_shares_its_prefix_and_keeps_a_token(contexts, cost):
    groups = groups_of(contexts, cost)
    assert sorted(place for group in groups for place in group.members) == list(range(len(contexts)))
    for group in groups:
        prefixes = {contexts[place][: group.length] for place in group.members}
        assert len(prefixes) == 1
        assert all(len(contexts[place]) > group.length for place in group.members)
        assert group.length == 0 or len(group.members) > 1


def test_a_long_prefix_of_some_does_not_keep_the_others_from_sharing_a_short_one():
    contexts = [(1, 1, 1, 1, 1, 1, 2), (1, 1, 1, 1, 1, 1, 3), (1, 1, 4, 5), (1, 1, 6, 7), (9,)]
    assert {(group.length, group.members) for group in groups_of(contexts, cost=0)} == {
        (6, (0, 1)),
        (2, (2, 3)),
        (0, (4,)),
    }


@pytest.mark.parametrize(("cost", "lengths"), [(99, [100]), (100, [0])])
def test_a_group_must_be_worth_its_price(cost, lengths):
    shared = (7,) * 100
    assert [group.length for group in groups_of([(*shared, 1), (*shared, 2)], cost)] == lengths


def test_contexts_that_grow_by_one_token_make_a_deep_tree_and_no_trouble():
    contexts = [tuple(range(length)) for length in range(1, 1500)]
    groups = groups_of(contexts, cost=256)
    assert sorted(place for group in groups for place in group.members) == list(range(len(contexts)))
    assert saving(groups, 256) > 0.9 * sum(map(len, contexts))


def test_no_contexts_make_no_groups():
    assert share_prefixes([]) == []
