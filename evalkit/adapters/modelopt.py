"""Models quantized in this process by nvidia-modelopt: fake quantization, any recipe, CPU or CUDA.

In: an engine specification with a recipe. Out: a `CausalEngine` of fidelity "simulated".
May not know: tasks.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources
from evalkit.adapters.causal.options import read_options
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "transformers models with a quantization recipe simulated by nvidia-modelopt"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Load a model and apply a recipe.

    Raises:
        UsageError: no recipe was named, an option is wrong, or the recipe does not run on the device.
        MissingExtraError: torch, transformers or modelopt is not installed.
        RecipeError: what was made is not what the recipe declares.
        EngineError: the model cannot be loaded.
    """
    for package in ("torch", "transformers", "modelopt", "requests"):
        if find_spec(package) is None:
            raise MissingExtraError("adapter 'modelopt'", package, "modelopt")
    if spec.recipe == "none":
        raise UsageError(
            f"engine '{spec.name}': adapter 'modelopt' needs a recipe; next step: name one (evalkit list recipes), "
            "or adapter: hf for the model as it is stored"
        )
    options: ModelOptOptions = read_options(ModelOptOptions, spec)
    from evalkit.adapters.fakequant.assembly import load_quantized  # noqa: PLC0415 - torch is optional and slow

    return load_quantized(spec, options, resources)
