from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.adapters.causal.plan import BatchLimit, chunks, make_row, plan_batches
from evalkit.adapters.tokens import EncodedRequest


def request(context, *continuations, index=0):
    return EncodedRequest(index=index, context=np.asarray(context, dtype=np.int32), continuations=continuations)


def test_a_row_holds_the_rest_of_the_context_and_every_continuation_without_its_last_token():
    row = make_row(request([10, 11, 12, 13], (20, 21, 22), (30,), (40, 41)), prefix_length=2)
    assert row.tokens.tolist() == [12, 13, 20, 21, 40]
    assert row.positions.tolist() == [2, 3, 4, 5, 4]
    assert row.branch.tolist() == [0, 0, 1, 1, 3]
    assert row.targets.tolist() == [20, 21, 22, 30, 40, 41]
    assert row.sources.tolist() == [1, 2, 3, 1, 1, 4]


def test_every_predicted_token_comes_from_the_one_before_it():
    asked = request([1, 2], (3, 4, 5), (6, 7))
    row = make_row(asked, prefix_length=0)
    sequence = {0: [1, 2]}
    for number, continuation in enumerate(asked.continuations, start=1):
        sequence[number] = [1, 2, *continuation]
    for source, target in zip(row.sources.tolist(), row.targets.tolist(), strict=True):
        position, token = row.positions[source], row.tokens[source]
        whole = next(tokens for tokens in sequence.values() if tokens[position : position + 2] == [token, target])
        assert whole[position + 1] == target


def test_the_longest_continuation_counts_without_its_last_token():
    assert request([1, 2, 3], (4,), (5, 6, 7)).longest == 5


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 2), min_size=1, max_size=12),
            st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple), min_size=1, max_size=3),
        ),
        max_size=12,
    ),
    st.integers(1, 40),
)
def test_batches_hold_every_request_once_within_the_budget(asked, max_tokens):
    requests = [request(context, *texts, index=index) for index, (context, texts) in enumerate(asked)]
    batches = list(plan_batches(requests, BatchLimit(max_tokens)))
    rows = [(batch, row) for batch in batches for row in batch.rows]
    assert sorted(row.request.index for _, row in rows) == list(range(len(requests)))
    for batch in batches:
        lengths = [len(row.tokens) for row in batch.rows]
        assert len(lengths) == 1 or len(lengths) * max(lengths) <= max_tokens
        assert lengths == sorted(lengths, reverse=True)
    for batch, row in rows:
        fed = row.tokens[row.branch == 0].tolist()
        assert [*batch.prefix.tolist(), *fed] == row.request.context.tolist()


def test_halves_lose_no_row():
    rows = tuple(make_row(request([1, 2, index], (3,), index=index), 0) for index in range(5))
    (batch,) = plan_batches([row.request for row in rows], BatchLimit(1000))
    left, right = batch.halves()
    assert [row.request.index for row in (*left.rows, *right.rows)] == [row.request.index for row in batch.rows]
    assert left.rows
    assert right.rows


def test_a_single_row_over_the_budget_is_still_a_batch():
    assert list(chunks([9, 9, 1], BatchLimit(5).rows)) == [slice(0, 1), slice(1, 2), slice(2, 3)]
