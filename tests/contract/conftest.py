"""Every adapter behind one fixture; a new adapter is one more line in ADAPTERS."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from evalkit.adapters.base import Engine, Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import AssetError
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
MAX_LENGTH = 64
"""Tokens a request may need, for every engine of this suite."""

ADAPTERS = {
    "scripted": {"model": "none", "packages": (), "tolerance": 0.0},
    "hf": {"model": MODEL, "dtype": "float32", "packages": ("torch", "transformers", "gguf"), "tolerance": 1e-3},
    "modelopt": {
        "model": MODEL,
        "dtype": "bfloat16",
        "recipe": "modelopt-fp8-kv",
        "packages": ("torch", "transformers", "gguf", "modelopt", "requests"),
        "options": {"calibration": {"samples": 4, "tokens": 64}},
        "tolerance": 0.5,
    },
}
"""Adapter to what it runs; `tolerance` is how far a log-probability may move with its neighbours, nats."""

_SYSTEM = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]


def _parameters() -> list[object]:
    return [pytest.param(name, marks=_SYSTEM if about["packages"] else []) for name, about in ADAPTERS.items()]


@pytest.fixture(scope="session", params=_parameters())
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    about = ADAPTERS[request.param]
    lacking = [package for package in about["packages"] if find_spec(package) is None]
    if lacking:
        pytest.skip(f"adapter '{request.param}' needs {', '.join(lacking)}")
    assets = AssetStore(ROOT)
    options: dict[str, object] = {"max_length": MAX_LENGTH, **about.get("options", {})}
    if about["packages"]:
        options["threads"] = 1
        try:
            assets.fetch(MODEL)
        except AssetError as error:
            pytest.skip(f"no source of the model is reachable: {error}")
    spec = EngineSpec(
        name=request.param,
        adapter=request.param,
        device="cpu",
        options=options,
        **{key: about[key] for key in ("model", "dtype", "recipe") if key in about},
    )
    made = load_engine(spec, Resources(assets=assets))
    yield made
    made.close()
    made.close()


@pytest.fixture
def tolerance(engine: Engine) -> float:
    return ADAPTERS[engine.identity.adapter]["tolerance"]
