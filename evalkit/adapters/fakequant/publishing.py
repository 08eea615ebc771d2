"""Writes a quantized model as a checkpoint that TensorRT-LLM and vLLM serve, with a trace of where it comes from.

In: an engine specification with a recipe, an output folder. Out: the folder with `evalkit.json`, or nothing at all.
Must not depend on: tasks; who will serve it.

ModelOpt packs the weights. It does not pack what was simulated bit for bit: bf16 weights are rounded twice, and AWQ's
scales are averaged over layers that share an input. So the checkpoint is read back and compared, and the trace says how
far it lies from the simulation.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from evalkit import __version__
from evalkit.adapters.causal.loading import LoadedModel, choose_device, load_tokenizer, quiet_loading
from evalkit.adapters.checkpoint.reading import TRACE_FILE, Checkpoint, Trace, folder_files, read_checkpoint, refuse
from evalkit.adapters.checkpoint.resolved import (
    config_facts,
    folder_facts,
    generation_of,
    refuse_differences,
    tokenizer_facts,
    write_for_both,
)
from evalkit.adapters.checkpoint.stored import label_faults, layer_faults, lost_in_export, not_loaded
from evalkit.adapters.fakequant.assembly import calibrate_with, layers_of, load_unquantized
from evalkit.adapters.fakequant.exported import FORMATS, load_expanded, quantize_activations
from evalkit.adapters.fakequant.options import ModelOptOptions, refuse_device
from evalkit.adapters.fakequant.quantize import apply_recipe, logits_of, probe_tokens, silent
from evalkit.adapters.fakequant.readback import describe_quantizers
from evalkit.adapters.memory import ran_out_of_memory
from evalkit.adapters.source import find_model
from evalkit.errors import EngineError, RecipeError, UsageError
from evalkit.recipes import ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import text_digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

_COMPARED = 4
"""Rows of calibration text on which the packed model is compared with the simulated one."""

_VERSIONS = ("torch", "transformers", "nvidia-modelopt")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """What is kept of the simulated model, which cannot run once it is packed."""

    source: Mapping[str, Any]
    facts: Mapping[str, Any]
    device: str
    quantizers: list[dict[str, Any]]
    simulated: Any


def publish(spec: EngineSpec, options: ModelOptOptions, resources: Resources, output: Path) -> Trace:
    """Quantize a model and write it to a folder that does not exist yet, or is empty.

    Raises:
        UsageError: the folder holds something, an option is wrong, or the recipe does not run on the device.
        RecipeError: what was made, or what was written, is not what the recipe declares.
        EngineError: the model cannot be loaded, or ModelOpt cannot write it.
    """
    refuse_occupied(output)
    recipe = load_recipe(spec.recipe)
    refuse_device(recipe, choose_device(spec.device))
    loaded = load_unquantized(spec, options, resources)
    resolved = resolve_recipe(recipe, layers_of(loaded))
    _refuse_indivisible(resolved, loaded)
    calibration = calibrate_with(recipe, loaded, options)
    quantization = apply_recipe(loaded.model, resolved, calibration, fold=False)
    _refuse_padding(resolved, quantization)
    probe = probe_tokens(loaded.model, calibration)
    rows = torch.tensor(calibration.rows[:_COMPARED]).to(probe.device) if calibration else probe
    made = _Made(
        source=_source(loaded),
        facts=_facts(loaded),
        device=str(probe.device),
        quantizers=describe_quantizers(loaded.model),
        simulated=logits_of(loaded.model, rows).cpu(),
    )
    with building(output) as folder:
        _export(loaded, folder, progress=resources.progress)
        del loaded
        gc.collect()
        checkpoint = _read_back(folder, resolved, resources)
        _refuse_another(checkpoint, options, made)
        trace = Trace(
            evalkit=__version__,
            source=made.source,
            recipe={"name": resolved.name, "sha256": resolved.sha256, "document": _text_keys(resolved.document)},
            quantization=quantization,
            declared=checkpoint.declared.record(),
            stored=checkpoint.stored.record(),
            quantizers=made.quantizers,
            exported=_compare(checkpoint, options, rows, made),
            versions={name: metadata.version(name) for name in _VERSIONS},
            weights_sha256=checkpoint.files.weights_sha256,
            files=folder_files(folder),
            warnings=[*lost_in_export(resolved), *not_loaded(checkpoint.declared.algorithm)],
            facts=made.facts,
        )
        (folder / TRACE_FILE).write_text(trace.to_json(), encoding="utf-8")
    return trace


def refuse_occupied(output: Path) -> None:
    """Refuse a folder that holds something; nothing is ever written over.

    Raises:
        UsageError: it does, or it is a file.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: exists and is not empty; next step: name a new folder with --output")


@contextmanager
def building(output: Path) -> Iterator[Path]:
    """Yield a folder beside `output` that takes its place at the end; after an error nothing is left of it.

    Raises:
        EngineError: it cannot be written.
    """
    folder = output.parent / f".{output.name}.{os.getpid()}.part"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mode = folder.stat().st_mode & 0o666
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():  # safetensors makes files that only their owner may read; a server may be somebody else
                path.chmod(mode)
        if output.exists():
            output.rmdir()
        folder.rename(output)
    except OSError as error:
        raise EngineError(f"{output}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _export(loaded: LoadedModel, folder: Path, *, progress: bool) -> None:
    """Pack the model; it cannot run afterwards."""
    from modelopt.torch.export import export_hf_checkpoint  # noqa: PLC0415 - slow to import

    model = loaded.model
    dtype = model.get_input_embeddings().weight.dtype
    if not model.config.architectures:
        kind = next(kind for kind in type(model).__mro__ if not kind.__module__.startswith("modelopt"))
        model.config.architectures = [kind.__name__]
    try:
        with quiet_loading(progress), silent():
            export_hf_checkpoint(model, dtype=dtype, export_dir=folder)
            loaded.tokenizer.save_pretrained(folder)
        write_for_both(None if loaded.files.gguf else loaded.files.folder, folder)
    except (AssertionError, KeyError, NotImplementedError, OSError, RuntimeError, TypeError, ValueError) as error:
        if ran_out_of_memory(error):
            raise
        raise EngineError(f"ModelOpt cannot write this model: {type(error).__name__}: {error}") from error
    if not any(folder.glob("*.safetensors")):
        raise EngineError("ModelOpt wrote no weights; it only warns where it does not know a model")


def _read_back(folder: Path, resolved: ResolvedRecipe, resources: Resources) -> Checkpoint:
    """Check that what was written declares and holds what the recipe makes."""
    files = find_model(str(folder.resolve()), resources, kinds=("exported",))
    checkpoint = replace(read_checkpoint(files, "none"), recipe=resolved)
    declared = checkpoint.declared
    labelled = resolved.expectation.declared
    faults = label_faults(resolved, "written", declared.algorithm, declared.kv_cache) if labelled else []
    refuse(checkpoint, [*faults, *layer_faults(resolved, checkpoint.stored)])
    return checkpoint


def _compare(checkpoint: Checkpoint, options: ModelOptOptions, rows: Any, made: _Made) -> dict[str, Any]:
    """Say how far the packed model's answers lie from the simulated one's.

    Returns:
        `read_back`, and if so: compared tokens, relative error of the logits, mean Kullback-Leibler divergence (nats),
        share of positions with the same likeliest token.

    Raises:
        RecipeError: the packed model has nothing to do with the simulated one.
    """
    if checkpoint.declared.algorithm not in FORMATS:
        return {"read_back": False, "reason": f"{checkpoint.declared.algorithm} cannot be expanded"}
    if options.device_map is not None:
        return {"read_back": False, "reason": "the model was spread over devices, and is expanded on one"}
    dtype, simulated = getattr(torch, made.source["dtype"]), made.simulated
    loaded, scales = load_expanded(checkpoint, options, dtype=dtype, device=made.device, progress=False)
    quantize_activations(loaded, checkpoint, scales)
    found = logits_of(loaded.model, rows).cpu()
    error = float((_centred(found) - _centred(simulated)).norm() / _centred(simulated).norm())
    if not error < 1.0:  # not a number, or further away than no answer at all
        raise RecipeError(
            f"recipe '{checkpoint.recipe.name if checkpoint.recipe else ''}': the written checkpoint has nothing to do "
            f"with the model it was made from (relative error of the logits {error:.3g}); ModelOpt cannot export it"
        )
    kept, packed = simulated.double().log_softmax(-1), found.double().log_softmax(-1)
    return {
        "read_back": True,
        "tokens": rows.numel(),
        "logits_relative_error": error,
        "mean_kl_nats": float((kept.exp() * (kept - packed)).sum(-1).mean()),
        "same_choice": float((kept.argmax(-1) == packed.argmax(-1)).float().mean()),
    }


def _centred(logits: Any) -> Any:
    return logits - logits.mean(-1, keepdim=True)


def _facts(loaded: LoadedModel) -> dict[str, Any]:
    generation = generation_of(transformers.__version__)
    return {**config_facts(loaded.model.config, generation), **tokenizer_facts(loaded.tokenizer)}


def _refuse_another(checkpoint: Checkpoint, options: ModelOptOptions, made: _Made) -> None:
    """Refuse files out of which the library that wrote them does not read the model that was quantized."""
    tokenizer = load_tokenizer(checkpoint.files, options)
    trusted = options.trust_remote_code
    found = folder_facts(checkpoint.files.folder, tokenizer, trust_remote_code=trusted)
    name = f"transformers {transformers.__version__}"
    refuse_differences(checkpoint.files.name, made.facts, found, name, name)


def _source(loaded: LoadedModel) -> dict[str, Any]:
    template = getattr(loaded.tokenizer, "chat_template", None)
    return {
        "model": loaded.files.name,
        "weights_sha256": loaded.files.weights_sha256,
        "tokenizer_sha256": text_digest(loaded.tokenizer_text),
        "chat_template_sha256": text_digest(str(template)) if template else None,
        "dtype": str(loaded.model.get_input_embeddings().weight.dtype).removeprefix("torch."),
    }


def _refuse_indivisible(recipe: ResolvedRecipe, loaded: LoadedModel) -> None:
    """Refuse blocks that do not divide a layer's rows; a calibration takes hours, and config.json says so before."""
    facts = config_facts(loaded.model.config, generation_of(transformers.__version__))
    for block in sorted(_blocks_of(recipe)):
        for name in ("hidden", "inner"):
            if isinstance(facts[name], int) and facts[name] % block:
                raise RecipeError(
                    f"recipe '{recipe.name}': its blocks of {block} do not divide the rows of {facts[name]} values of "
                    f"{loaded.files.name}, so they cannot be packed; next step: a recipe with smaller blocks, or with "
                    "one scale a tensor or channel"
                )


def _blocks_of(recipe: ResolvedRecipe) -> set[int]:
    """Return the sizes of static blocks of all weights."""
    found: set[int] = set()
    for entry in recipe.document["quantize"]["quant_cfg"]:
        if entry.get("quantizer_name") != "*weight_quantizer":
            continue
        cfg = entry.get("cfg") or {}
        for one in cfg if isinstance(cfg, list) else [cfg]:
            blocks = one.get("block_sizes") or {}
            size = blocks.get(-1, blocks.get("-1"))
            if isinstance(size, int) and blocks.get("type") != "dynamic":
                found.add(size)
    return found


def _refuse_padding(recipe: ResolvedRecipe, quantization: Mapping[str, Any]) -> None:
    if quantization["padded_blocks"]:
        raise RecipeError(
            f"recipe '{recipe.name}': its blocks do not divide the rows of {quantization['padded_blocks']} weights, so "
            "they cannot be packed; next step: a recipe with smaller blocks, or with one scale a tensor or channel"
        )


def _text_keys(value: Any) -> Any:
    """Return a document whose keys are texts; JSON has no others."""
    if isinstance(value, Mapping):
        return {str(key): _text_keys(child) for key, child in value.items()}
    return [_text_keys(child) for child in value] if isinstance(value, (list, tuple)) else value
