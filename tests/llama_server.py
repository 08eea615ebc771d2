"""llama.cpp's own HTTP server, started as the adapter `llama_cpp` starts it, with a key that tests know.

Tests import it by its name: pytest has this folder on its path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVE = Path(__file__).resolve().parents[1] / "evalkit" / "adapters" / "llama" / "serve.py"
KEY = "known-to-tests"


@contextmanager
def llama_server(model: Path, alias: str, *, context: int = 512) -> Iterator[str]:
    """Serve a GGUF file; yield the address."""
    asked = {"model": str(model), "alias": alias, "key": KEY, "context": context, "parallel": 1, "threads": 1} | {
        "kv_cache": "f16",
        "flash_attention": "auto",
        "gpu_layers": 0,
    }
    with subprocess.Popen(
        [sys.executable, str(SERVE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "GGML_NO_BACKTRACE": "1"},
    ) as process:
        process.stdin.write(json.dumps(asked) + "\n")
        process.stdin.flush()
        said = json.loads(process.stdout.readline())
        try:
            yield said["address"]
        finally:
            process.stdin.close()
            process.wait(20)
