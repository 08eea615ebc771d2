"""Models in TensorRT-LLM, through its LLM API in this process: real low-precision kernels on NVIDIA GPUs.

In: an engine specification with a checkpoint, a compiled engine or a hub id. Out: a `TensorRTEngine`.
Must not depend on: tasks.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "checkpoints and compiled engines in TensorRT-LLM's LLM API, real low-precision kernels on NVIDIA GPUs"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Load a model.

    Raises:
        UsageError: an option is wrong, there is no such model, or its files would be misread.
        MissingExtraError: tensorrt_llm is not installed.
        RecipeError: what was loaded is not what the files declare, or not what the recipe makes.
        EngineError: TensorRT-LLM is too old, cannot load the model, or does not do what scoring needs.
    """
    for package in ("tensorrt_llm", "torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError("adapter 'tensorrt_llm'", package, "trtllm")
    if spec.device.partition(":")[0] not in ("auto", "cuda") or ":" in spec.device:
        raise UsageError(
            f"engine '{spec.name}': adapter 'tensorrt_llm' runs on NVIDIA GPUs, not on {spec.device!r}; next step: "
            "device: cuda, and the options tensor_parallel and pipeline_parallel for how many"
        )
    options: TensorRTOptions = read_options(TensorRTOptions, spec)
    from evalkit.adapters.trtllm.engine import load_tensorrt  # noqa: PLC0415 - torch is optional and slow to import

    return load_tensorrt(spec, options, resources)
