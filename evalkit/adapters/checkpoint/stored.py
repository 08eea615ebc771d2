"""What the tensors of a checkpoint show: which linear layers are quantized, how, and with which scales.

In: headers of safetensors files. Out: `Stored`.
May not know: what anything was called by whoever wrote it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.adapters.checkpoint.headers import StoredTensor, read_headers

SCALES = ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale")
"""Last parts of the names of tensors that belong to a quantized layer, as ModelOpt names them."""

CACHE_SCALES = ("k_scale", "v_scale")

CODES = {"F8_E4M3": "FP8", "F8_E5M2": "FP8 E5M2", "F4": "FP4", "I8": "INT8", "U8": "packed 4-bit"}
"""Types that hold codes, not weights."""

_FLOAT_CODES = re.compile(r"F[468](_\w+)?")
_INTEGERS = re.compile(r"[IU](8|16|32|64)")
_BUFFERS = re.compile(r".*mask.*|bias|masked_bias|position_ids")
"""Matrices of integers that older models store beside their weights."""

_COMPANIONS = re.compile(
    r"(weight|input|output|activation|act|q|k|v|kv|prob|prob_output|pre_quant|\w*_proj)(_\w+)?_scales?(_inv|_\d+)?|"
    r"scales|scale_inv|q?zeros|qweight|g_idx|weight_packed|weight_shape|(weight|input|output)_zero_point|weight_g_idx|"
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state\S*|bitsandbytes__\w+|SCB|\w+_blocks|\w+_amax"
)
"""Last parts of the names of tensors that only a quantized layer, cache or input has, in every format known."""

_EMBEDDINGS = ("wte", "wpe")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Quantization as the tensors show it.

    Attributes:
        linear: names of all modules with a matrix of weights, embeddings left out, sorted.
        quantized: those of them whose weights are codes, with the tensor of the codes.
        scales: for each kind of scale, the modules that have one.
    """

    linear: tuple[str, ...]
    quantized: Mapping[str, StoredTensor]
    scales: Mapping[str, frozenset[str]]

    @property
    def kinds(self) -> dict[str, str]:
        """What the codes of each quantized layer are."""
        return {module: CODES[tensor.dtype] for module, tensor in self.quantized.items()}

    @property
    def cache_scales(self) -> bool:
        """Whether the key-value cache has scales of its own."""
        return bool(self.scales["k_scale"] or self.scales["v_scale"])

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it: counts."""
        return {
            "linear": len(self.linear),
            "weights": dict(sorted(Counter(self.kinds.values()).items())),
            "scales": {kind: len(modules) for kind, modules in self.scales.items() if modules},
        }


def read_stored(folder: Path) -> Stored:
    """Read what a folder holds.

    Raises:
        UsageError: no safetensors file, or a damaged one.
    """
    return stored(read_headers(folder))


def stored(tensors: Mapping[str, StoredTensor]) -> Stored:
    """Sort tensors into linear layers and scales."""
    linear: list[str] = []
    quantized: dict[str, StoredTensor] = {}
    scales: dict[str, set[str]] = {kind: set() for kind in SCALES}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if last in scales:
            scales[last].add(module)
        elif last == "weight" and len(tensor.shape) == 2 and not _embeds(module):
            linear.append(module)
            if tensor.dtype in CODES:
                quantized[module] = tensor
    return Stored(
        linear=tuple(sorted(linear)),
        quantized=dict(sorted(quantized.items())),
        scales={kind: frozenset(modules) for kind, modules in scales.items()},
    )


def codes(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors that hold codes, wherever they are: a matrix of small floats, or of integers."""
    return sorted(name for name, tensor in tensors.items() if _is_code(name.rpartition(".")[2], tensor))


def companions(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors that mean nothing without quantization: scales, zero points, packed weights."""
    return sorted(name for name in tensors if _COMPANIONS.fullmatch(name.rpartition(".")[2]) or "_quantizer." in name)


def _is_code(last: str, tensor: StoredTensor) -> bool:
    if len(tensor.shape) < 2:
        return False
    if _FLOAT_CODES.fullmatch(tensor.dtype):
        return True
    return bool(_INTEGERS.fullmatch(tensor.dtype)) and not _BUFFERS.fullmatch(last)


def _embeds(module: str) -> bool:
    last = module.rpartition(".")[2]
    return last.startswith("embed") or last in _EMBEDDINGS
