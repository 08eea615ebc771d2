"""Models quantized by nvidia-modelopt, in this process or before: fake quantization, any recipe, CPU or CUDA.

In: an engine specification with a recipe. Out: a `CausalEngine` of fidelity "simulated", or "dequantised" for an
exported checkpoint; or such a checkpoint, written.
Must not depend on: tasks.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.adapters.checkpoint.reading import Trace
    from evalkit.suite import EngineSpec

SUMMARY = "transformers models with a quantization recipe simulated by nvidia-modelopt"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Load a model and apply a recipe, or load a checkpoint that one was applied to (option `checkpoint`).

    Raises:
        UsageError: no recipe was named, an option is wrong, or the recipe does not run on the device.
        MissingExtraError: torch, transformers or modelopt is not installed.
        RecipeError: what was made is not what the recipe declares.
        EngineError: the model cannot be loaded.
    """
    options = _checked(spec)
    from evalkit.adapters.fakequant.assembly import load_quantized  # noqa: PLC0415 - torch is optional and slow

    return load_quantized(spec, options, resources)


def write_checkpoint(spec: EngineSpec, resources: Resources, output: Path) -> Trace:
    """Apply a recipe and write the model as a checkpoint for TensorRT-LLM and vLLM.

    Raises:
        UsageError: as for `load`, or the folder holds something already.
        MissingExtraError, RecipeError: as for `load`.
        EngineError: the model cannot be loaded, or ModelOpt cannot write it.
    """
    options = _checked(spec)
    if options.checkpoint != "original":
        raise UsageError(f"option checkpoint is '{options.checkpoint}'; a checkpoint is written from original weights")
    from evalkit.adapters.fakequant.publishing import publish  # noqa: PLC0415 - torch is optional and slow

    return publish(spec, options, resources, output)


def _checked(spec: EngineSpec) -> ModelOptOptions:
    for package in ("torch", "transformers", "modelopt", "requests"):
        if find_spec(package) is None:
            raise MissingExtraError("adapter 'modelopt'", package, "modelopt")
    if spec.recipe == "none":
        raise UsageError(
            f"engine '{spec.name}': adapter 'modelopt' needs a recipe; next step: name one (evalkit list recipes), "
            "or adapter: hf for the model as it is stored"
        )
    options: ModelOptOptions = read_options(ModelOptOptions, spec)
    return options
