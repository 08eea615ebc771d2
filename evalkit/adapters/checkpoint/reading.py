"""Everything known about a checkpoint before it is loaded, and everything that speaks against it.

In: files of a model, a recipe. Out: `Checkpoint`, or `RecipeError` with every fault.
May not know: engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evalkit.adapters.causal.source import ModelFiles
from evalkit.adapters.checkpoint.declared import NONE, Declared, layer_count, read_declared
from evalkit.adapters.checkpoint.expected import declaration_faults, label_faults, layer_faults
from evalkit.adapters.checkpoint.stored import Stored, read_stored
from evalkit.adapters.checkpoint.trace import TRACE_FILE, Trace, check_files, read_trace, trace_faults
from evalkit.errors import RecipeError
from evalkit.recipes import ResolvedRecipe, load_recipe, resolve_recipe


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
