"""Strict JSON back to frozen values, every fault by name.

In: JSON text, mappings. Out: mappings, dataclasses, or `DataError`.
May not know: which dataclasses there are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar, cast

from evalkit.errors import DataError

T = TypeVar("T")


def tuple_of(row: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """Return a list of a row as a tuple.

    Raises:
        DataError: it is no list.
    """
    value = row.get(name)
    if not isinstance(value, list):
        raise DataError(f"{name!r} must be a list, not {value!r}")
    return tuple(value)


def flat(value: Any) -> dict[str, Any]:
    """Return a dataclass as a mapping without copying what is in it: `asdict` costs more than writing the line."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _constant(token: str) -> Any:
    raise ValueError(f"the bare word {token}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a repeated key")
    return row


_DECODER = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_unique)


def parse_object(text: str, what: str) -> dict[str, Any]:
    """Parse one strict JSON object; NaN, Infinity and repeated keys are refused.

    Raises:
        DataError: says what is wrong with `what`.
    """
    try:
        row = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{what} must be a JSON object, not {type(row).__name__}")
    return cast("dict[str, Any]", row)


def build(cls: type[T], row: Mapping[str, Any]) -> T:
    """Build a dataclass from a mapping, refusing unknown and missing fields by name.

    Raises:
        DataError: names every unknown and missing field.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{cls.__name__} must be a JSON object, not {type(row).__name__}")
    known = cast("Any", cls).__dataclass_fields__.keys()
    if not row.keys() <= known:
        raise DataError(f"{cls.__name__}: unknown field(s) {', '.join(sorted(row.keys() - known))}")
    try:
        return cls(**row)
    except TypeError as error:
        raise DataError(f"{cls.__name__}: {error}") from error
