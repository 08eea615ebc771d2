"""From a specification to an engine whose model a recipe was applied to, here or before.

In: an engine specification. Out: a `CausalEngine` of fidelity "simulated", or "dequantised" for an exported checkpoint.
Must not depend on: tasks.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from evalkit.adapters.causal.engine import CausalEngine, answer_options
from evalkit.adapters.causal.forward import ForwardPath
from evalkit.adapters.causal.loading import (
    UNQUANTIZED,
    LoadedModel,
    choose_device,
    choose_dtype,
    identify,
    load_model,
    stored_quantization,
)
from evalkit.adapters.causal.selfcheck import agreed_path
from evalkit.adapters.checkpoint.reading import read_checkpoint
from evalkit.adapters.fakequant import backends as rowwise
from evalkit.adapters.fakequant.exported import load_expanded, quantize_activations
from evalkit.adapters.fakequant.options import ModelOptOptions, refuse_device
from evalkit.adapters.fakequant.quantize import (
    CalibrationSet,
    accept,
    apply_recipe,
    calibration_rows,
    logits_of,
    probe_tokens,
    silent,
)
from evalkit.adapters.source import STATE_FILE, file_sha256, find_model
from evalkit.errors import RecipeError, UsageError
from evalkit.recipes import Recipe, ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import Fidelity

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


# Restores a ModelOpt state checkpoint: plain weights, quantizer scales beside them, and a state file.
#
# A state file is a pickle. It is read with torch's restricted reader, which knows tensors and plain values and runs no
# code; a file that holds more is refused unless the user vouches for it.


_OF_QUANTIZERS = "_quantizer."
_REFUSED = (AssertionError, AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError)
"""What ModelOpt raises for a state that does not fit the model."""


def restore_recipe(loaded: LoadedModel, recipe: ResolvedRecipe, *, trust: bool) -> Mapping[str, Any]:
    """Put the quantizers of a state checkpoint into a model loaded from it; return `EngineIdentity.quantization`.

    Raises:
        UsageError: the state file is damaged, or holds more than may be read without trust.
        RecipeError: the state does not fit the model, or the model is not what the recipe declares.
    """
    from modelopt.torch import opt as mto  # noqa: PLC0415 - slow to import

    path = loaded.files.folder / STATE_FILE
    state, how = read_state(path, trust=trust)
    probe = probe_tokens(loaded.model, None)
    before = logits_of(loaded.model, probe)
    with silent():
        rowwise.register()
        try:
            mto.restore_from_modelopt_state(loaded.model, modelopt_state=state)
        except _REFUSED as error:
            raise RecipeError(
                f"{path}: ModelOpt cannot restore it: {type(error).__name__}: {error}; the file was written by "
                f"ModelOpt {_version(state)}"
            ) from error
    _load_scales(loaded.model, loaded.files.folder)
    found = accept(loaded.model, recipe, probe, before, fold=True)
    about = {"sha256": file_sha256(path), "read": how, "modelopt": _version(state)}
    return {**found, "calibration": None, "state": about}


def read_state(path: Path, *, trust: bool) -> tuple[Any, str]:
    """Read a state file; return it, and "restricted" or "trusted" for how.

    Raises:
        UsageError: it is damaged, or holds more than tensors and plain values and is not trusted.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True), "restricted"
    except pickle.UnpicklingError as error:
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False), "trusted"
        raise UsageError(
            f"{path}: is a pickle with more in it than tensors and plain values, and loading it could run any code. "
            "Next step: only if you know where it comes from, options: {trust_state: true}"
        ) from error
    except Exception as error:  # what is no pickle at all fails in any way
        raise UsageError(f"{path}: damaged state file: {type(error).__name__}: {error}") from error


def _load_scales(model: Any, folder: Path) -> None:
    """Load the buffers of all quantizers, which transformers reports as unexpected and passes over."""
    stored: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(str(file), "pt") as tensors:
            stored.update({name: tensors.get_tensor(name) for name in tensors.keys() if _OF_QUANTIZERS in name})  # noqa: SIM118
    wanted = {name for name in model.state_dict() if _OF_QUANTIZERS in name}
    different = sorted(wanted ^ stored.keys())
    if different:
        counted = f"{len(wanted - stored.keys())} scales are missing and {len(stored.keys() - wanted)} are not wanted"
        raise RecipeError(
            f"{folder}: {STATE_FILE} and the weights are not of one checkpoint: {counted} ({', '.join(different[:3])})"
        )
    model.load_state_dict(stored, strict=False)


def _version(state: Any) -> str:
    return str(state.get("modelopt_version", "unknown")) if isinstance(state, Mapping) else "unknown"


DEFAULT_SAMPLES, DEFAULT_TOKENS = 16, 128
"""Calibration of a recipe that does not say how much it needs."""


def load_quantized(spec: EngineSpec, options: ModelOptOptions, resources: Resources) -> CausalEngine:
    """Load a model and apply the specification's recipe, or load one to which it was applied before.

    Raises:
        UsageError: the recipe does not run on the device, an option is wrong, or the files would be misread.
        RecipeError: the model is not what the recipe declares.
        EngineError: the model cannot be loaded.
    """
    recipe = load_recipe(spec.recipe)
    refuse_device(recipe, choose_device(spec.device))
    if options.checkpoint == "exported":
        return _expanded(spec, options, resources)
    loaded = load_unquantized(spec, options, resources)
    path = agreed_path(loaded.model, options.scoring)
    resolved = resolve_recipe(recipe, layers_of(loaded))
    if options.checkpoint == "state":
        quantization = restore_recipe(loaded, resolved, trust=options.trust_state)
    else:
        quantization = apply_recipe(loaded.model, resolved, calibrate_with(recipe, loaded, options))
    return _engine(loaded, resolved, options, path, quantization)


def load_unquantized(spec: EngineSpec, options: ModelOptOptions, resources: Resources) -> LoadedModel:
    """Load the model a recipe is for, or the weights of a state checkpoint.

    Raises:
        UsageError: it is quantized already, an option is wrong, or the files would be misread.
        EngineError: the model cannot be loaded.
    """
    loaded = load_model(spec, options, resources, kinds=(options.checkpoint,))
    if stored_quantization(loaded) != UNQUANTIZED:
        raise UsageError(f"{loaded.files.name}: is quantized already; a recipe needs the original model")
    return loaded


def layers_of(loaded: LoadedModel) -> int:
    """Return the number of decoder layers."""
    return int(loaded.model.config.get_text_config(decoder=True).num_hidden_layers)


def calibrate_with(recipe: Recipe, loaded: LoadedModel, options: ModelOptOptions) -> CalibrationSet | None:
    """Return the rows that a recipe must see; None for one that needs nothing.

    Raises:
        UsageError: the texts are unreadable or too short.
    """
    needs = recipe.expectation.calibration
    if not needs.needed:
        return None
    wanted = options.calibration
    return calibration_rows(
        loaded.tokenizer,
        file=wanted.file,
        samples=wanted.samples or needs.samples or DEFAULT_SAMPLES,
        tokens=wanted.tokens or needs.tokens or DEFAULT_TOKENS,
    )


def _expanded(spec: EngineSpec, options: ModelOptOptions, resources: Resources) -> CausalEngine:
    files = find_model(spec.model, resources, revision=options.revision, kinds=("exported",))
    checkpoint = read_checkpoint(files, spec.recipe)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    dtype = choose_dtype(spec.dtype, files)
    device = choose_device(spec.device)
    loaded, scales = load_expanded(checkpoint, options, dtype=dtype, device=device, progress=resources.progress)
    path = agreed_path(loaded.model, options.scoring)
    quantization = quantize_activations(loaded, checkpoint, scales)
    assert checkpoint.recipe is not None  # the adapter asks for a recipe's name first
    return _engine(loaded, checkpoint.recipe, options, path, quantization, fidelity="dequantised")


def _engine(
    loaded: LoadedModel,
    recipe: ResolvedRecipe,
    options: ModelOptOptions,
    path: ForwardPath,
    quantization: Mapping[str, Any],
    *,
    fidelity: Fidelity = "simulated",
) -> CausalEngine:
    identity = identify(
        "modelopt",
        loaded,
        recipe=recipe.name,
        recipe_sha256=recipe.sha256,
        fidelity=fidelity,
        quantization=quantization,
        packages=["nvidia-modelopt"],
        options=answer_options(loaded, options, path),
    )
    return CausalEngine(loaded, identity, options, path)
