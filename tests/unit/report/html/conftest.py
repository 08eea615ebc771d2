from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[3] / "release_folders.py"


@pytest.fixture(scope="session")
def release_folders() -> ModuleType:
    """The factory of decided releases."""
    return importlib.import_module("release_folders")
