"""An engine that begins to give NaN stops its run among the first 32 items, whoever runs it: no score, no record.

Every adapter must hand a NaN over as a failure of kind "non-finite"; the run stops at the first of them.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evalkit.adapters.base import Failure, Resources, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks import Marking
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.collect import collect
from evalkit.errors import AssetError, EngineError
from evalkit.records import Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = Resources(assets=AssetStore(ROOT))
MODEL = "smollm2-135m-instruct"
COUNT = 40
WORD = "Question"
"""Begins every item, and no prompt with which an adapter tries its engine."""


class Questions:
    """Forty items of two letters."""

    task, samples = "letters", 1

    def __init__(self) -> None:
        self.items = tuple(
            Item(
                task="letters",
                subject="sums",
                item_sha256=text_digest(str(n)),
                occurrence=0,
                prompt_sha256=text_digest(f"p{n}"),
                target_sha256=text_digest("t"),
                doc={"n": n},
                context=f"{WORD}: {n}\nAnswer:",
                continuations=(" A", " B"),
                target=n % 2,
            )
            for n in range(COUNT)
        )
        self.task_run = TaskRun(
            definition_sha256="d" * 64,
            kind="choice",
            protocol="p",
            shots=0,
            metric="acc",
            chance=0.5,
            planned=COUNT,
            item_set_sha256=item_set_sha256(self.items),
            prompts_sha256="f" * 64,
            dataset={},
        )

    def mark(self, item: Item, reply: Any) -> Marking:
        return Marking(marks={"acc": 1.0})


def loaded(name: str) -> Any:
    """Load a module of the tests' own folder once."""
    return importlib.import_module(name)


def load(adapter: str, model: Path | str, device: str = "cpu", **options: Any) -> Any:
    spec = EngineSpec(
        name="broken", adapter=adapter, model=str(model), dtype="float32", device=device, options=dict(options)
    )
    return load_engine(spec, RESOURCES)


@pytest.fixture
def broken_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with one NaN among its weights, which reaches every number."""
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    folder = tmp_path / "broken"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] = torch.nan
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _hf(request: pytest.FixtureRequest) -> Any:
    return load("hf", request.getfixturevalue("broken_folder"), threads=1)


def _lm_eval(request: pytest.FixtureRequest) -> Any:
    pytest.importorskip("lm_eval")
    folder = request.getfixturevalue("broken_folder")
    return load("lm_eval", "hf", model_args={"pretrained": str(folder)}, threads=1, block=8)


@contextmanager
def _tensorrt(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("packaging")
    folder = request.getfixturevalue("tiny_folder")
    with loaded("tensorrt_double").installed():
        engine = load("tensorrt_llm", folder, "auto")
        sys.modules["tensorrt_llm.faults"].not_a_number = True
        yield engine


@contextmanager
def _server(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("httpx")
    brains, servers = loaded("brains"), loaded("model_server")

    class Broken(brains.ToyBrain):
        """Knows no number after a question."""

        def next(self, ids: Any) -> Any:
            found = super().next(ids)
            return found * math.nan if WORD in "".join(self.pieces[token] for token in ids) else found

    with servers.ModelServer(Broken(), servers.vllm(), "toy") as server:
        yield load("openai_server", "toy", base_url=server.url, backoff_s=0.001, retries=1)


@contextmanager
def _llama(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The real server; the numbers of its replies to questions become what a NaN becomes there: null."""
    pytest.importorskip("httpx")
    pytest.importorskip("xllamacpp")
    try:
        RESOURCES.assets.fetch(MODEL)
    except AssetError as error:
        pytest.skip(f"no source of the model is reachable: {error}")
    engine = load("llama_cpp", MODEL, threads=1, max_length=128)
    served = engine._served
    real, word = served.asker.transport.post, served.tokenizer._ids(WORD, special=False)[0]

    def post(path: str, body: Any, read: Any) -> Any:
        prompt = body.get("prompt")
        if not isinstance(prompt, list) or word not in prompt:
            return real(path, body, read)
        return real(path, body, lambda reply: read(without_numbers(reply)))

    served.asker.transport.post = post
    yield engine


def without_numbers(value: Any) -> Any:
    """Return a reply whose log-probabilities are null."""
    if isinstance(value, dict):
        return {name: None if name == "logprob" else without_numbers(inner) for name, inner in value.items()}
    return [without_numbers(inner) for inner in value] if isinstance(value, list) else value


ENGINES = {"hf": _hf, "lm_eval": _lm_eval, "tensorrt_llm": _tensorrt, "openai_server": _server, "llama_cpp": _llama}


@pytest.fixture(params=ENGINES)
def broken(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = ENGINES[request.param](request)
    if hasattr(made, "__enter__"):
        with made as engine:
            yield engine
            engine.close()
    else:
        yield made
        made.close()


def test_a_nan_is_a_failure_of_that_name_and_stops_the_run_before_its_first_record(broken, tmp_path):
    benchmark = Questions()
    requests = [ScoreRequest(context=item.context, continuations=item.continuations) for item in benchmark.items[:3]]
    replies = [reply for _, reply in broken.score(requests)]
    assert len(replies) == 3
    assert all(isinstance(reply, Failure) and reply.kind == "non-finite" for reply in replies), replies
    manifest = Manifest(
        evalkit="0", engine=broken.identity, tasks={"letters": benchmark.task_run}, created_at="2020-01-01T00:00:00Z"
    )
    with RunFolder.create_or_resume(tmp_path / "run", manifest) as folder:
        with pytest.raises(EngineError, match="a non-finite number among the first 32 items; the first failure: non-f"):
            collect(folder, broken, [benchmark], progress=False)
        assert folder.done_keys("letters") == set()
