"""What TensorRT-LLM is to load: a checkpoint folder, a compiled engine, or a model of the hub.

In: the `model` word of an engine specification. Out: `Target`, read and checked without loading it.
May not know: TensorRT-LLM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapters.causal.source import ModelFiles, file_sha256, find_model
from evalkit.adapters.checkpoint.declared import NONE, Declared, read_config
from evalkit.adapters.checkpoint.reading import Checkpoint, read_checkpoint
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import UsageError
from evalkit.recipes import ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

LENGTH = 8192
"""Tokens a request may need without the option `max_length`, at most."""

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A model that may be loaded.

    Attributes:
        files: where it is.
        compiled: whether it is an engine compiled ahead, which has no weights to look at.
        declared: quantization that its files declare.
        checkpoint: its tensors and its trace; None for a compiled engine.
        recipe: the recipe asked for; None for "none".
        limit: tokens it was trained, or compiled, for.
        config: its config.json.
    """

    files: ModelFiles
    compiled: bool
    declared: Declared
    checkpoint: Checkpoint | None
    recipe: ResolvedRecipe | None
    limit: int | None
    config: Mapping[str, Any]


def find_target(spec: EngineSpec, options: TensorRTOptions, resources: Resources) -> Target:
    """Find and check a model.

    Raises:
        UsageError: no such model, or one that TensorRT-LLM cannot read.
        DataError, IdentityMismatchError, RecipeError: as for `read_checkpoint`.
        EngineError: the hub cannot be reached.
    """
    path = Path(spec.model).expanduser()
    engines = sorted(path.glob("rank*.engine")) if path.is_dir() else []
    if engines:
        return _compiled(path.resolve(), engines, spec.recipe)
    files = find_model(spec.model, resources, revision=options.revision, kinds=("original", "exported"))
    if files.gguf is not None:
        raise UsageError(
            f"{files.name}: TensorRT-LLM does not read GGUF files; next step: a folder with safetensors, or adapter: "
            "llama_cpp"
        )
    found = read_checkpoint(files, spec.recipe)
    config = read_config(files.folder)
    return Target(
        files=files,
        compiled=False,
        declared=found.declared,
        checkpoint=found,
        recipe=found.recipe,
        limit=_limit(config),
        config=config,
    )


def _compiled(folder: Path, engines: list[Path], recipe_name: str) -> Target:
    config = read_config(folder)
    inside, built = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(inside, Mapping) or not isinstance(built, Mapping):
        raise UsageError(f"{folder / 'config.json'}: no pretrained_config and build_config; is this a compiled engine?")
    quantization = inside.get("quantization") or {}
    layers = inside.get("num_hidden_layers")
    if recipe_name != "none" and not isinstance(layers, int):
        raise UsageError(f"{folder / 'config.json'}: no num_hidden_layers, so a recipe cannot be compared with it")
    weights = digest([[engine.name, file_sha256(engine)] for engine in engines])
    return Target(
        files=ModelFiles(name=folder.name, folder=folder, gguf=None, source="local", weights_sha256=weights),
        compiled=True,
        declared=Declared(
            algorithm=str(quantization.get("quant_algo") or NONE),
            kv_cache=str(quantization.get("kv_cache_quant_algo") or NONE),
            group_size=quantization.get("group_size"),
            excluded=tuple(quantization.get("exclude_modules") or ()),
            method="tensorrt_llm",
        ),
        checkpoint=None,
        recipe=None if recipe_name == "none" else resolve_recipe(load_recipe(recipe_name), int(layers or 0)),
        limit=_limit(built),
        config=config,
    )


def _limit(config: Mapping[str, Any]) -> int | None:
    for place in (config, config.get("text_config") or {}):
        for name in _LIMITS:
            value = place.get(name)
            if isinstance(value, int) and value > 0:
                return value
    return None
