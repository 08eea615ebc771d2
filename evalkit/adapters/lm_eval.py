"""Any model that lm-eval registers (`hf`, `vllm`, `local-completions`, ...), behind evalkit's contract.

In: an engine specification whose `model` is lm-eval's name of a model. Out: a `HarnessEngine`.
Must not depend on: tasks; which backend it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.harness.options import HarnessOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "any model that lm-eval registers, by lm-eval's own code (model: hf, options.model_args)"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Build a model by lm-eval.

    Raises:
        UsageError: a recipe was asked for, an option is wrong, or lm-eval registers no such model.
        MissingExtraError: lm-eval is not installed.
        EngineError: lm-eval cannot build the model, or the model does not say how it splits text into tokens.
    """
    if find_spec("lm_eval") is None:
        raise MissingExtraError("adapter 'lm_eval'", "lm-eval", "hf")
    if spec.recipe != "none":
        raise UsageError(
            f"engine '{spec.name}': adapter 'lm_eval' runs models as lm-eval loads them, not recipe {spec.recipe!r}; "
            "next step: adapter: modelopt"
        )
    options: HarnessOptions = read_options(HarnessOptions, spec)
    from evalkit.adapters.harness.engine import load_harness  # noqa: PLC0415 - lm-eval is optional and slow to import

    return load_harness(spec, options, resources)


def reusable(options: Mapping[str, Any]) -> bool:
    """Say whether a finished run may be reused without building the model: not if a server has it, unless declared."""
    arguments = options.get("model_args")
    served = isinstance(arguments, Mapping) and "base_url" in arguments
    return not served or bool(options.get("weights_sha256"))
