"""The one JSON text of a value, and the digests made from it.

In: plain values and texts. Out: canonical JSON, sha256 digests, folded texts.
May not know: what any value means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from evalkit.errors import DataError

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
