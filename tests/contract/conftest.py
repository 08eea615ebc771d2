"""Every adapter behind one fixture; a new adapter is one more line in ADAPTERS."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from evalkit.adapters.base import Engine, Resources, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import AssetError
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
FOLDER = "the model in a folder"
"""The GGUF asset, converted once for all adapters that read folders: expanding it takes longer than all their tests."""

MAX_LENGTH = 64
"""Tokens a request may need, for every engine of this suite."""

ADAPTERS = {
    "scripted": {"model": "none", "packages": ()},
    "hf": {
        "model": FOLDER,
        "dtype": "float32",
        "packages": ("torch", "transformers", "gguf", "safetensors"),
        "rounds": True,
    },
    "modelopt": {
        "model": FOLDER,
        "dtype": "float64",
        "recipe": "modelopt-fp8-kv",
        "packages": ("torch", "transformers", "gguf", "modelopt", "requests"),
        "options": {"calibration": {"samples": 4, "tokens": 64}},
        "rounds": True,
    },
    "lm_eval": {
        "model": "hf",
        "dtype": "float32",
        "packages": ("torch", "transformers", "gguf", "lm_eval"),
        "options": {"asset": FOLDER},
        "rounds": True,
    },
    "llama_cpp": {"model": MODEL, "packages": ("xllamacpp", "httpx")},
    "openai_server": {
        "model": MODEL,
        "packages": ("xllamacpp", "httpx"),
        "options": {"concurrency": 1, "api_key_env": "EVALKIT_CONTRACT_KEY"},
        "server": True,
    },
    "tensorrt_llm": {
        "model": FOLDER,
        "device": "auto",
        "dtype": "float32",
        "packages": ("torch", "transformers", "gguf", "safetensors"),
        "double": True,
        "rounds": True,
    },
}
"""Adapter to what it runs. `rounds`: requests share products of matrices, so how sums are rounded moves with them.

The others compute each request by itself and keep nothing, so its numbers are the same bits in any company. The recipe
of `modelopt` runs in float64: in fp32 as in bf16, one sum that falls on the other side of a step of FP8 moves all that
follows, up to 1.2 nats in these requests, which is as much as a fault does.
"""

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
    if about.get("server"):
        del options["threads"]
        options["base_url"] = request.getfixturevalue("llama_address")
    stack = ExitStack()
    if FOLDER in (about["model"], options.get("asset")):
        folder = str(request.getfixturevalue("real_folder"))
        about = {**about, "model": folder if about["model"] == FOLDER else about["model"]}
        options |= {"asset": folder} if "asset" in options else {}
    if about.get("double"):
        double = loaded("tensorrt_double")
        double.torch.set_num_threads(options.pop("threads"))
        stack.enter_context(double.installed())
    spec = EngineSpec(
        name=request.param,
        adapter=request.param,
        options=options,
        **{"device": "cpu", **{key: about[key] for key in ("model", "dtype", "recipe", "device") if key in about}},
    )
    with stack:
        made = load_engine(spec, Resources(assets=assets))
    yield made
    made.close()
    made.close()


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real small model as a folder of safetensors in bfloat16; other tests of the session use the same one."""
    return loaded("tensorrt_double").real_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def llama_address() -> Iterator[str]:
    """llama.cpp's own HTTP server, which takes a key."""
    server = loaded("llama_server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVALKIT_CONTRACT_KEY", server.KEY)
        with server.llama_server(AssetStore(ROOT).fetch(MODEL).path, MODEL) as address:
            yield address


def loaded(name: str) -> ModuleType:
    """Load a module of the tests' own folder once."""
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def rounding(engine: Engine, other_processor: ModuleType) -> Callable[[Sequence[ScoreRequest]], float]:
    """How far rounding may move a log-probability of these requests, nats: a stated factor of what it does here.

    Measured, not remembered: the same requests, in the same batches, with their sums taken in other orders.
    """
    known: dict[tuple[ScoreRequest, ...], float] = {}

    def logprobs(requests: Sequence[ScoreRequest]) -> list[float]:
        return [value for _, reply in sorted(engine.score(requests)) for value in reply.logprobs]

    def tolerance(requests: Sequence[ScoreRequest]) -> float:
        if not ADAPTERS[engine.identity.adapter].get("rounds"):
            return 0.0
        key = tuple(requests)
        if key not in known:
            known[key] = other_processor.tolerance(lambda: logprobs(key))
        return known[key]

    return tolerance
