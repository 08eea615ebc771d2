"""Fake quantization of 16-bit activations by looking each value up, as a ModelOpt quantization backend, on a CPU.

In: a model whose quantizers were checked. Out: the same model, whose static quantizers give the same bits sooner.
May not know: which recipe was applied.

A quantizer with one static scale maps each number by itself, and a 16-bit type has 65,536 numbers: so the quantizer
is asked once for all of them, and later each activation is looked up. ModelOpt's own way through fp32, E4M3 and back
takes 3 to 12 times as long on a CPU, which has no instruction for E4M3.
"""

from __future__ import annotations

from typing import Any

import torch

from evalkit.adapters.fakequant.backends import register_backend

BACKEND = "looked_up"

_NUMBERS = 1 << 16


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
def look_up(model: Any) -> int:
    """Give every quantizer of 16-bit activations with one static scale a table; return how many got one.

    Such a quantizer names the backend `looked_up` from then on, so what a recipe made is read back before.
    """
    from modelopt.torch.quantization.nn import TensorQuantizer  # noqa: PLC0415 - slow to import

    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype.itemsize != 2:
        return 0
    register_backend(BACKEND, _entry)
    found = [part for part in model.modules() if isinstance(part, TensorQuantizer) and _maps_numbers(part)]
    every = torch.arange(-_NUMBERS // 2, _NUMBERS // 2).to(torch.int16).view(weight.dtype)
    for quantizer in found:
        quantizer.looked_up = quantizer(every)
        quantizer.backend = BACKEND
    return len(found)


def _maps_numbers(quantizer: Any) -> bool:
    """Whether each number is rounded by itself: enabled, one fixed scale, and nothing before or after."""
    fixed = quantizer.is_enabled and quantizer.fake_quant and quantizer.block_sizes is None and quantizer.axis is None
    if not fixed or quantizer._dynamic or quantizer._if_calib or quantizer.backend is not None:
        return False
    if quantizer.pre_quant_scale is not None or quantizer.bias is not None or quantizer.rotate_is_enabled:
        return False
    return quantizer._use_constant_amax or (quantizer.amax is not None and quantizer.amax.numel() == 1)


def _entry(values: Any, quantizer: Any) -> Any:
    table = quantizer.looked_up
    if values.dtype != table.dtype:
        return _computed(values, quantizer)
    numbers = values.contiguous().view(torch.int16).to(torch.int32).add_(_NUMBERS // 2)
    return table.index_select(0, numbers.view(-1)).view(values.shape)


def _computed(values: Any, quantizer: Any) -> Any:
    quantizer.backend = None
    try:
        return quantizer(values)
    finally:
        quantizer.backend = BACKEND
