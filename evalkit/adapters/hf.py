"""Unquantized models (and checkpoints transformers can run itself) through transformers, on CPU or CUDA.

In: an engine specification with `recipe: none`. Out: a `CausalEngine`.
Must not depend on: recipes, tasks.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.causal.options import CausalOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "models through transformers on CPU or CUDA, as they are stored"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Load a model.

    Raises:
        UsageError: a recipe was asked for, an option is wrong, or the files would be misread.
        MissingExtraError: torch or transformers is not installed.
        EngineError: the model cannot be loaded.
    """
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            raise MissingExtraError("adapter 'hf'", package, "hf")
    if spec.recipe != "none":
        raise UsageError(
            f"engine '{spec.name}': adapter 'hf' runs models as they are stored, not recipe {spec.recipe!r}; "
            "next step: adapter: modelopt"
        )
    options: CausalOptions = read_options(CausalOptions, spec)
    from evalkit.adapters.causal.engine import load_as_stored  # noqa: PLC0415 - torch is optional and slow to import

    return load_as_stored(spec, options, resources)
