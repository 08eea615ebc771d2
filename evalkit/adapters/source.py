"""Where a model's files are, and whether this adapter may read them.

In: the `model` word of an engine specification. Out: a folder (and GGUF file) on disk with the digest of its weights.
Must not depend on: torch; how weights are loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from evalkit.adapters.checkpoint.declared import QUANT_FILE, quantization_config, read_config, read_declared
from evalkit.adapters.checkpoint.stored import StoredTensor, read_file, shards, undeclared_faults
from evalkit.errors import EngineError, RecipeError, UsageError, suggestion
from evalkit.records import digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py")
_BLOCK = 1 << 22

Kind = Literal["original", "state", "exported"]
"""What a folder holds: weights as published, weights with ModelOpt's state beside them, or weights ModelOpt packed."""

STATE_FILE = "modelopt_state.pth"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """A model on disk.

    Attributes:
        name: asset name, hub id or folder name; never a path.
        folder: folder of the files.
        gguf: name of the GGUF file in the folder; None for safetensors.
        source: where the files came from, for people.
        weights_sha256: digest of the file (GGUF), or of the sorted names and digests of all safetensors files.
    """

    name: str
    folder: Path
    gguf: str | None
    source: str
    weights_sha256: str


def find_model(
    model: str, resources: Resources, *, revision: str | None = None, kinds: tuple[Kind, ...] = ("original",)
) -> ModelFiles:
    """Resolve an asset name, a local path or a hub id.

    Args:
        model: one of the three.
        resources: where assets come from.
        revision: commit or tag of a hub model.
        kinds: what the caller knows how to read; any other folder would be misread and is refused.

    Raises:
        UsageError: no such model, or files that would be misread.
        AssetError: a declared asset has no reachable source.
        EngineError: the hub cannot be reached.
    """
    names = [declared.name for declared in resources.assets.declared()]
    if model in names:
        asset = resources.assets.fetch(model)
        return _files(model, asset.path, f"{asset.source} {asset.revision}".strip(), kinds, known=asset.sha256)
    path = Path(model).expanduser()
    if path.exists():
        return _files(path.resolve().name, path, "local", kinds)
    if _HUB_ID.fullmatch(model):
        folder, commit = _download(model, revision, (*_HUB_FILES, *([STATE_FILE] if "state" in kinds else [])))
        return _files(model, folder, f"hub {commit}", kinds)
    raise UsageError(
        f"model {model!r} is no asset, no existing path and no hub id (owner/name){suggestion(model, names)}"
    )


def _files(name: str, path: Path, source: str, kinds: tuple[Kind, ...], known: str | None = None) -> ModelFiles:
    if path.is_file():
        if path.suffix != ".gguf":
            raise UsageError(
                f"{path}: a model file must be .gguf; for safetensors give the folder that holds config.json"
            )
        weights = known or file_sha256(path)
        return ModelFiles(name=name, folder=path.parent, gguf=path.name, source=source, weights_sha256=weights)
    if kind_of(path) in ("original", *kinds):  # the others are refused whatever their headers say
        check_headers(path)
    refuse_kinds(path, kinds)
    if not any(path.glob("*.safetensors")):
        found = sorted(item.name for item in path.glob("*.gguf"))
        hint = (
            f"next step: name the file {path / found[0]}" if found else "next step: convert the weights to safetensors"
        )
        raise UsageError(f"{path}: no *.safetensors file (pickled weights are never loaded); {hint}")
    return ModelFiles(name=name, folder=path, gguf=None, source=source, weights_sha256=stored_weights(path))


def stored_weights(path: Path) -> str:
    """Return the digest of the weights that lie in a folder, or in a GGUF file, whatever they are.

    Raises:
        UsageError: there are none.
    """
    if path.is_file():
        return file_sha256(path)
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{path}: no *.safetensors file; next step: name the folder of the checkpoint, or a GGUF file")
    return digest([[shard.name, file_sha256(shard)] for shard in files])


def check_headers(folder: Path) -> None:
    """Read the headers of the weights that would be loaded, and hold them against what the folder declares.

    Raises:
        UsageError: a Git LFS pointer, an empty, cut or damaged file, or no readable config.json.
        RecipeError: codes, scales or packed weights that nothing declares; a loader would run them as weights.
    """
    if (folder / STATE_FILE).exists() or not any(folder.glob("*.safetensors")):
        read_config(folder)
        return
    tensors: dict[str, StoredTensor] = {}
    for shard in shards(folder):
        tensors.update(read_file(shard))
    faults = undeclared_faults(read_declared(folder), tensors)
    if faults:
        raise RecipeError("\n  - ".join([f"{folder}: the checkpoint is not what it should be:", *faults]))


def kind_of(folder: Path) -> Kind:
    """Say what a folder holds.

    Raises:
        UsageError: no readable config.json.
    """
    if (folder / STATE_FILE).exists():
        return "state"
    method = str(quantization_config(folder).get("quant_method", ""))
    return "exported" if method.startswith("modelopt") or (folder / QUANT_FILE).exists() else "original"


def refuse_kinds(folder: Path, kinds: tuple[Kind, ...]) -> None:
    """Refuse a folder that would be loaded without its quantization, silently.

    Raises:
        UsageError: the folder holds another kind of checkpoint, or no readable config.json.
    """
    kind = kind_of(folder)
    if kind in kinds:
        return
    if kind == "state":
        raise UsageError(
            f"{folder}: {STATE_FILE} marks a ModelOpt state checkpoint, which transformers loads as a plain "
            "unquantized model; next step: give the original model and use adapter 'modelopt' with a recipe, or its "
            "option checkpoint: state, which restores it"
        )
    if kind == "exported":
        raise UsageError(
            f"{folder}: this is an exported ModelOpt checkpoint; transformers would skip its scales and run raw "
            "quantized codes as weights. Engines that read it: TensorRT-LLM and vLLM; next step: serve it with one of "
            "them, expand it by adapter 'modelopt' with the option checkpoint: exported, or give the original model "
            "and a recipe"
        )
    missing = STATE_FILE if "state" in kinds else QUANT_FILE
    raise UsageError(
        f"{folder}: no {missing}, so this is no {'state' if 'state' in kinds else 'exported'} checkpoint of ModelOpt; "
        "next step: leave out the option checkpoint"
    )


def file_sha256(path: Path) -> str:
    """Return the sha256 (64 hex digits) of a file."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def _download(model: str, revision: str | None, patterns: Sequence[str] = _HUB_FILES) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow to import, and only hub ids need it

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the client raises many unrelated types: HTTP, offline, missing repository
        raise EngineError(
            f"model {model!r} cannot be fetched from the hub: {type(error).__name__}: {error}; "
            "next step: check the name and the network, or give a local folder"
        ) from error
    return folder, folder.name
