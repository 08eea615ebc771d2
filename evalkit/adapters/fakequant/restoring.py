"""Restores a ModelOpt state checkpoint: plain weights, quantizer scales beside them, and a state file.

In: an engine specification, checked options. Out: the quantized model, and what was read back from it.
May not know: tasks, scoring, generation.

A state file is a pickle. It is read with torch's restricted reader, which knows tensors and plain values and runs no
code; a file that holds more is refused unless the user vouches for it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from evalkit.adapters.causal.loading import LoadedModel
from evalkit.adapters.causal.source import STATE_FILE, file_sha256
from evalkit.adapters.fakequant import rowwise
from evalkit.adapters.fakequant.quantize import accept, logits_of, probe_tokens, silent
from evalkit.errors import RecipeError, UsageError
from evalkit.recipes import ResolvedRecipe

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
