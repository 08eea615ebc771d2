"""Policy files: found by name or path, read and checked.

In: a name of the library, or a path. Out: a frozen `Policy`.
May not know: what a policy is used for.
"""

from __future__ import annotations

from pathlib import Path

from evalkit.configuration import read_yaml, validate
from evalkit.errors import UsageError, suggestion
from evalkit.policy.model import Policy

LIBRARY = Path(__file__).resolve().parent / "library"
"""Folder of the policies that come with evalkit."""


def policy_names(library: Path = LIBRARY) -> list[str]:
    """Return the names of all policies of the library, sorted."""
    return sorted(path.stem for path in library.glob("*.yaml"))


def policy_path(name_or_path: str | Path, *, library: Path = LIBRARY) -> Path:
    """Return the file of a policy: a name of the library, or a path (with a slash, or ending in `.yaml`).

    Raises:
        UsageError: there is no such policy.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise UsageError(f"policy {text!r}: there is no such file; next step: name one of the library or a file")
        return path
    names = policy_names(library)
    if text not in names:
        raise UsageError(f"unknown policy {text!r}{suggestion(text, names)}")
    return library / f"{text}.yaml"


def load_policy(name_or_path: str | Path, *, library: Path = LIBRARY) -> Policy:
    """Read a policy.

    Raises:
        UsageError: there is no such policy.
        ConfigError: lists every fault of the file.
    """
    path = policy_path(name_or_path, library=library)
    return validate(Policy, read_yaml(path), str(path))
