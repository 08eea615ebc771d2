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

_POINTER = b"version https://git-lfs"
_AGAIN = "next step: download or copy it again"
_SHOWN = 200
"""Characters of a parser's own words that an error repeats."""


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
        UsageError: no such file, a damaged, cut or empty one, a Git LFS pointer, or a tensor in two files.
    """
    found: dict[str, StoredTensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no *.safetensors file; give the folder of a checkpoint")
    for file in files:
        for name, tensor in read_file(file).items():
            if name in found:
                raise UsageError(f"{folder}: tensor '{name}' is in {found[name].file} and in {file.name}")
            found[name] = tensor
    return found


def shards(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder that transformers would load: one file, those of the index, else all.

    Raises:
        UsageError: an unreadable index, or one that names a file which is not there.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{index}: no index of safetensors files ({type(error).__name__}); {_AGAIN}") from error
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{index}: names {len(missing)} files that are not there (first: {missing[0]}); {_AGAIN}")
    return [folder / name for name in names]


def read_file(file: Path) -> dict[str, StoredTensor]:
    """Return every tensor of one safetensors file, by name.

    Raises:
        UsageError: an empty file, a Git LFS pointer, a damaged header, or fewer or more bytes than the header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
            if start == _POINTER:
                raise UsageError(f"{file}: a Git LFS pointer, not weights; next step: git lfs pull")
            if not size:
                raise UsageError(f"{file}: is empty; {_AGAIN}")
            stream.seek(0)
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _HEADER_MAX:
                raise ValueError(f"a header of {length} bytes")
            rows: Mapping[str, Any] = json.loads(stream.read(length))
        found, end = {}, 0
        for name, row in rows.items():
            if name != "__metadata__":
                found[name] = StoredTensor(file=file.name, dtype=str(row["dtype"]), shape=_shape(row["shape"]))
                end = max(end, int(row["data_offsets"][1]))
    except (
        OSError,
        struct.error,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UsageError(f"{file}: damaged safetensors header ({str(error)[:_SHOWN]}); {_AGAIN}") from error
    if size != _LENGTH.size + length + end:
        held, what = size - _LENGTH.size - length, "cut off" if size < _LENGTH.size + length + end else "too long"
        raise UsageError(f"{file}: {what}: {held} bytes of tensors where its header says {end}; {_AGAIN}")
    return found


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(int(size) for size in value)
    if any(size < 0 for size in shape):
        raise ValueError(f"a tensor of shape {shape}")
    return shape


def elements(tensor: StoredTensor) -> int:
    """Return the number of elements of a tensor.

    >>> elements(StoredTensor(file="a", dtype="U8", shape=(2, 3)))
    6
    """
    return math.prod(tensor.shape)
