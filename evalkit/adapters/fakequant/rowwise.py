"""Row-wise FP8 with an upper bound on the row maximum, as a ModelOpt quantization backend.

In: activations. Out: the same, rounded to what FP8 E4M3 with one scale a row can hold.
May not know: which layers use it.

The official Llama 3.1 FP8 models quantize activations by FBGEMM's row-wise kernel, whose scale is
min(max |x|, bound) / 448 with bound 1200 (The Llama 3 Herd of Models, section 6.2). ModelOpt has no such bound, but
lets a recipe name a backend: `backend: fp8_rowwise_ub, backend_extra_args: {scale_ub: 1200.0}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from evalkit.adapters.fakequant.backends import register_backend
from evalkit.errors import ConfigError

if TYPE_CHECKING:
    from evalkit.recipes import ResolvedRecipe

BACKEND = "fp8_rowwise_ub"

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
            if isinstance(cfg, Mapping) and cfg.get("backend") == BACKEND:
                bound = (cfg.get("backend_extra_args") or {}).get("scale_ub")
                if isinstance(bound, bool) or not isinstance(bound, (int, float)) or bound <= 0:
                    faults.append(
                        f"'quantize.quant_cfg.{place}': backend {BACKEND} has the bound {bound!r}; "
                        "write backend_extra_args: {scale_ub: 1200.0}, or leave out backend for no bound"
                    )
    if faults:
        raise ConfigError(f"recipe '{recipe.name}'", faults)


def register() -> None:
    """Make the backend known to ModelOpt; must come before a recipe that names it is applied."""
    register_backend(BACKEND, _entry)


def _entry(values: Any, quantizer: Any) -> Any:
    return quantize_rows(values, float(quantizer.backend_extra_args["scale_ub"]))
