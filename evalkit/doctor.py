"""What works on this machine, and the next step for each gap.

In: an asset store and the folders that runs and downloads will use. Out: findings, one a line.
May not know: how to load an engine; it looks at package metadata and never imports a backend.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from evalkit import __version__
from evalkit.adapters.processor import processor
from evalkit.assets import AssetStore
from evalkit.records import processor_line

DISTRIBUTION = "evalkit-quant"

_REQUIREMENT = re.compile(
    r"""^(?P<name>[\w.-]+)\s*(?:\[(?P<extras>[^]]*)\])?[^;]*;.*\bextra\s*==\s*["'](?P<of>[\w-]+)["']"""
)

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
    yield from _extras()
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
    yield Finding(area="machine", name="processor", state="ok", seen=processor_line(processor()))


def extras_of(requirements: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return each extra with the packages it brings, those of other extras that it names included.

    >>> lines = ['torch>=2.8; extra == "hf"', 'evalkit-quant[hf]; extra == "modelopt"', 'click>=8']
    >>> extras_of(lines)
    {'hf': ('torch',), 'modelopt': ('torch',)}
    """
    direct: dict[str, list[tuple[str, list[str]]]] = {}
    for found in filter(None, map(_REQUIREMENT.match, requirements)):
        named = [one.strip() for one in (found["extras"] or "").split(",") if one.strip()]
        direct.setdefault(found["of"], []).append((found["name"], named))

    def packages(extra: str, above: frozenset[str]) -> list[str]:
        inner = above | {extra}
        return [
            package
            for name, named in direct.get(extra, ())
            for package in (
                [one for other in named if other not in inner for one in packages(other, inner)]
                if name == DISTRIBUTION
                else [name]
            )
        ]

    return {extra: tuple(dict.fromkeys(packages(extra, frozenset()))) for extra in direct}


def _extras() -> Iterator[Finding]:
    """Look at every extra that the installed distribution declares."""
    try:
        found = extras_of(metadata.requires(DISTRIBUTION) or ())
    except metadata.PackageNotFoundError:
        yield Finding(
            area="extra",
            name=DISTRIBUTION,
            state="gap",
            seen="the distribution is not installed, so its extras are unknown",
            next_step="pip install evalkit-quant, or pip install --editable . in a checkout",
        )
        return
    for extra, packages in found.items():
        yield _extra(extra, packages)


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
