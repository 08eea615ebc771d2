"""Options of the adapter `llama_cpp`.

In: the `options` mapping of an engine specification. Out: checked options.
Must not depend on: GGUF.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evalkit.configuration import Section


class LlamaOptions(Section):
    """How llama.cpp runs a model.

    Attributes:
        max_length: tokens a request may need, answer included; None is what the model was trained for, up to 8192.
        threads: processor threads; None leaves llama.cpp's choice. More threads than idle cores make it many times
            slower. Not part of the identity: it moves rounding only.
        parallel: requests under way at once, each with a context of its own. Not part of the identity.
        kv_cache: type of the key-value cache.
        flash_attention: llama.cpp's fused attention; "auto" is its own choice.
        gpu_layers: layers kept on the GPU; None for all of them where there is one, and none with device "cpu".
        top_logprobs: candidates asked for at each position.
        timeout_s: seconds without a byte after which a request is given up and tried again.
        start_timeout_s: seconds the model may take to load.
    """

    max_length: Annotated[int, Field(ge=2)] | None = None
    threads: Annotated[int, Field(ge=1)] | None = None
    parallel: int = Field(default=1, ge=1)
    kv_cache: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] = "f16"
    flash_attention: Literal["auto", "on", "off"] = "auto"
    gpu_layers: Annotated[int, Field(ge=0)] | None = None
    top_logprobs: int = Field(default=100, ge=4)
    timeout_s: float = Field(default=600.0, gt=0)
    start_timeout_s: float = Field(default=600.0, gt=0)
