"""Packed weights back to floating-point numbers.

In: codes and scales as ModelOpt exports them. Out: weights, exactly those an engine's kernel multiplies with.
May not know: files, models, recipes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from evalkit.adapters.checkpoint.headers import StoredTensor
from evalkit.adapters.fakequant.state import E4M3, QuantizerState

_FP8_MAX = 448.0


def expand(codes: Any, scale: Any, second: Any = None) -> Any:
    """Expand the codes of one matrix.

    Args:
        codes: shape (n, k): FP8 E4M3 or INT8; or (n / 2, k): unsigned bytes, each two rows of signed 4-bit numbers, the
            even row in the low half.
        scale: shape () or (1,) for one scale, (n,) or (n, 1) for one a row, (n, k / block) for blocks of 4-bit numbers.
        second: shape () or (1,): scale of the FP8 numbers to which 4-bit ones are unpacked (W4A8); None without.

    Returns:
        fp32 weights, shape (n, k).

    Raises:
        ValueError: another type, or shapes that do not belong together.
    """
    if codes.dtype == torch.uint8:
        found = _blocks(unpack(codes), scale.float())
        return found if second is None else _as_fp8(found, second.float())
    if second is not None:
        raise ValueError(f"a second scale for codes of type {codes.dtype}")
    if codes.dtype not in (torch.float8_e4m3fn, torch.int8):
        raise ValueError(f"codes of type {codes.dtype}")
    rows = scale.float().reshape(-1)
    if rows.numel() not in (1, codes.shape[0]):
        raise ValueError(f"{rows.numel()} scales for {codes.shape[0]} rows")
    return codes.float() * rows[:, None]


def unpack(packed: Any) -> Any:
    """Unpack bytes (n / 2, k) to signed 4-bit numbers (n, k), fp32.

    >>> unpack(torch.tensor([[0xF1, 0x87]], dtype=torch.uint8)).tolist()
    [[1.0, 7.0], [-1.0, -8.0]]
    """
    low, high = (packed & 0x0F).to(torch.int8), (packed >> 4).to(torch.int8)
    codes = torch.stack([low, high], dim=1).reshape(-1, packed.shape[1])
    return torch.where(codes > 7, codes - 16, codes).float()


def _blocks(codes: Any, scale: Any) -> Any:
    rows, values = codes.shape
    if scale.dim() != 2 or scale.shape[0] != rows or values % scale.shape[1]:
        raise ValueError(f"scales of shape {tuple(scale.shape)} for {rows} rows of {values} values")
    return (codes.reshape(rows, scale.shape[1], -1) * scale[:, :, None]).reshape(rows, values)


def _as_fp8(values: Any, scale: Any) -> Any:
    if scale.numel() != 1:
        raise ValueError(f"{scale.numel()} second scales for one matrix")
    step = scale.reshape(())
    return (values / step).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn).float() * step


def weight_states(
    module: str, codes: StoredTensor, scale: Any, second: Any = None, *, smoothed: bool
) -> list[QuantizerState]:
    """Describe what a packed matrix was quantized by: one quantizer, or two in a row where there is a second scale."""
    first = weight_state(module, codes, scale, smoothed=smoothed)
    if second is None:
        return [first]
    return [
        replace(first, name=f"{first.name}.0"),
        replace(first, name=f"{first.name}.1", bits=E4M3, blocks=None, calibrated=_sound(second)),
    ]


def _sound(scale: Any) -> bool:
    return bool(torch.isfinite(scale).all() and (scale > 0).all())


def weight_state(module: str, codes: StoredTensor, scale: Any, *, smoothed: bool) -> QuantizerState:
    """Describe what a packed matrix was quantized by, in the same words as a quantizer in memory."""
    packed = codes.dtype == "U8"
    return QuantizerState(
        name=f"{module}.weight_quantizer",
        role="weight",
        bits=4 if packed else 8 if codes.dtype == "I8" else E4M3,
        axis=None if packed or scale.numel() == 1 else (0,),
        blocks={-1: codes.shape[1] // scale.shape[-1]} if packed else None,
        calibrated=_sound(scale),
        smoothed=smoothed,
    )
