"""The column order of a source row, found again with the help of its hash.

In: a row whose keys were sorted when it was stored, and the hash lm-eval made of it before. Out: the row as it was.
May not know: where rows come from.

lm-eval's `doc_hash` depends on the order of columns, and a reader who recomputes it from an exported row must find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, permutations, product
from typing import Any

from evalkit.interop.lm_eval_format import doc_hash

_TRIES = 50_000
"""Orders tried for one kind of row; eight columns have 40,320."""


class ColumnOrders:
    """Restores rows; an order that was right once is tried first for the next row."""

    def __init__(self) -> None:
        self._examples: list[Any] = []
        self._hopeless: set[frozenset[str]] = set()

    def restore(self, doc: Mapping[str, Any], wanted: str) -> dict[str, Any] | None:
        """Return the row in the order that has the wanted hash; None if no order tried has it."""
        for example in self._examples:
            candidate: dict[str, Any] = _like(example, doc)
            if doc_hash(candidate) == wanted:
                return candidate
        if frozenset(doc) in self._hopeless:
            return None
        for candidate in islice(_arrangements(doc), _TRIES):
            if doc_hash(candidate) == wanted:
                self._examples.append(candidate)
                return candidate
        self._hopeless.add(frozenset(doc))
        return None


def _like(example: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    order = list(example) if isinstance(example, Mapping) else []
    keys = [key for key in order if key in value] + [key for key in value if key not in order]
    return {key: _like(example[key] if key in order else None, value[key]) for key in keys}


def _arrangements(value: Any) -> Iterator[Any]:
    if not isinstance(value, Mapping):
        yield value
        return
    for keys in permutations(value):
        for inner in product(*(list(islice(_arrangements(value[key]), _TRIES)) for key in keys)):
            yield dict(zip(keys, inner, strict=True))
