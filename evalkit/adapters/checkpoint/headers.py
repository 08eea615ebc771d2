"""Headers of safetensors files: names, types and shapes of all tensors, without reading one.

In: a folder. Out: `StoredTensor` by name.
May not know: what a tensor is for.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError

_LENGTH = struct.Struct("<Q")
_HEADER_MAX = 1 << 27
"""Bytes of a header at most, as the format's own reader has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        file: name of its file.
        dtype: type as the format spells it ("BF16", "F8_E4M3", "U8", "I8", ...).
        shape: its dimensions.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of all safetensors files of a folder, by name.

    Raises:
        UsageError: no such file, a damaged header, or a tensor in two files.
    """
    found: dict[str, StoredTensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no *.safetensors file; give the folder of a checkpoint")
    for file in files:
        for name, tensor in _read(file).items():
            if name in found:
                raise UsageError(f"{folder}: tensor '{name}' is in {found[name].file} and in {file.name}")
            found[name] = tensor
    return found


def _read(file: Path) -> dict[str, StoredTensor]:
    try:
        with file.open("rb") as stream:
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _HEADER_MAX:
                raise ValueError(f"a header of {length} bytes")
            rows: Mapping[str, Any] = json.loads(stream.read(length))
        return {
            name: StoredTensor(file=file.name, dtype=str(row["dtype"]), shape=tuple(int(n) for n in row["shape"]))
            for name, row in rows.items()
            if name != "__metadata__"
        }
    except (OSError, struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file}: damaged safetensors header ({error}); next step: copy the file again") from error


def elements(tensor: StoredTensor) -> int:
    """Return the number of elements of a tensor.

    >>> elements(StoredTensor(file="a", dtype="U8", shape=(2, 3)))
    6
    """
    return math.prod(tensor.shape)
