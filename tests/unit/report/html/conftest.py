from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[3] / "release_folders.py"


@pytest.fixture(scope="session")
def release_folders() -> ModuleType:
    """The factory of decided releases."""
    if "release_folders" not in sys.modules:
        spec = importlib.util.spec_from_file_location("release_folders", FILE)
        module = importlib.util.module_from_spec(spec)
        sys.modules["release_folders"] = module
        spec.loader.exec_module(module)
    return sys.modules["release_folders"]
