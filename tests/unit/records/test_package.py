"""`evalkit.records` is one door: every name is had from it, and its modules import one another one way."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import evalkit.records as package

FOLDER = Path(package.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_every_public_name_of_every_module_that_others_use_is_had_from_the_package():
    for name in package.__all__:
        assert getattr(package, name) is not None
    assert {"Item", "Record", "Judgment", "EngineIdentity", "Manifest", "digest", "build", "FORMAT"} <= {
        *package.__all__
    }


def test_no_module_imports_the_package_or_one_that_imports_it_back():
    edges = {name: _imported(FOLDER / f"{name}.py") for name in MODULES}
    assert all("__init__" not in found for found in edges.values())
    done: list[str] = []
    while len(done) < len(MODULES):
        ready = [name for name in MODULES if name not in done and edges[name] <= {*done}]
        assert ready, f"a cycle among {sorted(set(MODULES) - {*done})}"
        done += ready


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evalkit.records"):
            found.add(str(node.module).partition("evalkit.records.")[2] or "__init__")
    return found


def test_every_module_can_be_imported_first():
    for name in MODULES:
        assert importlib.import_module(f"evalkit.records.{name}")
