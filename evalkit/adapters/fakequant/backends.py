"""Ways of rounding that evalkit adds to ModelOpt.

In: a name and a function. Out: a quantization backend that quantizers may name.
Must not depend on: which recipe names it, how it rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from evalkit.errors import ConfigError

if TYPE_CHECKING:
    from evalkit.recipes import ResolvedRecipe


def register_backend(name: str, entry: Callable[[Any, Any], Any]) -> None:
    """Make a backend known to ModelOpt, once; `entry` is called with values and their quantizer."""
    from modelopt.torch.quantization.nn import (  # noqa: PLC0415 - slow to import
        is_registered_quant_backend,
        register_quant_backend,
    )

    if not is_registered_quant_backend(name):
        register_quant_backend(name, entry)


# Row-wise FP8 with an upper bound on the row maximum, as a ModelOpt quantization backend.
#
# The official Llama 3.1 FP8 models quantize activations by FBGEMM's row-wise kernel, whose scale is
# min(max |x|, bound) / 448 with bound 1200 (The Llama 3 Herd of Models, section 6.2). ModelOpt has no such bound, but
# lets a recipe name a backend: `backend: fp8_rowwise_ub, backend_extra_args: {scale_ub: 1200.0}`.


ROWWISE_BACKEND = "fp8_rowwise_ub"

E4M3_MAX = 448.0
_SMALLEST = 1e-12


def quantize_rows(values: Any, scale_ub: float) -> Any:
    """Round each row (last dimension) to E4M3 with the scale min(max |x|, scale_ub) / 448, in fp32.

    Args:
        values: floating-point tensor of any shape.
        scale_ub: bound of the row maximum; what is larger saturates.

    Returns:
        A tensor of the same shape and type.
    """
    wide = values.float()
    scale = wide.abs().amax(dim=-1, keepdim=True).clamp(_SMALLEST, scale_ub) / E4M3_MAX
    codes = (wide / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return (_numbers(codes) * scale).to(values.dtype)


def _numbers(codes: Any) -> Any:
    """Return E4M3 codes in fp32; a CPU has no instruction for it, and looks them up in a third of the time."""
    if codes.device.type != "cpu":
        return codes.float()
    every = torch.arange(1 << 8).to(torch.uint8).view(codes.dtype).float()
    return every.index_select(0, codes.view(torch.uint8).to(torch.int32).view(-1)).view(codes.shape)


def refuse_unbounded(recipe: ResolvedRecipe) -> None:
    """Refuse a recipe that names the backend without a usable bound.

    Raises:
        ConfigError: names the entries.
    """
    faults = []
    for place, entry in enumerate(recipe.document["quantize"]["quant_cfg"]):
        cfgs = entry.get("cfg")
        for cfg in cfgs if isinstance(cfgs, list) else [cfgs]:
            if isinstance(cfg, Mapping) and cfg.get("backend") == ROWWISE_BACKEND:
                bound = (cfg.get("backend_extra_args") or {}).get("scale_ub")
                if isinstance(bound, bool) or not isinstance(bound, (int, float)) or bound <= 0:
                    faults.append(
                        f"'quantize.quant_cfg.{place}': backend {ROWWISE_BACKEND} has the bound {bound!r}; "
                        "write backend_extra_args: {scale_ub: 1200.0}, or leave out backend for no bound"
                    )
    if faults:
        raise ConfigError(f"recipe '{recipe.name}'", faults)


def register() -> None:
    """Make the backend known to ModelOpt; must come before a recipe that names it is applied."""
    register_backend(ROWWISE_BACKEND, _entry)


def _entry(values: Any, quantizer: Any) -> Any:
    return quantize_rows(values, float(quantizer.backend_extra_args["scale_ub"]))


# Fake quantization of 16-bit activations by looking each value up, as a ModelOpt quantization backend, on a CPU.
#
# A quantizer with one static scale maps each number by itself, and a 16-bit type has 65,536 numbers: so the quantizer
# is asked once for all of them, and later each activation is looked up. ModelOpt's own way through fp32, E4M3 and back
# takes 3 to 12 times as long on a CPU, which has no instruction for E4M3.


TABLE_BACKEND = "looked_up"

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
    register_backend(TABLE_BACKEND, _table_entry)
    found = [part for part in model.modules() if isinstance(part, TensorQuantizer) and _maps_numbers(part)]
    every = torch.arange(-_NUMBERS // 2, _NUMBERS // 2).to(torch.int16).view(weight.dtype)
    for quantizer in found:
        quantizer.looked_up = quantizer(every)
        quantizer.backend = TABLE_BACKEND
    return len(found)


def _maps_numbers(quantizer: Any) -> bool:
    """Whether each number is rounded by itself: enabled, one fixed scale, and nothing before or after."""
    fixed = quantizer.is_enabled and quantizer.fake_quant and quantizer.block_sizes is None and quantizer.axis is None
    if not fixed or quantizer._dynamic or quantizer._if_calib or quantizer.backend is not None:
        return False
    if quantizer.pre_quant_scale is not None or quantizer.bias is not None or quantizer.rotate_is_enabled:
        return False
    return quantizer._use_constant_amax or (quantizer.amax is not None and quantizer.amax.numel() == 1)


def _table_entry(values: Any, quantizer: Any) -> Any:
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
        quantizer.backend = TABLE_BACKEND
