"""What a quantizer is, as plain values, and what a set of them is called.

In: nothing of torch. Out: `QuantizerState`, the label of the algorithm, the type of the key-value cache, counts.
May not know: models, ModelOpt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Bits = int | tuple[int, int]

E4M3, E2M1 = (4, 3), (2, 1)

_FP8 = {frozenset({"tensor"}): "FP8", frozenset({"channel", "row"}): "FP8_PER_CHANNEL_PER_TOKEN"}
_KNOWN = {
    ("FP8+INT4", "FP8", True): "W4A8_AWQ",
    ("INT8", "INT8", True): "W8A8_SQ_PER_CHANNEL",
    ("NVFP4", "NVFP4", False): "NVFP4",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerState:
    """One enabled leaf quantizer.

    Attributes:
        name: full module name.
        role: "weight", "input", "output", "k", "v", "q" or another word before `_quantizer`.
        bits: integer bits, or (exponent, mantissa).
        axis: axes with a scale of their own; None for one scale.
        blocks: block size by dimension; None without blocks. {-1: None} is one scale a row.
        dynamic: declared dynamic: the scale is found anew for every input.
        constant: declared constant: the scale is fixed by the recipe.
        calibrated: whether a scale is stored that is finite, nowhere negative and somewhere positive.
        smoothed: whether the input of its layer is multiplied by a scale found while calibrating (AWQ, SmoothQuant).
        padded: whether blocks had to be filled up with zeros, because the block size does not divide the row.
    """

    name: str
    role: str
    bits: Bits
    axis: tuple[int, ...] | None = None
    blocks: Mapping[int, int | None] | None = None
    dynamic: bool = False
    constant: bool = False
    calibrated: bool = False
    smoothed: bool = False
    padded: bool = False

    @property
    def by_row(self) -> bool:
        """Whether each row (token, output channel) has scales of its own.

        ModelOpt rewrites blocks {-1: None} as axes (0, 1) when the first batch (rows, tokens, values) passes.
        """
        return set(self.blocks) == {-1} if self.blocks is not None else self.dynamic and self.axis == (0, 1)


def counts(states: Sequence[QuantizerState]) -> dict[str, int]:
    """Return the number of enabled quantizers of each role."""
    return dict(sorted(Counter(state.role for state in states).items()))


def kv_cache(states: Sequence[QuantizerState]) -> str:
    """Return the type of the key-value cache: "none", "FP8", "NVFP4", or what is quantized of it otherwise."""
    keys, values = (_types([state for state in states if state.role == role]) for role in ("k", "v"))
    if keys == values:
        return keys or "none"
    return f"keys {keys or 'none'}, values {values or 'none'}"


def algorithm(states: Sequence[QuantizerState]) -> str:
    """Name what linear layers do, in the words of ModelOpt's exports where there is one.

    >>> weight = QuantizerState(name="w", role="weight", bits=(4, 3), calibrated=True)
    >>> algorithm([weight, QuantizerState(name="i", role="input", bits=(4, 3), calibrated=True)])
    'FP8'
    """
    weights, inputs = ([state for state in states if state.role == role] for role in ("weight", "input"))
    types = _types(weights), _types(inputs)
    scales = frozenset(_scales(state) for state in (*weights, *inputs))
    smoothed = bool(weights) and all(state.smoothed for state in weights)
    if types == ("FP8", "FP8") and not smoothed:
        return _FP8.get(scales, "FP8_" + "_".join(sorted(scales)).upper())
    if types[0].startswith("INT") and "+" not in types[0] and not inputs:
        return f"W{types[0].removeprefix('INT')}A16" + ("_AWQ" if smoothed else "")
    return _KNOWN.get((types[0], types[1], smoothed), f"W_{types[0] or 'none'}_A_{types[1] or 'none'}")


def _scales(state: QuantizerState) -> str:
    if state.by_row and state.blocks in (None, {-1: None}):
        return "row"
    if state.blocks is not None:
        return "block"
    return "channel" if state.axis else "tensor"


def _types(states: Sequence[QuantizerState]) -> str:
    return "+".join(sorted({_type(state.bits) for state in states}))


def _type(bits: Bits) -> str:
    if isinstance(bits, int):
        return f"INT{bits}"
    return {E4M3: "FP8", E2M1: "NVFP4"}.get(bits, f"E{bits[0]}M{bits[1]}")
