"""Formats that have no processor kernel, refused by name before any weight is loaded.

In: a recipe and a device. Out: nothing, or `UsageError`.
May not know: torch, ModelOpt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.recipes import Recipe

_FOUR_BIT_FLOAT = ("e2m1", (2, 1))
_POWER_OF_TWO_SCALE = ("e8m0", (8, 0))


def refuse_device(recipe: Recipe, device: str) -> None:
    """Refuse a recipe on a device where it cannot run.

    Raises:
        UsageError: names the format, the recipe, the device and the next step.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        formats = sorted({name for entry in recipe.document["quantize"]["quant_cfg"] for name in _gpu_formats(entry)})
        if formats:
            raise UsageError(
                f"recipe '{recipe.name}' uses {' and '.join(formats)}, which ModelOpt computes on CUDA GPUs only; "
                "next step: device: cuda, or another recipe"
            )
    if kind not in recipe.expectation.devices:
        allowed = ", ".join(recipe.expectation.devices)
        raise UsageError(f"recipe '{recipe.name}' runs on {allowed}, not on {kind}; next step: device: {allowed}")


def _gpu_formats(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the GPU-only formats of one quant_cfg entry."""
    if entry.get("enable") is False:
        return
    cfgs = entry.get("cfg")
    for cfg in cfgs if isinstance(cfgs, list) else [cfgs] if isinstance(cfgs, Mapping) else []:
        scale = _plain((cfg.get("block_sizes") or {}).get("scale_bits"))
        if scale in _POWER_OF_TWO_SCALE:
            yield "an MX format"
        elif _plain(cfg.get("num_bits")) in _FOUR_BIT_FLOAT:
            yield "NVFP4"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
