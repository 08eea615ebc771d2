"""Reads the state of every enabled quantizer from a model.

In: a model quantized by ModelOpt. Out: `QuantizerState` values.
May not know: recipes. Attributes are read, never printed text: an uncalibrated quantizer prints like a dynamic one.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from evalkit.adapters.fakequant.state import Bits, QuantizerState

_SUFFIX = "_quantizer"


def read_quantizers(model: Any) -> list[QuantizerState]:
    """Return every enabled leaf quantizer, in module order."""
    from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: PLC0415 - slow to import

    modules = dict(model.named_modules())
    return [
        _state(name, module, modules)
        for name, module in modules.items()
        if isinstance(module, TensorQuantizer) and module.is_enabled
    ]


def describe_quantizers(model: Any) -> list[dict[str, Any]]:
    """Return every enabled leaf quantizer as plain data: what it is, and the range of its scales."""
    modules = dict(model.named_modules())
    return [{**_plain(state), "amax": _range(modules[state.name])} for state in read_quantizers(model)]


def protected_names(model: Any) -> list[str]:
    """Return the module names of the output layer and of all embeddings."""
    kept = {id(module) for module in (model.get_output_embeddings(), model.get_input_embeddings())}
    return [
        name for name, module in model.named_modules() if id(module) in kept or isinstance(module, torch.nn.Embedding)
    ]


def _state(name: str, quantizer: Any, modules: dict[str, Any]) -> QuantizerState:
    parts = name.split(".")
    if parts[-1].isdigit():  # a place in a SequentialQuantizer
        parts.pop()
    layer = ".".join(parts[:-1])
    blocks = quantizer.block_sizes
    axis = quantizer.axis
    smoothing = getattr(modules.get(f"{layer}.input{_SUFFIX}"), "pre_quant_scale", None)
    return QuantizerState(
        name=name,
        role=parts[-1].removesuffix(_SUFFIX).removesuffix("_bmm"),
        bits=_bits(quantizer.num_bits),
        axis=(axis,) if isinstance(axis, int) else None if axis is None else tuple(axis),
        blocks={key: value for key, value in blocks.items() if isinstance(key, int)} if blocks else None,
        dynamic=bool(quantizer._dynamic),
        constant=bool(getattr(quantizer, "_use_constant_amax", False)),
        calibrated=_calibrated(quantizer),
        smoothed=smoothing is not None,
        padded=any(getattr(quantizer, "_padding", None) or ()),
    )


def _plain(state: QuantizerState) -> dict[str, Any]:
    row = asdict(state)
    row["blocks"] = {str(key): size for key, size in state.blocks.items()} if state.blocks else None
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _range(quantizer: Any) -> list[float] | None:
    """Return the smallest and largest of the stored maxima; None where none are stored."""
    amax = getattr(quantizer, "_amax", None)
    return None if amax is None else [float(amax.min()), float(amax.max())]


def _bits(value: Any) -> Bits:
    return int(value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _calibrated(quantizer: Any) -> bool:
    amax = getattr(quantizer, "_amax", None)
    if quantizer._dynamic or amax is None:
        return False
    return bool(torch.isfinite(amax).all() and (amax >= 0).all() and (amax > 0).any())
