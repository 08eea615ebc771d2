"""What a night ran in, beside the engine's own identity.

In: this machine. Out: names and versions, as text.
May not know: which of them matter; that is seen when an outcome changes.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata

from evalkit import __version__

PACKAGES = (
    "torch",
    "transformers",
    "nvidia-modelopt",
    "lm-eval",
    "tensorrt-llm",
    "vllm",
    "sglang",
    "flashinfer-python",
    "nvidia-cudnn-cu12",
    "nvidia-nccl-cu12",
    "triton",
    "numpy",
)
"""Distributions whose version is noted where they are installed."""


def environment(**given: str | None) -> dict[str, str]:
    """Return Python, system, GPU driver and package versions; `given` adds what only the caller knows."""
    found = {
        "evalkit": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        **_driver(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**found, **{name: value for name, value in given.items() if value}}


def _driver() -> dict[str, str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return {}
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {"driver": "nvidia-smi failed"}
    rows = sorted({line.strip() for line in out.splitlines() if line.strip()})
    return {"driver": "; ".join(rows)} if rows else {}
