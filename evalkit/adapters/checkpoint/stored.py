"""What the tensors of a checkpoint show: which linear layers are quantized, how, and with which scales.

In: headers of safetensors files. Out: `Stored`.
May not know: what anything was called by whoever wrote it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.adapters.checkpoint.headers import StoredTensor, read_headers

SCALES = ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale")
"""Last parts of the names of tensors that belong to a quantized layer, as ModelOpt names them."""

CODES = {"F8_E4M3": "FP8", "I8": "INT8", "U8": "packed 4-bit"}
"""Types that hold codes, not weights."""

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


def _embeds(module: str) -> bool:
    last = module.rpartition(".")[2]
    return last.startswith("embed") or last in _EMBEDDINGS
