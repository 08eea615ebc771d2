"""What this version can do, and which names it has: read from `tensorrt_api.yaml`, which comes from NVIDIA's lists."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from . import __version__

VERSION = Version(__version__)
API: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parents[1] / "tensorrt_api.yaml").read_text())
REQUIRED = "required"


def since(version: str) -> bool:
    return Version(version) <= VERSION


def column() -> str:
    """The newest list that is not newer than this version; the oldest for what is older still."""
    known = [name for name, about in API["versions"].items() if since(about["from"])]
    return known[-1] if known else next(iter(API["versions"]))


def listed(kind: str, version: str = "") -> dict[str, tuple[Any, Any]]:
    """Names of a class or a request in a list, with type (`Any` where it is one of the library's own) and default."""
    wanted = version or column()
    return {
        name: (_type(type_), default)
        for name, (type_, default, _, versions) in API[kind].items()
        if wanted in str(versions).split()
    }


def layout() -> str:
    """Which layout `prompt_logprobs` has."""
    return "C" if since("1.3.0rc11") else "B" if since("1.3.0rc3") else "A"


def logprobs_limit() -> int | None:
    """Most log-probabilities a request may ask for; None for no limit."""
    return 100 if since("1.3.0") else 20 if since("1.3.0rc11") else None


def _type(text: str) -> Any:
    try:
        return eval(text, {**vars(typing), "NoneType": type(None)})
    except (NameError, AttributeError, SyntaxError):
        return Any
