"""Everything known about a checkpoint before it is loaded, and everything that speaks against it.

In: files of a model, a recipe. Out: `Checkpoint`, or `RecipeError` with every fault.
Must not depend on: engines.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evalkit.adapters.checkpoint.declared import NONE, Declared, layer_count, read_declared
from evalkit.adapters.checkpoint.resolved import folder_facts, refuse_differences
from evalkit.adapters.checkpoint.stored import Stored, declaration_faults, label_faults, layer_faults, read_stored
from evalkit.adapters.source import ModelFiles, file_sha256
from evalkit.errors import DataError, EngineError, IdentityMismatchError, RecipeError
from evalkit.recipes import ResolvedRecipe, load_recipe, resolve_recipe
from evalkit.records import build, parse_object

# The trace of a checkpoint: which model and recipe it was made from, and the digest of every file.
#
# `evalkit quantize` writes the file, so that what an engine serves can be traced to what was certified. It holds no
# clock reading and no path: the same model, recipe and versions give the same bytes.


TRACE_FILE = "evalkit.json"

FORMAT = 2

_WITHOUT_FACTS = 1
"""Records of this format say nothing of what the source was resolved to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """What `evalkit.json` says.

    Attributes:
        format: `FORMAT`; 1 in files of before, whose `facts` are empty.
        evalkit: version that wrote it.
        source: the model before: name, digests of weights, tokenizer and chat template, type of its numbers.
        recipe: name, digest and document of the resolved recipe.
        quantization: read back from the model in memory, as in an identity.
        declared: what the exported files declare.
        stored: what the exported tensors show.
        quantizers: every quantizer before its weights were packed.
        exported: how far the packed model's answers lie from those of the model that was packed.
        versions: package to version.
        weights_sha256: digest of the packed weights, made like that of any folder.
        files: name to digest of every other file.
        warnings: what the packed model lacks.
        facts: what the library that quantized it took the model and its tokenizer to be (`resolved`); whoever loads the
            folder compares them with what its own library makes of the same files.
    """

    format: int = FORMAT
    evalkit: str
    source: Mapping[str, Any]
    recipe: Mapping[str, Any]
    quantization: Mapping[str, Any]
    declared: Mapping[str, Any]
    stored: Mapping[str, Any]
    quantizers: Sequence[Mapping[str, Any]]
    exported: Mapping[str, Any]
    versions: Mapping[str, str]
    weights_sha256: str
    files: Mapping[str, str]
    warnings: Sequence[str] = field(default_factory=tuple)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return `evalkit.json`: sorted keys, indented for people."""
        return json.dumps(asdict(self), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it."""
        return {
            "evalkit": self.evalkit,
            "source": self.source["model"],
            "source_weights_sha256": self.source["weights_sha256"],
            "recipe": self.recipe["name"],
            "recipe_sha256": self.recipe["sha256"],
            "calibration": self.quantization.get("calibration"),
        }


def read_trace(folder: Path) -> Trace | None:
    """Read a checkpoint's trace; None where it has none.

    Raises:
        DataError: not JSON, another format, or an unknown or missing field.
    """
    path = folder / TRACE_FILE
    if not path.exists():
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    row = parse_object(text, str(path))
    if row.get("format") not in (FORMAT, _WITHOUT_FACTS) or (row["format"] == FORMAT and not row.get("facts")):
        raise DataError(f"{path}: format {row.get('format')!r} is not {FORMAT}; read it with the evalkit that wrote it")
    return build(Trace, row)


def folder_files(folder: Path) -> dict[str, str]:
    """Return the digest of every file of a folder but the trace itself, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != TRACE_FILE)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def check_files(folder: Path, trace: Trace, weights_sha256: str) -> None:
    """Check that a checkpoint is still what was written.

    Args:
        folder: the checkpoint.
        trace: its trace.
        weights_sha256: digest of the weights as found, so that they are read once.

    Raises:
        IdentityMismatchError: names every file that changed, is missing or was added.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.is_file() and path.name != TRACE_FILE
    }
    kept = {name: sha for name, sha in trace.files.items() if not name.endswith(".safetensors")}
    faults = [f"{name} is missing" for name in sorted(trace.files.keys() - found.keys())]
    faults += [
        f"{name} was changed" for name in sorted(kept) if name in found and file_sha256(found[name]) != kept[name]
    ]
    faults += [
        f"{name} was added" for name in sorted(found.keys() - trace.files.keys()) if name.endswith(".safetensors")
    ]
    if weights_sha256 != trace.weights_sha256:
        faults.append("the weights were changed")
    if faults:
        raise IdentityMismatchError(
            f"{folder}: not what {TRACE_FILE} says was written: {'; '.join(faults)}. "
            "Next step: run evalkit quantize again, or remove the file to give up the trace"
        )


def trace_faults(trace: Trace, recipe_name: str, recipe_sha256: str) -> list[str]:
    """Compare a trace with the recipe asked for."""
    made_by, sha256 = trace.recipe["name"], str(trace.recipe["sha256"])
    if sha256 == recipe_sha256:
        return []
    asked = f"'{recipe_name}' ({recipe_sha256[:12]})"
    return [f"{TRACE_FILE} says that recipe '{made_by}' ({sha256[:12]}) made it; asked for is {asked}"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint that may be loaded.

    Attributes:
        files: where it is.
        declared: what its files declare.
        stored: what its tensors show.
        trace: where it comes from; None if nobody says.
        recipe: the recipe asked for; None for "none".
    """

    files: ModelFiles
    declared: Declared
    stored: Stored
    trace: Trace | None
    recipe: ResolvedRecipe | None

    @property
    def quantized(self) -> bool:
        """Whether its weights are codes."""
        return self.declared.algorithm != NONE

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it."""
        return {
            "declared": self.declared.record(),
            "stored": self.stored.record(),
            "trace": self.trace.record() if self.trace else None,
        }


def read_checkpoint(files: ModelFiles, recipe_name: str) -> Checkpoint:
    """Read a checkpoint and check it, without loading it.

    Raises:
        UsageError: unreadable files, or no such recipe.
        DataError: an unreadable trace.
        IdentityMismatchError: files differ from the trace.
        RecipeError: what is declared is not what is stored, or neither is what the recipe makes.
    """
    declared, held, trace = read_declared(files.folder), read_stored(files.folder), read_trace(files.folder)
    if trace is not None:
        check_files(files.folder, trace, files.weights_sha256)
    recipe = None if recipe_name == "none" else resolve_recipe(load_recipe(recipe_name), layer_count(files.folder))
    found = Checkpoint(files=files, declared=declared, stored=held, trace=trace, recipe=recipe)
    refuse(found, declaration_faults(declared, held))
    if recipe is not None and found.quantized:
        refuse(found, _recipe_faults(found, recipe))
    return found


def check_resolved(checkpoint: Checkpoint, tokenizer: Any, *, trust_remote_code: bool = False) -> None:
    """Check that the transformers of this process makes of a folder what the one did that quantized the model.

    Args:
        checkpoint: the folder; one without a record cannot be compared.
        tokenizer: as loaded in this process.
        trust_remote_code: as for any other loading of the folder.

    Raises:
        IdentityMismatchError: names every fact with both values.
        EngineError: transformers cannot read its configuration at all.
    """
    if checkpoint.trace is None or not checkpoint.trace.facts:
        return
    from transformers import __version__ as version  # noqa: PLC0415 - optional and slow to import

    reader, writer = f"transformers {version}", f"transformers {checkpoint.trace.versions.get('transformers', '?')}"
    try:
        found = folder_facts(checkpoint.files.folder, tokenizer, trust_remote_code=trust_remote_code)
    except (AttributeError, ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise EngineError(
            f"{checkpoint.files.name}: {reader} cannot read its config.json: {type(error).__name__}: {error}; it was "
            f"written by {writer}"
        ) from error
    refuse_differences(checkpoint.files.name, checkpoint.trace.facts, found, reader, writer)


def refuse(checkpoint: Checkpoint, faults: list[str]) -> None:
    """Raise if there are faults.

    Raises:
        RecipeError: lists them.
    """
    if faults:
        raise RecipeError(
            "\n  - ".join([f"{checkpoint.files.name}: the checkpoint is not what it should be:", *faults])
        )


def _recipe_faults(found: Checkpoint, recipe: ResolvedRecipe) -> list[str]:
    traced = found.trace is not None and found.trace.recipe["sha256"] == recipe.sha256
    if traced:  # made by this very recipe and unchanged since: labels of its own are not needed
        return layer_faults(recipe, found.stored)
    faults = [] if found.trace is None else trace_faults(found.trace, recipe.name, recipe.sha256)
    return [
        *faults,
        *label_faults(recipe, "declared", found.declared.algorithm, found.declared.kv_cache),
        *layer_faults(recipe, found.stored),
    ]


__all__ = ["TRACE_FILE", "Checkpoint", "read_checkpoint", "refuse"]
