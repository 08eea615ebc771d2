"""GGUF models in llama.cpp, by the wheel `xllamacpp`: real low-precision kernels, on a CPU too.

In: an engine specification with a GGUF asset or file. Out: a `ServerEngine` with a server process of its own.
Must not depend on: tasks, recipes: a GGUF file is quantized by what is in it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.llama.options import LlamaOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "GGUF models in llama.cpp (wheel xllamacpp), real low-precision kernels on CPU or GPU"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Load a GGUF model.

    Raises:
        UsageError: a recipe was asked for, an option is wrong, or there is no such file.
        MissingExtraError: xllamacpp or httpx is not installed.
        EngineError: llama.cpp cannot load the file, or serves something else.
    """
    for package in ("xllamacpp", "httpx"):
        if find_spec(package) is None:
            raise MissingExtraError("adapter 'llama_cpp'", package, "llama")
    if spec.recipe != "none":
        raise UsageError(
            f"engine '{spec.name}': adapter 'llama_cpp' runs a GGUF file as it is, not recipe {spec.recipe!r}; "
            "next step: recipe: none, and the file of the quantization you mean"
        )
    options: LlamaOptions = read_options(LlamaOptions, spec)
    from evalkit.adapters.llama.assembly import load_gguf  # noqa: PLC0415 - httpx is optional

    return load_gguf(spec, options, resources)
