"""Reads an exported ModelOpt checkpoint into a transformers model: weights expanded, activations fake-quantized.

In: a checked checkpoint, options. Out: the model, and what was read back from files and memory.
Must not depend on: tasks, scoring, generation.

transformers itself would skip the scales of such a checkpoint and run raw codes as weights, without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

from evalkit.adapters.causal.loading import LoadedModel, check_complete, load_tokenizer, loaded_model, quiet_loading
from evalkit.adapters.checkpoint.reading import Checkpoint, check_resolved
from evalkit.adapters.checkpoint.stored import SCALES, StoredTensor
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.adapters.fakequant.quantize import check_neighbours, logits_of, probe_tokens, silent
from evalkit.adapters.fakequant.readback import (
    E4M3,
    QuantizerState,
    algorithm,
    check_recipe,
    counts,
    kv_cache,
    protected_names,
    read_quantizers,
)
from evalkit.errors import RecipeError, UsageError

# Packed weights back to floating-point numbers.


_FP8_MAX_of_expanding = 448.0


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
    return (values / step).clamp(-_FP8_MAX_of_expanding, _FP8_MAX_of_expanding).to(torch.float8_e4m3fn).float() * step


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


_FP8 = {"num_bits": E4M3, "axis": None}
_BY_TOKEN = {**_FP8, "type": "dynamic", "block_sizes": {-1: None}}
_FP8_MAX, _INT8_MAX = 448.0, 127.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """How a format treats the input of a quantized layer.

    Attributes:
        inputs: ModelOpt's configuration of the input quantizers; None for inputs left alone.
        largest: largest code; a stored input scale times it is the largest input. None for scales found anew.
    """

    inputs: Mapping[str, Any] | None = None
    largest: float | None = None


FORMATS = {
    "FP8": Format(inputs=_FP8, largest=_FP8_MAX),
    "FP8_PER_CHANNEL_PER_TOKEN": Format(inputs=_BY_TOKEN),
    "W4A16_AWQ": Format(),
    "W4A8_AWQ": Format(inputs=_FP8, largest=_FP8_MAX),
    "W8A8_SQ_PER_CHANNEL": Format(inputs={"num_bits": 8, "axis": None}, largest=_INT8_MAX),
}
"""Formats that can be expanded, by the name exports have for them."""


def format_of(checkpoint: Checkpoint) -> Format:
    """Return how a checkpoint's format works.

    Raises:
        UsageError: it cannot be expanded; names it and those that can.
    """
    name = checkpoint.declared.algorithm
    if name not in FORMATS:
        raise UsageError(
            f"{checkpoint.files.name}: a checkpoint in the format {name} cannot be expanded; these can: "
            f"{', '.join(FORMATS)}. Next step: serve it with TensorRT-LLM or vLLM, or apply the recipe in memory "
            "(checkpoint: original)"
        )
    if checkpoint.declared.kv_cache not in ("none", "FP8"):
        raise UsageError(
            f"{checkpoint.files.name}: a key-value cache in {checkpoint.declared.kv_cache} cannot be simulated"
        )
    return FORMATS[name]


def load_expanded(
    checkpoint: Checkpoint, options: ModelOptOptions, *, dtype: Any, device: str, progress: bool
) -> tuple[LoadedModel, Mapping[str, Any]]:
    """Load a model with expanded weights; its activations are still unquantized.

    Returns:
        The model, and the stored scales by tensor name.

    Raises:
        UsageError: the format cannot be expanded.
        RecipeError: codes and scales do not belong together.
        IdentityMismatchError: transformers reads another model out of the folder than was quantized.
        EngineError: tensors are missing.
    """
    format_of(checkpoint)
    files = checkpoint.files
    with quiet_loading(progress):
        tokenizer = load_tokenizer(files, options)
        check_resolved(checkpoint, tokenizer, trust_remote_code=options.trust_remote_code)
        scales = _scales(files.folder)
        config = transformers.AutoConfig.from_pretrained(str(files.folder), trust_remote_code=options.trust_remote_code)
        config.quantization_config = None
        with torch.device("meta"):
            trusted = options.trust_remote_code
            kind = type(transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=trusted))
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=_weights(files.folder, scales, dtype),
            dtype=dtype,
            attn_implementation=options.attention,
            output_loading_info=True,
        )
        if (files.folder / "generation_config.json").exists():
            model.generation_config = transformers.GenerationConfig.from_pretrained(str(files.folder))
    check_complete(files, model, info)
    return loaded_model(model.to(device), tokenizer, files, device), scales


def quantize_activations(loaded: LoadedModel, checkpoint: Checkpoint, scales: Mapping[str, Any]) -> Mapping[str, Any]:
    """Put stored input and cache scales into a model with expanded weights; return `EngineIdentity.quantization`.

    Raises:
        RecipeError: a scale is missing, or the model is not what the recipe declares.
    """
    from modelopt.torch import quantization as mtq  # noqa: PLC0415 - slow to import

    model, form = loaded.model, format_of(checkpoint)
    with silent():
        mtq.quantize(model, {"quant_cfg": _entries(checkpoint, form), "algorithm": None})
    model.eval()
    _set_scales(model, checkpoint, scales, form)
    states = [*_weight_states(checkpoint, scales), *read_quantizers(model)]
    if checkpoint.recipe is not None:
        layers = int(model.config.get_text_config(decoder=True).num_hidden_layers)
        check_recipe(checkpoint.recipe, states, layers=layers, protected=protected_names(model))
        probe = probe_tokens(model, None)
        if not bool(torch.isfinite(logits_of(model, probe)).all()):
            raise RecipeError(f"{checkpoint.files.name}: logits of the expanded model are not finite")
        check_neighbours(checkpoint.recipe, model, probe)
    return {
        "algorithm": algorithm(states),
        "kv_cache": kv_cache(states),
        "enabled": counts(states),
        "padded_blocks": 0,
        "calibration": None,
        **checkpoint.record(),
    }


def _scales(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as tensors:
            names = [name for name in tensors.keys() if name.rpartition(".")[2] in SCALES]  # noqa: SIM118 - no mapping
            found.update({name: tensors.get_tensor(name) for name in names})
    return found


def _weights(folder: Path, scales: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Read all tensors that are no scales, each expanded as it comes, so that codes are never held twice."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                module, _, last = name.rpartition(".")
                if last in SCALES:
                    continue
                scale = scales.get(f"{module}.weight_scale") if last == "weight" else None
                second = scales.get(f"{module}.weight_scale_2") if last == "weight" else None
                found[name] = _expanded(name, tensors.get_tensor(name), scale, second, dtype)
    return found


def _expanded(name: str, tensor: Any, scale: Any, second: Any, dtype: Any) -> Any:
    if scale is None:
        if tensor.dtype in (torch.float8_e4m3fn, torch.uint8, torch.int8):
            raise RecipeError(f"tensor '{name}' holds codes ({tensor.dtype}) and has no scale")
        return tensor
    try:
        return expand(tensor, scale, second).to(dtype)
    except ValueError as error:
        raise RecipeError(f"tensor '{name}' cannot be expanded: {error}") from error


def _entries(checkpoint: Checkpoint, form: Format) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = [{"quantizer_name": "*", "enable": False}]
    if form.inputs is not None:
        entries += [
            {"quantizer_name": f"{module}.input_quantizer", "cfg": dict(form.inputs)}
            for module in checkpoint.stored.quantized
        ]
    if checkpoint.declared.kv_cache == "FP8":
        constant = {} if checkpoint.stored.cache_scales else {"use_constant_amax": True}
        entries.append({"quantizer_name": "*[kv]_bmm_quantizer", "cfg": {**_FP8, **constant}})
    return entries


def _set_scales(model: Any, checkpoint: Checkpoint, scales: Mapping[str, Any], form: Format) -> None:
    modules = dict(model.named_modules())
    device = model.get_input_embeddings().weight.device
    held = checkpoint.stored.scales
    if form.largest is not None:
        missing = sorted(checkpoint.stored.quantized.keys() - held["input_scale"])
        if missing:
            name = checkpoint.declared.algorithm
            raise RecipeError(f"{len(missing)} layers have no input_scale, which {name} needs (first: {missing[0]})")
    for module in held["pre_quant_scale"]:
        modules[module].input_quantizer.pre_quant_scale = scales[f"{module}.pre_quant_scale"].to(device)
    for module in held["input_scale"] if form.largest is not None else ():
        modules[module].input_quantizer.amax = scales[f"{module}.input_scale"].float().to(device) * form.largest
    for kind, role in (("k_scale", "k_bmm_quantizer"), ("v_scale", "v_bmm_quantizer")):
        seen: dict[str, str] = {}
        for module in sorted(held[kind]):
            attention = _attention(module, role, modules)
            if attention is None:
                raise RecipeError(
                    f"{module}.{kind}: no attention with a quantized key-value cache to put it on; next step: declare "
                    "the cache's quantization as it was published, or export the checkpoint again"
                )
            if attention in seen:
                raise RecipeError(f"the key-value cache has two scales: {seen[attention]}.{kind} and {module}.{kind}")
            seen[attention] = module
            quantizer = getattr(modules[attention], role)
            quantizer.amax = scales[f"{module}.{kind}"].float().to(device) * _FP8_MAX


def _attention(module: str, quantizer: str, modules: Mapping[str, Any]) -> str | None:
    """Return the attention that a cache scale belongs to: ModelOpt stores it on k_proj, vLLM on the attention or in it.

    Returns:
        Name of the nearest module outwards with an enabled quantizer; None for none.
    """
    for name in (module, module.rpartition(".")[0]):
        found = getattr(modules.get(name), quantizer, None)
        if found is not None and found.is_enabled:
            return name
    return None


def _weight_states(checkpoint: Checkpoint, scales: Mapping[str, Any]) -> list[QuantizerState]:
    """Describe the packed weights; a scale before a norm was multiplied into it, so one that is left speaks for all."""
    smoothed = bool(checkpoint.stored.scales["pre_quant_scale"])
    return [
        state
        for module, codes in checkpoint.stored.quantized.items()
        for state in weight_states(
            module,
            codes,
            scales[f"{module}.weight_scale"],
            scales.get(f"{module}.weight_scale_2"),
            smoothed=smoothed,
        )
    ]
