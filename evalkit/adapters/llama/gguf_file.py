"""The header of a GGUF file: metadata and the types of the tensors, without the weights.

In: a path. Out: `GgufHeader`.
Must not depend on: llama.cpp, what a key means to an engine.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from evalkit.errors import UsageError
from evalkit.records import digest, text_digest

TENSOR_TYPES: Mapping[int, str] = dict(
    enumerate(
        [
            *("F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1"),
            *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S"),
            *("IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64", "F64", "IQ1_M", "BF16"),
            *("Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8"),
            *("MXFP4", "NVFP4", "Q1_0", "Q2_0"),
        ]
    )
)
"""Number to name, in the order of ggml's own list."""

_FILE_TYPES = (
    "0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 7 Q8_0, 8 Q5_0, 9 Q5_1, 10 Q2_K, 11 Q3_K_S, 12 Q3_K_M, 13 Q3_K_L, 14 Q4_K_S, "
    "15 Q4_K_M, 16 Q5_K_S, 17 Q5_K_M, 18 Q6_K, 19 IQ2_XXS, 20 IQ2_XS, 21 Q2_K_S, 22 IQ3_XS, 23 IQ3_XXS, 24 IQ1_S, "
    "25 IQ4_NL, 26 IQ3_S, 27 IQ3_M, 28 IQ2_S, 29 IQ2_M, 30 IQ4_XS, 31 IQ1_M, 32 BF16, 36 TQ1_0, 37 TQ2_0, 38 MXFP4"
)
FILE_TYPES: Mapping[int, str] = {
    int(number): name for number, name in (pair.split() for pair in _FILE_TYPES.split(", "))
}
"""`general.file_type` to name."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST = 1 << 28
"""More keys, items or bytes than this in one place are damage, not data."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says of its model.

    Attributes:
        metadata: key to value.
        tensors: name of a tensor type to the number of tensors stored so.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, int]

    @property
    def quantization(self) -> str:
        """Name of the file's quantization; the type of most quantized tensors where the file does not say."""
        told = FILE_TYPES.get(self.metadata.get("general.file_type", -1))
        if told is not None:
            return told
        quantized = {name: count for name, count in self.tensors.items() if name not in _FLOATS}
        kinds = quantized or self.tensors
        return max(kinds, key=lambda name: (kinds[name], name)) if kinds else "unknown"

    @property
    def dtype(self) -> str:
        """Floating-point type of most unquantized tensors."""
        kinds = {name: count for name, count in self.tensors.items() if name in _FLOATS}
        return _FLOATS[max(kinds, key=lambda name: (kinds[name], name))] if kinds else "none"

    @property
    def trained_length(self) -> int | None:
        """Positions the model was trained for, tokens; None where the file does not say."""
        value = self.metadata.get(f"{self.metadata.get('general.architecture')}.context_length")
        return value if isinstance(value, int) and value > 0 else None

    @property
    def tokenizer_sha256(self) -> str:
        """Digest of everything the file says of its tokenizer, without the chat template."""
        prefix, template = "tokenizer.", "tokenizer.chat_template"
        return digest(
            {
                name: value
                for name, value in self.metadata.items()
                if name.startswith(prefix) and not name.startswith(template)
            }
        )

    @property
    def chat_template_sha256(self) -> str | None:
        """Digest of the chat template; None without one."""
        template = self.metadata.get("tokenizer.chat_template")
        return text_digest(template) if isinstance(template, str) and template else None

    def joined(self, others: Sequence[GgufHeader]) -> GgufHeader:
        """Return the header of a model in several files: this one's metadata, the tensors of all."""
        tensors = Counter(self.tensors)
        for other in others:
            tensors.update(other.tensors)
        return GgufHeader(metadata=self.metadata, tensors=dict(sorted(tensors.items())))


def split_parts(path: Path) -> list[Path]:
    """Return every file of a model that is split as `gguf-split` does; the file alone where it is not.

    Raises:
        UsageError: a part is missing, or another part than the first was named.
    """
    found = _PART.search(path.name)
    if found is None:
        return [path]
    number, count = int(found[1]), int(found[2])
    if number != 1:
        raise UsageError(f"{path}: part {number} of {count}; next step: name part 1")
    paths = [
        path.with_name(f"{path.name[: found.start()]}-{one:05d}-of-{found[2]}.gguf") for one in range(1, count + 1)
    ]
    lacking = [one.name for one in paths if not one.is_file()]
    if lacking:
        raise UsageError(f"{path.parent}: {len(lacking)} of {count} parts are missing, first {lacking[0]}")
    return paths


def read_header(path: Path) -> GgufHeader:
    """Read a file's header.

    Raises:
        UsageError: no such file, not GGUF, another version, or damaged.
    """
    try:
        with path.open("rb") as stream:
            return _read(path, stream)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except (struct.error, KeyError, ValueError, MemoryError, RecursionError) as error:
        raise UsageError(
            f"{path}: the header is damaged ({type(error).__name__}: {error}); fetch the file again"
        ) from error


def _read(path: Path, stream: BinaryIO) -> GgufHeader:
    if stream.read(4) != b"GGUF":
        raise UsageError(f"{path}: not a GGUF file")
    version = _number(stream, "I")
    if version not in (2, 3):
        raise UsageError(f"{path}: GGUF version {version}; versions 2 and 3 (little-endian) can be read")
    tensors, keys = _count(stream), _count(stream)
    metadata = {}
    for _ in range(keys):
        name = _text(stream)
        metadata[name] = _value(stream, int(_number(stream, "I")))
    types: Counter[str] = Counter()
    for _ in range(tensors):
        _text(stream)
        _bytes(stream, 8 * int(_number(stream, "I")))  # the shape
        kind = int(_number(stream, "I"))
        types[TENSOR_TYPES.get(kind, f"type {kind}")] += 1
        _bytes(stream, 8)  # where the tensor begins
    return GgufHeader(metadata=metadata, tensors=dict(sorted(types.items())))


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(stream)
    if kind == _ARRAY:
        inner = int(_number(stream, "I"))
        count = _count(stream)
        if inner in (_STRING, _ARRAY):
            return [_value(stream, inner) for _ in range(count)]
        layout = struct.Struct(f"<{count}{_SCALARS[inner]}")
        return list(layout.unpack(_bytes(stream, layout.size)))
    return _number(stream, _SCALARS[kind])


def _number(stream: BinaryIO, code: str) -> Any:
    layout = struct.Struct(f"<{code}")
    return layout.unpack(_bytes(stream, layout.size))[0]


def _count(stream: BinaryIO) -> int:
    value = int(_number(stream, "Q"))
    if value > _MOST:
        raise ValueError(f"a count of {value}")
    return value


def _text(stream: BinaryIO) -> str:
    return _bytes(stream, _count(stream)).decode("utf-8", "replace")


def _bytes(stream: BinaryIO, size: int) -> bytes:
    if size > _MOST:
        raise ValueError(f"{size} bytes in one place")
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("the file ends too early")
    return data
