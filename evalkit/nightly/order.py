"""The order in which a night asks its items.

In: a seed, the night's label, item keys. Out: a permutation and its digest.
May not know: what the items are.

Drawn from digests, so that every machine, Python and NumPy draws the same one, before anything is asked. Another night
is another permutation of all items: with one order for all nights the first items would be the only ones ever watched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evalkit.records import digest, text_digest


def night_order(seed: int, night: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys in the order of one night.

    >>> night_order(3, "2026-03-12", "abcd"), night_order(3, "2026-03-13", "abcd")
    (('a', 'c', 'b', 'd'), ('b', 'a', 'd', 'c'))
    """
    return tuple(sorted(keys, key=lambda key: text_digest(f"nightly:{seed}:{night}:{key}")))


def order_sha256(order: Sequence[str]) -> str:
    """Return the digest of an order: written down before the first item is asked."""
    return digest(list(order))
