"""Reads the state of every enabled quantizer from a model.

In: a model quantized by ModelOpt. Out: `QuantizerState` values.
Must not depend on: recipes. Attributes are read, never printed text: an uncalibrated quantizer prints like a dynamic
one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from evalkit.errors import RecipeError

if TYPE_CHECKING:
    from evalkit.recipes import Expectation, ResolvedRecipe


# What a quantizer is, as plain values, and what a set of them is called.


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


# Is what was loaded what the recipe declares?


_SHOWN = 3
_OF_INPUTS = ("input", "output", "k", "v", "q")


def check_recipe(
    recipe: ResolvedRecipe, states: Sequence[QuantizerState], *, layers: int, protected: Sequence[str]
) -> None:
    """Check all enabled quantizers, before weights are folded.

    Args:
        recipe: what was asked for.
        states: every enabled leaf quantizer.
        layers: number of decoder layers of the model.
        protected: module names under which nothing may be quantized (output layer, embeddings).

    Raises:
        RecipeError: lists every fault and names the quantizers.
    """
    faults = [
        *_count_faults(recipe.expectation, states, layers),
        *_scale_faults(states),
        *_place_faults(states, protected),
        *_label_faults(recipe.expectation, states),
    ]
    if faults:
        raise RecipeError("\n  - ".join([f"recipe '{recipe.name}' was not applied as declared:", *faults]))


def _count_faults(expectation: Expectation, states: Sequence[QuantizerState], layers: int) -> list[str]:
    if not states:
        return ["no quantizer is enabled: every pattern in quant_cfg matches nothing, or a later entry switches it off"]
    declared = expectation.enabled_quantizers
    if declared is None or declared.in_model(layers) == len(states):
        return []
    found = ", ".join(f"{number} {role}" for role, number in counts(states).items())
    places = f"{declared.per_layer} in each of {max(0, layers - declared.layers_excluded)} layers"
    step = "Next step: correct the patterns in quant_cfg, or enabled_quantizers in the expectation file"
    return [
        f"{len(states)} quantizers are enabled ({found}); declared are {declared.in_model(layers)} ({places}). {step}"
    ]


def _scale_faults(states: Sequence[QuantizerState]) -> list[str]:
    unknown = [state for state in states if state.dynamic + state.constant + state.calibrated != 1]
    batchwise = [state for state in states if state.dynamic and state.role in _OF_INPUTS and not state.by_row]
    faults = []
    if unknown:
        faults.append(
            f"{_names(unknown)}: no finite scale was calibrated and none is declared dynamic or constant; "
            "ModelOpt would silently scale each batch by its own maximum. Next step: calibrate (option calibration)"
        )
    if batchwise:
        faults.append(
            f"{_names(batchwise)}: one dynamic scale for a whole batch, so an answer would depend on its neighbours; "
            "write block_sizes: {-1: null} for one scale a token, or a static scale"
        )
    return faults


def _place_faults(states: Sequence[QuantizerState], protected: Sequence[str]) -> list[str]:
    inside = [state for state in states if any(state.name.startswith(f"{place}.") for place in protected)]
    if not inside:
        return []
    step = "next step: end quant_cfg with entries that disable '*lm_head*' and parent_class nn.Embedding"
    return [f"{_names(inside)}: output layer and embeddings must stay unquantized; {step}"]


def _label_faults(expectation: Expectation, states: Sequence[QuantizerState]) -> list[str]:
    if not expectation.declared:
        return []
    pairs = (
        ("algorithm", expectation.algorithm, algorithm(states)),
        ("KV cache", expectation.kv_cache, kv_cache(states)),
    )
    return [
        f"{what} read back is {found}, declared is {declared}. Next step: correct the recipe, or its expectation file"
        for what, declared, found in pairs
        if declared != found
    ]


def _names(states: Sequence[QuantizerState]) -> str:
    shown = ", ".join(state.name for state in states[:_SHOWN])
    return shown + (f" and {len(states) - _SHOWN} more" if len(states) > _SHOWN else "")


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
