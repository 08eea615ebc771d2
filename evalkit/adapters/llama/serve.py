"""The server process: llama.cpp's own HTTP server on a loopback port, for as long as its parent lives.

In: one line of JSON on stdin (model, limits, key). Out: one line of JSON on stdout (address, or what went wrong).
Must not depend on: evalkit; it is run as a program, and imports nothing but the wheel.

llama.cpp ends the whole process where an assertion fails, so it must not be ours. The process ends when stdin does,
which is when its parent ends, however that happens.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    try:
        import xllamacpp  # noqa: PLC0415 - its failure to load is reported like any other

        server = xllamacpp.Server(_parameters(xllamacpp, asked))
        said = {"address": server.listening_address, "devices": xllamacpp.get_device_info()}
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said, default=str), flush=True)
    if "error" not in said:
        sys.stdin.read()
    os._exit(0)  # llama.cpp's threads are not waited for


def _parameters(xllamacpp: Any, asked: dict[str, Any]) -> Any:
    found = xllamacpp.CommonParams()
    found.model.path = asked["model"]
    found.model_alias = {asked["alias"]}
    found.api_keys = [asked["key"]]
    found.hostnames, found.port, found.cors_origins = ["127.0.0.1"], 0, ""
    found.n_ctx, found.n_parallel = asked["context"], asked["parallel"]
    found.fit_params = False  # a context that was made smaller to fit would cut prompts
    found.ctx_shift = False
    found.warmup, found.verbosity = False, 1
    found.use_jinja = True
    found.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    found.cache_type_k = found.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{asked['kv_cache'].upper()}")
    attention = {"auto": "AUTO", "on": "ENABLED", "off": "DISABLED"}[asked["flash_attention"]]
    found.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{attention}")
    if asked["gpu_layers"] is not None:
        found.n_gpu_layers = asked["gpu_layers"]
    if asked["threads"] is not None:
        found.cpuparams.n_threads = found.cpuparams_batch.n_threads = asked["threads"]
    return found


if __name__ == "__main__":
    main()
