from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).resolve().parents[2] / "synthetic_runs.py"


@pytest.fixture(scope="session")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    if "synthetic_runs" not in sys.modules:
        spec = importlib.util.spec_from_file_location("synthetic_runs", FILE)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["synthetic_runs"] = module
        spec.loader.exec_module(module)
    return sys.modules["synthetic_runs"]
