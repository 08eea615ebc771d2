"""From a specification to an engine that runs a model as it is stored.

In: an engine specification. Out: a `CausalEngine`.
May not know: recipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.adapters.causal.engine import CausalEngine, answer_options
from evalkit.adapters.causal.identity import identify, stored_quantization
from evalkit.adapters.causal.loading import load_model
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.causal.selfcheck import agreed_path

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


def load_as_stored(spec: EngineSpec, options: CausalOptions, resources: Resources) -> CausalEngine:
    """Load a model without changing it.

    Raises:
        UsageError: an option is wrong or the files would be misread.
        EngineError: the model cannot be loaded.
    """
    loaded = load_model(spec, options, resources)
    path = agreed_path(loaded.model, options.scoring)
    quantization = stored_quantization(loaded)
    identity = identify(
        "hf",
        loaded,
        fidelity="dequantised" if quantization.get("expanded") else "engine",
        quantization=quantization,
        options=answer_options(loaded, options, path),
    )
    return CausalEngine(loaded, identity, options, path)
