"""The one JSON text of a value, and the digests made from it.

In: plain values and texts. Out: canonical JSON, sha256 digests, folded texts.
Must not depend on: what any value means.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, TypeVar, cast

from evalkit.errors import DataError

# Strict JSON back to frozen values, every fault by name.


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


# Results as plain JSON data.


NOT_JSON = {"evalkit": "not JSON"}
"""Metadata of a dataclass field that holds arrays for further work and stays out of JSON."""


def to_plain(value: Any) -> Any:
    """Return a result as JSON data; nothing is rounded.

    >>> to_plain({"a": (1, 2.5), "b": None})
    {'a': [1, 2.5], 'b': None}

    Raises:
        DataError: a number is not finite, or a value has no JSON form.
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"a result holds the non-finite number {value!r}")
        return float(value)
    if is_dataclass(value) and not isinstance(value, type):
        shown = [part.name for part in fields(value) if part.metadata != NOT_JSON]
        return {name: to_plain(getattr(value, name)) for name in shown}
    if isinstance(value, Mapping):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(inner) for inner in value]
    raise DataError(f"a result holds a {type(value).__name__}, which has no JSON form")


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8, NaN and infinity refused.

    >>> canonical_json({"b": 1, "a": [1.5, None]})
    '{"a":[1.5,null],"b":1}'

    Raises:
        DataError: the value holds a NaN or an infinity.
    """
    try:
        return _ENCODER.encode(value)
    except ValueError as error:
        raise DataError(f"a value cannot be written as JSON: {error}") from error


def digest(value: Any) -> str:
    """Return the sha256 (64 hex digits) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def text_digest(text: str) -> str:
    """Return the sha256 (64 hex digits) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def content_digest(value: Any) -> str:
    r"""Return the digest of a source row with the white space of every text in it folded.

    >>> content_digest({"question": " one\n two "}) == content_digest({"question": "one two"})
    True
    """
    return digest(_folded(value))


def _folded(value: Any) -> Any:
    if isinstance(value, str):
        return fold(value)
    if isinstance(value, Mapping):
        return {key: _folded(inner) for key, inner in value.items()}
    return [_folded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def fold(text: str) -> str:
    r"""Fold every run of white space to one space, so that the same item from two sources is recognised.

    >>> fold(" two\n lines ")
    'two lines'
    """
    return " ".join(text.split())
