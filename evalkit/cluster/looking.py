"""What one node of a cluster is, looked at on the node itself.

In: what to look for. Out: one plain row.
Must not depend on: Ray, other nodes, evalkit itself: this module travels by value to nodes that may lack it, so it
uses the
standard library alone, and nothing of it is a class.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from importlib import metadata
from pathlib import Path
from typing import Any

_HUB = "https://huggingface.co"
_TIMEOUT_S = 10.0


def look(packages: list[str], cache: str, models: dict[str, str], urls: list[str]) -> dict[str, Any]:
    """Look at this machine.

    Args:
        packages: distributions whose versions are wanted.
        cache: folder for downloads; the user's own default if empty.
        models: engine to its model: a folder, or an id of the hub.
        urls: servers that must be reached from here.
    """
    folder = Path(cache or os.environ.get("EVALKIT_CACHE") or Path.home() / ".cache" / "evalkit").expanduser()
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "gpus": _gpus(),
        "cache": str(folder),
        "free_bytes": _free(folder),
        "models": {engine: _access(model) for engine, model in models.items()},
        "urls": {url: _reach(url) for url in urls},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[str] | str:
    """Return each GPU with its memory, or what went wrong in asking for them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi failed: {error}"
    return [line.strip() for line in out.splitlines() if line.strip()]


def _free(folder: Path) -> int | None:
    for place in (folder, *folder.absolute().parents):
        if place.exists():
            return shutil.disk_usage(place).free if os.access(place, os.W_OK) else None
    return None


def _access(model: str) -> list[str]:
    """Return ["ok" or "gap", what was seen] of a model."""
    if model.startswith(("/", "./", "../", "~")):
        place = Path(model).expanduser()
        return ["ok", f"{model} is here"] if place.exists() else ["gap", f"{model} is not on this node"]
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    snapshots = Path(home).expanduser() / f"models--{model.replace('/', '--')}" / "snapshots"
    if snapshots.is_dir() and any(snapshots.iterdir()):
        return ["ok", f"{model} is in the hub's cache of this node"]
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "on", "yes"):
        return ["gap", f"{model} is not in the hub's cache of this node, and HF_HUB_OFFLINE is set"]
    return _ask_hub(model)


def _ask_hub(model: str) -> list[str]:
    address = f"{os.environ.get('HF_ENDPOINT', _HUB).rstrip('/')}/api/models/{urllib.parse.quote(model)}"
    token = os.environ.get("HF_TOKEN")
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310 (the hub, or what HF_ENDPOINT names)
            return ["ok", f"{model} can be had from the hub, and is not cached here"]
    except urllib.error.HTTPError as error:
        return ["gap", f"the hub answers {error.code} for {model} ({'with' if token else 'without'} HF_TOKEN)"]
    except (OSError, ValueError) as error:
        return ["gap", f"{model} is not cached here, and the hub cannot be reached ({error})"]


def _reach(url: str) -> list[str]:
    place = urllib.parse.urlsplit(url)
    host, port = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), timeout=_TIMEOUT_S):
            return ["ok", f"{host}:{port} answers"]
    except OSError as error:
        return ["gap", f"{host}:{port} cannot be reached ({error})"]
