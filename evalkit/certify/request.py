"""What was asked for of an engine, so that a finished run is reused without loading the engine again.

In: an engine specification and the definitions it will meet. Out: a plain mapping for `Manifest.requested`.
May not know: what was loaded; that is the identity, read back by the adapter when the run began.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from evalkit import __version__
from evalkit.assets import AssetStore
from evalkit.recipes import load_recipe
from evalkit.suite import EngineSpec

BACKENDS = ("torch", "transformers", "nvidia-modelopt", "lm-eval", "tensorrt-llm", "vllm", "xllamacpp")

_HASHED_BYTES = 1 << 28
"""Option files above this size are known by size and modification time, as model folders are."""


def requested(spec: EngineSpec, assets: AssetStore) -> dict[str, Any]:
    """Return everything known before loading that can change an answer.

    Two equal requests on one machine load the same engine; the digest of the model is the declared one for an asset,
    and names, sizes and times of modification and change of the files for a folder (hashing terabytes would take longer
    than asking).

    Raises:
        ConfigError: the recipe file is wrong.
    """
    return {
        "engine": spec.model_dump(mode="json"),
        "model": _model(spec.model, assets),
        "recipe_sha256": None if spec.recipe == "none" else load_recipe(spec.recipe).sha256,
        "option_files": _option_files(spec.options),
        "versions": {"evalkit": __version__, **_versions()},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _option_files(value: Any) -> dict[str, Any]:
    """Return the files that options name (recorded replies, calibration texts) with what identifies their content."""
    if isinstance(value, Mapping):
        return {name: found for inner in value.values() for name, found in _option_files(inner).items()}
    if isinstance(value, (list, tuple)):
        return {name: found for inner in value for name, found in _option_files(inner).items()}
    if not isinstance(value, str) or not _names_a_file(value):
        return {}
    stat = Path(value).stat()
    if stat.st_size > _HASHED_BYTES:
        return {value: _stamp(stat)}
    return {value: hashlib.sha256(Path(value).read_bytes()).hexdigest()}


def _names_a_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # a sentence is too long for a name, or holds what no name may
        return False


def _versions() -> dict[str, str]:
    found = {}
    for package in BACKENDS:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _model(model: str, assets: AssetStore) -> Mapping[str, Any]:
    if model in {declared.name for declared in assets.declared()}:
        return {"asset": model, "sha256": assets.declaration(model).sha256}
    folder = Path(model)
    if not folder.exists():
        return {"name": model}
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    stats = [(str(path.relative_to(folder.parent)), path.stat()) for path in files]
    return {"files": [[name, *_stamp(stat)] for name, stat in stats]}


def _stamp(stat: os.stat_result) -> list[int]:
    """Return what tells a file from another one in its place: its time of modification can be set, that of change not.

    Unpacking an archive gives every file the size and the time of modification that the archive says.
    """
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
