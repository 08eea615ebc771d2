"""From a specification to an engine whose model a recipe was applied to.

In: an engine specification. Out: a `CausalEngine` of fidelity "simulated".
May not know: tasks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.adapters.causal.engine import CausalEngine, answer_options
from evalkit.adapters.causal.identity import UNQUANTIZED, identify, stored_quantization
from evalkit.adapters.causal.loading import LoadedModel, choose_device, load_model
from evalkit.adapters.causal.selfcheck import agreed_path
from evalkit.adapters.fakequant.calibration import CalibrationSet, calibration_rows
from evalkit.adapters.fakequant.devices import refuse_device
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.adapters.fakequant.quantize import apply_recipe
from evalkit.errors import UsageError
from evalkit.recipes import Recipe, load_recipe, resolve_recipe

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

DEFAULT_SAMPLES, DEFAULT_TOKENS = 16, 128
"""Calibration of a recipe that does not say how much it needs."""


def load_quantized(spec: EngineSpec, options: ModelOptOptions, resources: Resources) -> CausalEngine:
    """Load a model and apply the specification's recipe.

    Raises:
        UsageError: the recipe does not run on the device, or an option is wrong.
        RecipeError: the model is not what the recipe declares.
        EngineError: the model cannot be loaded.
    """
    recipe = load_recipe(spec.recipe)
    refuse_device(recipe, choose_device(spec.device))
    loaded = load_model(spec, options, resources)
    if stored_quantization(loaded) != UNQUANTIZED:
        raise UsageError(f"{loaded.files.name}: is quantized already; a recipe needs the original model")
    path = agreed_path(loaded.model, options.scoring)
    calibration = _calibration(recipe, loaded, options)
    layers = int(loaded.model.config.get_text_config(decoder=True).num_hidden_layers)
    resolved = resolve_recipe(recipe, layers)
    quantization = apply_recipe(loaded.model, resolved, calibration)
    identity = identify(
        "modelopt",
        loaded,
        recipe=resolved.name,
        recipe_sha256=resolved.sha256,
        fidelity="simulated",
        quantization=quantization,
        packages=["nvidia-modelopt"],
        options=answer_options(loaded, options, path),
    )
    return CausalEngine(loaded, identity, options, path)


def _calibration(recipe: Recipe, loaded: LoadedModel, options: ModelOptOptions) -> CalibrationSet | None:
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
