"""From a specification to an engine whose model a recipe was applied to, here or before.

In: an engine specification. Out: a `CausalEngine` of fidelity "simulated", or "dequantised" for an exported checkpoint.
May not know: tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from evalkit.adapters.causal.engine import CausalEngine, answer_options
from evalkit.adapters.causal.forward import Path
from evalkit.adapters.causal.identity import UNQUANTIZED, identify, stored_quantization
from evalkit.adapters.causal.loading import LoadedModel, choose_device, choose_dtype, load_model
from evalkit.adapters.causal.selfcheck import agreed_path
from evalkit.adapters.causal.source import find_model
from evalkit.adapters.checkpoint.reading import read_checkpoint
from evalkit.adapters.fakequant.calibration import CalibrationSet, calibration_rows
from evalkit.adapters.fakequant.devices import refuse_device
from evalkit.adapters.fakequant.exported import load_expanded, quantize_activations
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.adapters.fakequant.quantize import apply_recipe
from evalkit.adapters.fakequant.restoring import restore_recipe
from evalkit.errors import UsageError
from evalkit.recipes import Recipe, ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import Fidelity

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

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
    path: Path,
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
