"""What works on this machine, and the next step for each gap.

In: an asset store and the folders that runs and downloads will use. Out: findings, one a line.
May not know: how to load an engine; it looks at package metadata and never imports a backend.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from evalkit import __version__
from evalkit.assets import AssetStore

EXTRAS: Mapping[str, Sequence[str]] = {
    "hf": ("torch", "transformers", "accelerate", "gguf", "lm-eval"),
    "modelopt": ("nvidia-modelopt", "requests"),
    "server": ("httpx",),
    "llama": ("xllamacpp",),
}
"""Extra of this distribution to the packages it brings."""

FREE_BYTES_ADVISED = 4 * 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: "machine", "extra", "gpu", "asset" or "folder".
        name: what was looked at.
        state: "ok", "gap" (something will not work until `next_step` is done) or "note".
        seen: what was found.
        next_step: what to do about a gap; "" otherwise.
    """

    area: str
    name: str
    state: Literal["ok", "gap", "note"]
    seen: str
    next_step: str = ""


def examine(assets: AssetStore, folders: Mapping[str, Path], *, online: bool = True) -> Iterator[Finding]:
    """Yield findings about this machine.

    Args:
        assets: where models and data sets come from.
        folders: name to folder that will be written ("outputs", "cache").
        online: also try each source of each asset, which may take seconds.
    """
    yield from _machine()
    for extra, packages in EXTRAS.items():
        yield _extra(extra, packages)
    yield _gpu()
    for name, folder in folders.items():
        yield _folder(name, folder)
    if online:
        yield from _assets(assets)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding(area="machine", name="evalkit", state="ok", seen=__version__)
    yield Finding(
        area="machine",
        name="python",
        state="ok",
        seen=f"{platform.python_version()} on {platform.system()} {platform.machine()}, {cores} cores",
    )


def _extra(extra: str, packages: Sequence[str]) -> Finding:
    found, missing = [], []
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Finding(
            area="extra",
            name=extra,
            state="gap",
            seen=f"missing: {', '.join(missing)}",
            next_step=f"pip install 'evalkit-quant[{extra}]'",
        )
    return Finding(area="extra", name=extra, state="ok", seen=", ".join(found))


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(
            area="gpu",
            name="NVIDIA",
            state="note",
            seen="no NVIDIA driver: engines run on the CPU, recipes that need CUDA are refused by name",
        )
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            area="gpu", name="NVIDIA", state="gap", seen=f"nvidia-smi failed: {error}", next_step="repair the driver"
        )
    return Finding(area="gpu", name="NVIDIA", state="ok", seen="; ".join(out.split("\n")).strip("; "))


def _folder(name: str, folder: Path) -> Finding:
    existing = next((place for place in (folder, *folder.resolve().parents) if place.exists()), Path("/"))
    if not os.access(existing, os.W_OK):
        return Finding(
            area="folder",
            name=name,
            state="gap",
            seen=f"{folder} cannot be written",
            next_step=f"make {existing} writable or name another folder",
        )
    free = shutil.disk_usage(existing).free
    seen = f"{folder}: {free / 2**30:.1f} GiB free"
    if free < FREE_BYTES_ADVISED:
        return Finding(area="folder", name=name, state="gap", seen=seen, next_step="free some disk space first")
    return Finding(area="folder", name=name, state="ok", seen=seen)


def _assets(assets: AssetStore) -> Iterator[Finding]:
    for declared in assets.declared():
        tried = assets.reachable(declared.name)
        usable = [source for source, ok, _ in tried if ok]
        seen = "; ".join(f"{source}: {message}" for source, _, message in tried)
        if usable:
            yield Finding(area="asset", name=declared.name, state="ok", seen=seen)
        else:
            yield Finding(
                area="asset",
                name=declared.name,
                state="gap",
                seen=seen,
                next_step=f"name a local copy in the suite: assets: {{{declared.name}: [{{local: PATH}}]}}",
            )
