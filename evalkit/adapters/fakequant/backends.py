"""Ways of rounding that evalkit adds to ModelOpt.

In: a name and a function. Out: a quantization backend that quantizers may name.
May not know: which recipe names it, how it rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def register_backend(name: str, entry: Callable[[Any, Any], Any]) -> None:
    """Make a backend known to ModelOpt, once; `entry` is called with values and their quantizer."""
    from modelopt.torch.quantization.nn import (  # noqa: PLC0415 - slow to import
        is_registered_quant_backend,
        register_quant_backend,
    )

    if not is_registered_quant_backend(name):
        register_quant_backend(name, entry)
