"""Results as plain JSON data.

In: a frozen result of any depth. Out: dicts, lists, numbers and texts.
May not know: what the result means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from evalkit.errors import DataError

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
