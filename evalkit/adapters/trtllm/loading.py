"""Loads a model through the LLM API, and frees it.

In: a checked target, options. Out: `Session`.
May not know: requests, scores.
"""

from __future__ import annotations

import weakref
from importlib import import_module
from typing import TYPE_CHECKING, Any

from evalkit.adapters.checkpoint.declared import NONE
from evalkit.adapters.trtllm.files import LENGTH, Target
from evalkit.adapters.trtllm.library import Library
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError, UsageError

if TYPE_CHECKING:
    from evalkit.recipes import ResolvedRecipe
    from evalkit.suite import EngineSpec

META_BACKEND = "fp8_rowwise_ub"
"""A recipe with this backend is the official row-wise one, for which TensorRT-LLM has a switch of its own."""

BOUND = 1200.0
_BATCH_TOKENS = 8192
_ON_LOAD = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")


class Session:
    """A loaded model; it is freed with its last user.

    Attributes:
        llm: the library's `LLM`.
        library: the library.
        target: what was loaded.
        max_length: tokens a request may need, the generated ones included.
        free: frees it now; calling it again is harmless.
    """

    def __init__(self, llm: Any, library: Library, target: Target, max_length: int) -> None:
        self.llm, self.library, self.target, self.max_length = llm, library, target, max_length
        self.free = weakref.finalize(self, _shut_down, llm)


def open_session(spec: EngineSpec, options: TensorRTOptions, library: Library, target: Target) -> Session:
    """Load a model.

    Raises:
        UsageError: the length asked for is more than the model has, or it cannot be quantized while it is loaded.
        EngineError: TensorRT-LLM cannot load it.
    """
    length = _length(options, target)
    keywords = _keywords(spec, options, library, target, length)
    kind = _compiled_kind(library) if target.compiled else library.api.LLM
    try:
        llm = kind(**keywords)
    except Exception as error:  # the library, CUDA and MPI raise many unrelated types
        raise EngineError(
            f"{target.files.name}: TensorRT-LLM {library.version} cannot load it: {type(error).__name__}: {error}"
        ) from error
    return Session(llm, library, target, length)


def is_official(recipe: ResolvedRecipe) -> bool:
    """Whether a recipe is the official Llama one: row-wise FP8 with a bound of the activation rows."""
    cfgs = (entry.get("cfg") for entry in recipe.document["quantize"]["quant_cfg"])
    return any(isinstance(cfg, dict) and cfg.get("backend") == META_BACKEND for cfg in cfgs)


def _length(options: TensorRTOptions, target: Target) -> int:
    length = options.max_length or min(target.limit or LENGTH, LENGTH)
    if target.limit is not None and length > target.limit:
        raise UsageError(
            f"{target.files.name}: max_length {length} is more than its own limit of {target.limit} tokens"
        )
    return length


def _keywords(
    spec: EngineSpec, options: TensorRTOptions, library: Library, target: Target, length: int
) -> dict[str, Any]:
    """Everything that can change an answer is said, so that no default of the library applies."""
    cache: dict[str, Any] = {
        "enable_block_reuse": options.kv_reuse,
        "free_gpu_memory_fraction": options.memory_fraction,
    }
    if options.kv_cache != "auto":
        cache["dtype"] = options.kv_cache
    keywords: dict[str, Any] = {
        "model": str(target.files.folder),
        "tensor_parallel_size": options.tensor_parallel,
        "pipeline_parallel_size": options.pipeline_parallel,
        "trust_remote_code": options.trust_remote_code,
        "kv_cache_config": library.make("KvCacheConfig", **cache),
    }
    if options.tokenizer is not None:
        keywords["tokenizer"] = options.tokenizer
    if options.guided_decoding is not None:
        keywords["guided_decoding_backend"] = options.guided_decoding
    if options.wants_logits:
        keywords["gather_generation_logits"] = True
    if target.compiled:
        return keywords
    return {
        **keywords,
        "dtype": spec.dtype,
        "max_seq_len": length,
        "max_num_tokens": max(_BATCH_TOKENS, length),
        "enable_chunked_prefill": options.chunked_prefill,
        **({"max_batch_size": options.max_batch_size} if options.max_batch_size is not None else {}),
        **_where_known(library, max_input_len=length, generation_config="trtllm"),
        **_quantization(options, library, target),
    }


def _where_known(library: Library, **keywords: Any) -> dict[str, Any]:
    return {name: value for name, value in keywords.items() if name in library.model_fields}


def _quantization(options: TensorRTOptions, library: Library, target: Target) -> dict[str, Any]:
    """Return what makes the library quantize the weights as it loads them."""
    recipe, name = target.recipe, target.files.name
    if recipe is None or target.declared.algorithm != NONE:
        if options.quantize_on_load:
            why = "no recipe is named" if recipe is None else f"the weights are {target.declared.algorithm} already"
            raise UsageError(f"{name}: quantize_on_load, but {why}")
        return {}
    if not options.quantize_on_load:
        raise UsageError(
            f"{name}: recipe '{recipe.name}' was asked for, but the checkpoint is not quantized; next step: evalkit "
            f"quantize --model {name} --recipe {recipe.name} --output FOLDER, or for FP8 quantize_on_load: true"
        )
    wanted = recipe.expectation.algorithm
    if wanted not in _ON_LOAD or recipe.expectation.kv_cache not in ("none", "FP8"):
        raise UsageError(
            f"{name}: TensorRT-LLM does not make {wanted} of unquantized weights; next step: evalkit quantize"
        )
    if wanted == "FP8_PER_CHANNEL_PER_TOKEN" and not is_official(recipe):
        raise UsageError(f"{name}: of row-wise recipes, TensorRT-LLM makes the official one only; evalkit quantize")
    if wanted == "FP8_PER_CHANNEL_PER_TOKEN" and not _has_official(library):
        raise EngineError(
            f"TensorRT-LLM {library.version} has no switch for the official recipe (QuantConfig.use_meta_recipe); next "
            "step: evalkit quantize"
        )
    details: dict[str, Any] = {"quant_algo": wanted}
    if recipe.expectation.kv_cache == "FP8":
        details["kv_cache_quant_algo"] = "FP8"
    if is_official(recipe):
        details |= {"use_meta_recipe": True, "clamp_val": [-BOUND, BOUND]}
    return {"quant_config": library.make("QuantConfig", **details)}


def _has_official(library: Library) -> bool:
    kind = getattr(library.api, "QuantConfig", None)
    known = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})
    return "use_meta_recipe" in known


def _compiled_kind(library: Library) -> Any:
    try:
        return import_module("tensorrt_llm._tensorrt_engine").LLM
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f"TensorRT-LLM {library.version} no longer runs compiled engines; next step: give the checkpoint that "
            "this one was compiled from, or install the version that compiled it"
        ) from error


def _shut_down(llm: Any) -> None:
    llm.shutdown()
