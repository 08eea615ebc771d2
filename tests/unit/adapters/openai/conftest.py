from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[4]


def loaded(name: str) -> ModuleType:
    """Load a module of the tests' own folder once."""
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def doubles() -> SimpleNamespace:
    pytest.importorskip("httpx")
    brains, servers, proxies = loaded("brains"), loaded("model_server"), loaded("fault_proxy")
    return SimpleNamespace(
        Toy=brains.ToyBrain,
        Server=servers.ModelServer,
        Proxy=proxies.FaultProxy,
        trtllm=servers.trtllm_serve,
        vllm=servers.vllm,
    )


@pytest.fixture
def serve(doubles):
    """Start a double: `serve(quirks, ...)`; it ends with the test."""
    running = []

    def start(quirks=None, **fields):
        server = doubles.Server(
            brain=fields.pop("brain", None) or doubles.Toy(), quirks=quirks or doubles.vllm(), **fields
        )
        running.append(server.__enter__())
        return server

    yield start
    for server in running:
        server.__exit__()


@pytest.fixture
def connect():
    """Load an engine for an address: `connect(url, **options)`; it is closed with the test."""
    made = []

    def load(url: str, *, model: str = "toy", recipe: str = "none", **options):
        given = {"base_url": url, "backoff_s": 0.001, "timeout_s": 600.0, "retries": 2, "concurrency": 4, **options}
        spec = EngineSpec(name="served", adapter="openai_server", model=model, recipe=recipe, options=given)
        made.append(load_engine(spec, Resources(assets=AssetStore(ROOT))))
        return made[-1]

    yield load
    for engine in made:
        engine.close()
