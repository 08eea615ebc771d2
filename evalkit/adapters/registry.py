"""Adapters by name.

In: an engine specification. Out: a loaded engine.
Must not depend on: what any adapter does.

A word in a configuration is a file name in the code: `adapter: hf` is `evalkit/adapters/hf.py`. Other distributions
add adapters through the entry-point group `evalkit.adapters`; an entry point is a module with `load` and `SUMMARY`.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapters.base import Engine, Resources
from evalkit.errors import EngineError, UsageError, suggestion

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

GROUP = "evalkit.adapters"
_SUMMARY = re.compile(r"^SUMMARY = ", re.MULTILINE)


def adapter_names() -> dict[str, str]:
    """Return adapter name to one line about it; built-in ones first. No adapter is imported."""
    names = {path.stem: _summary(path) for path in _built_in()}
    for point in _external():
        names.setdefault(point.name, f"from {_distribution(point)}")
    return names


def load_engine(spec: EngineSpec, resources: Resources) -> Engine:
    """Load the engine a specification names.

    Raises:
        UsageError: no such adapter, or the specification is wrong.
        EngineError: an external adapter cannot be imported, or the engine cannot be loaded.
    """
    engine: Engine = _module(spec.adapter).load(spec, resources)
    return engine


def reusable(spec: EngineSpec) -> bool:
    """Say whether a finished run of this engine may be reused by what was asked for, without loading it again.

    An adapter whose engines are not known by what was asked for (another model may be served at the same address today)
    has a function `reusable(options) -> bool`.
    """
    try:
        module = _module(spec.adapter)
    except (UsageError, EngineError):
        return True  # its runs can be read although it cannot be loaded
    asked = getattr(module, "reusable", None)
    return bool(asked(spec.options)) if callable(asked) else True


def spec_at(spec: EngineSpec, url: str) -> EngineSpec:
    """Return the specification of the same model behind another address.

    An adapter whose engines are behind an address has a function `at(options, url) -> options`.

    Raises:
        UsageError: the adapter's engines are not, or nothing vouches that the model is the same.
    """
    at = getattr(_module(spec.adapter), "at", None)
    if not callable(at):
        raise UsageError(
            f"engine '{spec.name}': engines of adapter '{spec.adapter}' are not behind an address; next step: leave "
            f"out 'urls' under execution.engines.{spec.name}"
        )
    return spec.model_copy(update={"options": at(spec.options, url)})


def _module(name: str) -> Any:
    if name in {path.stem for path in _built_in()}:
        return import_module(f"evalkit.adapters.{name}")
    for point in _external():
        if point.name == name:
            return _imported(point)
    raise UsageError(f"unknown adapter {name!r}{suggestion(name, list(adapter_names()))}")


def _imported(point: EntryPoint) -> Any:
    try:
        module = point.load()
    except Exception as error:  # somebody else's code may raise anything
        raise EngineError(
            f"adapter '{point.name}' of package '{_distribution(point)}' ({point.value}) cannot be imported: "
            f"{type(error).__name__}: {error}; next step: repair or uninstall that package"
        ) from error
    if not callable(getattr(module, "load", None)):
        raise EngineError(f"adapter '{point.name}' of package '{_distribution(point)}' has no function 'load'")
    return module


def _built_in() -> list[Path]:
    """Return the files that say what they run; what adapters share (`base`, `source`, ...) lies beside them."""
    return [path for path in sorted(Path(__file__).parent.glob("*.py")) if _SUMMARY.search(path.read_text("utf-8"))]


def _external() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _summary(path: Path) -> str:
    """Read `SUMMARY` from a module's text, without importing what it needs."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "SUMMARY" for t in node.targets):
            return str(ast.literal_eval(node.value))
    return ""
