"""Requests cut into shards that keep shared prefixes together.

In: requests in the order they are asked. Out: shards: positions of requests, each position once.
May not know: replicas, engines, subjects.

An engine computes a prefix that several requests share once for every shard, so a shard should not end in the middle of
such a family. Requests come by subject; neighbours whose contexts have most of their text in common are one family.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalkit.adapters.base import GenerateRequest, ScoreRequest

Request = ScoreRequest | GenerateRequest
Shard = tuple[int, ...]

_SHARED = 0.5
"""Share of the shorter context that two neighbours must have in common to be of one family."""


def cut(requests: Sequence[Request], limit: int, workers: int) -> list[Shard]:
    """Cut requests into shards, in order.

    Args:
        requests: what is asked.
        limit: requests of one shard, at most.
        workers: shards that can be at work at once; few requests are cut finer, so that nobody idles.
    """
    size = max(1, min(limit, -(-len(requests) // max(1, workers))))
    shards: list[Shard] = []
    open_shard: list[int] = []
    for family in _families([context_of(request) for request in requests]):
        if open_shard and len(open_shard) + len(family) > size:
            shards.append(tuple(open_shard))
            open_shard = []
        pieces = list(_pieces(family, size))
        shards += [tuple(piece) for piece in pieces[:-1]]
        open_shard += pieces[-1]
    return [*shards, tuple(open_shard)] if open_shard else shards


def context_of(request: Request) -> str:
    """Return the text an engine reads before it answers."""
    if isinstance(request, ScoreRequest):
        return request.context
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(message.content for message in request.prompt)


def _families(contexts: Sequence[str]) -> Iterator[range]:
    begin = 0
    for place in range(1, len(contexts) + 1):
        if place == len(contexts) or not _akin(contexts[place - 1], contexts[place]):
            yield range(begin, place)
            begin = place


def _akin(first: str, second: str) -> bool:
    needed = int(_SHARED * min(len(first), len(second)))
    return needed > 0 and first[:needed] == second[:needed]


def _pieces(family: range, size: int) -> Iterator[range]:
    """Cut a family that is too long into equal pieces; one more than needed is worse than one of a single request.

    >>> [len(piece) for piece in _pieces(range(33), 32)]
    [17, 16]
    """
    count = -(-len(family) // size)
    even, more = divmod(len(family), count)
    begin = family.start
    for number in range(count):
        end = begin + even + (number < more)
        yield range(begin, end)
        begin = end
