from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from evalkit.adapters.base import GenerateRequest, Message, ScoreRequest
from evalkit.cluster.transport import context_of, cut


def asked(*contexts: str) -> list[ScoreRequest]:
    return [ScoreRequest(context=context, continuations=(" a",)) for context in contexts]


@given(
    st.lists(st.text(alphabet="ab", max_size=12), max_size=60),
    st.integers(min_value=1, max_value=40),
    st.integers(min_value=1, max_value=9),
)
def test_every_request_is_in_one_shard_in_order_and_none_is_too_long(contexts, limit, workers):
    shards = cut(asked(*contexts), limit, workers)
    assert [index for shard in shards for index in shard] == list(range(len(contexts)))
    assert all(0 < len(shard) <= limit for shard in shards)


def test_requests_that_share_a_prefix_stay_together():
    prefixes = [f"{subject} " * 40 for subject in ("algebra", "biology", "chess")]
    contexts = [prefix + f"question {number}" for prefix in prefixes for number in range(5)]
    assert cut(asked(*contexts), 8, 1) == [tuple(range(5)), tuple(range(5, 10)), tuple(range(10, 15))]


def test_a_family_that_is_too_long_is_cut_evenly_and_small_ones_are_put_together():
    long = ["shared prefix " * 9 + str(number) for number in range(33)]
    sizes = [len(shard) for shard in cut(asked(*long), 32, 1)]
    assert sizes == [17, 16]
    small = [f"{number} has nothing in common" for number in range(64)]
    assert [len(shard) for shard in cut(asked(*small), 32, 1)] == [32, 32]


def test_few_requests_are_cut_finer_so_that_every_replica_has_some():
    assert [len(shard) for shard in cut(asked(*map(str, range(8))), 32, 4)] == [2, 2, 2, 2]
    assert cut([], 32, 4) == []


def test_the_context_of_a_conversation_is_what_was_said():
    messages = (Message(role="user", content="one"), Message(role="assistant", content="two"))
    assert context_of(GenerateRequest(prompt=messages, max_tokens=1)) == "one\ntwo"
    assert context_of(GenerateRequest(prompt="text", max_tokens=1)) == "text"
