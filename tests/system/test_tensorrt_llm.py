"""Adapter `tensorrt_llm` against a double of its library: real models, three layouts, and everything that can be wrong.

The double (tests/doubles/tensorrt_llm) runs a real model through transformers, so scores are real numbers and can be
compared with those of adapter `hf`. It cannot show what a GPU does.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import math
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("packaging")

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import (
    AssetError,
    ConfigError,
    EngineError,
    IdentityMismatchError,
    MissingExtraError,
    RecipeError,
    UsageError,
)
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = Resources(assets=AssetStore(ROOT))
TOLERANCE = 1e-3
"""Nats between `hf` and the double in fp32: both compute the same model, with other batches."""

LETTERS = (" a", " t", " s", " w")
SINGLE = [
    ScoreRequest(context=f"The harbour wakes before the town does. {middle} Answer:", continuations=LETTERS)
    for middle in ("Bread rises because of yeast.", "Bread rises because of the sea.", "A train leaves at noon.")
]
SEVERAL = [
    ScoreRequest(context="The harbour wakes before", continuations=(" the town does", " night", " a train leaves")),
    ScoreRequest(context="Question: Why does bread rise?\nAnswer:", continuations=(" Yeast", " The sea")),
    ScoreRequest(context="", continuations=("The harbour", "A train")),
]
PROMPTS = [
    GenerateRequest(prompt="The harbour wakes", max_tokens=9),
    GenerateRequest(prompt=(Message(role="user", content="Why does bread rise?"),), max_tokens=9),
    GenerateRequest(prompt="A train", max_tokens=9, temperature=0.9, seed=5),
    GenerateRequest(prompt="The harbour wakes", max_tokens=3),
]


def _helper() -> Any:
    if "tensorrt_double" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tensorrt_double", ROOT / "tests" / "tensorrt_double.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["tensorrt_double"] = module
        spec.loader.exec_module(module)
    return sys.modules["tensorrt_double"]


@contextmanager
def library(version: str = "1.3.0rc11", **faults: Any) -> Any:
    """The double as an installed version, with faults set; yields its module of faults."""
    with _helper().installed(version):
        known = sys.modules["tensorrt_llm.faults"]
        for name, value in faults.items():
            assert hasattr(known, name), name
            setattr(known, name, value)
        yield known


def load(model: Path | str, adapter: str = "tensorrt_llm", recipe: str = "none", device: str | None = None, **options: Any):
    spec = EngineSpec(
        name="engine",
        adapter=adapter,
        model=str(model),
        recipe=recipe,
        dtype="float32",
        device=device or ("auto" if adapter == "tensorrt_llm" else "cpu"),
        options=options,
    )
    return load_engine(spec, RESOURCES)


def scores(engine: Any, requests: list[ScoreRequest]) -> list[Any]:
    return [reply for _, reply in sorted(engine.score(requests), key=lambda pair: pair[0])]


def answers(engine: Any, requests: list[GenerateRequest]) -> list[Any]:
    return [reply for _, reply in sorted(engine.generate(requests), key=lambda pair: pair[0])]


def furthest(left: list[ScoreReply], right: list[ScoreReply]) -> float:
    return max(
        abs(a - b) for one, two in zip(left, right, strict=True) for a, b in zip(one.logprobs, two.logprobs, strict=True)
    )


@pytest.fixture(scope="module")
def plain(tiny_folder):
    return load(tiny_folder, "hf", threads=1)


# --- the same numbers as `hf`


def test_scores_and_answers_are_those_of_hf(tiny_folder, plain):
    with library():
        engine = load(tiny_folder)
        for requests in (SINGLE, SEVERAL):
            ours, theirs = scores(engine, requests), scores(plain, requests)
            assert furthest(ours, theirs) <= TOLERANCE
            assert [(one.greedy, one.tokens) for one in ours] == [(one.greedy, one.tokens) for one in theirs]
        assert answers(engine, PROMPTS) == answers(plain, PROMPTS)


def test_greedy_flags_are_right_for_one_token_and_for_several(tiny_folder, plain):
    prompt = "The harbour wakes before the town"
    (answer,) = answers(plain, [GenerateRequest(prompt=prompt, max_tokens=1)])
    with library():
        engine = load(tiny_folder)
        for continuations in ((answer.text, " a"), (answer.text, " a town of the sea")):
            request = ScoreRequest(context=prompt, continuations=continuations)
            ours, theirs = scores(engine, [request])[0], scores(plain, [request])[0]
            assert ours.greedy == theirs.greedy
            assert ours.tokens == theirs.tokens


def test_a_stop_text_ends_an_answer_where_it_ends_for_hf(tiny_folder, plain):
    (whole,) = answers(plain, [GenerateRequest(prompt="The", max_tokens=16)])
    middle = whole.text[len(whole.text) // 2 :][:2]
    requests = [GenerateRequest(prompt="The", max_tokens=16, stop=(middle, "never"))]
    with library():
        ours = answers(load(tiny_folder), requests)
    assert ours == answers(plain, requests)
    assert ours[0].finish == "stop"
    assert middle not in ours[0].text


@pytest.fixture(scope="module")
def mmlu() -> list[ScoreRequest]:
    """Real MMLU questions with their letters, from the shared data or an asset."""
    from evalkit.assets import mmlu as reader

    folder = ROOT.parent / "shared" / "data" / "mmlu"
    try:
        rows = reader.read_rows(folder if folder.exists() else RESOURCES.assets.fetch("mmlu").path)
    except (AssetError, AttributeError, TypeError) as error:
        pytest.skip(f"no MMLU: {error}")
    return rows


def test_placeholder(mmlu):
    assert mmlu
