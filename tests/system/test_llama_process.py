"""llama.cpp in a process of its own: what happens when it, its parent, or its file breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalkit.adapters.base import GenerateRequest, Generation, Message, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import AssetError, EngineError, UsageError
from evalkit.suite import EngineSpec

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
ASK = ScoreRequest(context="The capital of France is", continuations=(" Paris", " Rome"))
TALK = (Message(role="user", content="Say yes."),)


@pytest.fixture(scope="module")
def gguf():
    pytest.importorskip("xllamacpp")
    pytest.importorskip("httpx")
    try:
        return AssetStore(ROOT).fetch(MODEL).path
    except AssetError as error:
        pytest.skip(f"no source of the model is reachable: {error}")


@pytest.fixture
def load(gguf):
    made = []

    def build(model=MODEL, **options):
        spec = EngineSpec(
            name="small", adapter="llama_cpp", model=str(model), device="cpu", options={"threads": 1, **options}
        )
        made.append(load_engine(spec, Resources(assets=AssetStore(ROOT))))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


def test_the_file_and_the_asset_are_one_engine_and_settings_are_others(gguf, load):
    engine = load(max_length=128)
    identity = engine.identity
    assert (identity.quantization["algorithm"], identity.quantization["kv_cache"]) == ("Q4_1", "f16")
    assert identity.quantization["enabled"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}
    assert identity.weights_sha256 == AssetStore(ROOT).declaration(MODEL).sha256
    (engine_process, found) = (engine._served.owner._process, dict(engine.score([ASK])))
    engine.close()
    assert engine_process.poll() is not None, "the server ended with its engine"
    again = load(gguf, max_length=128)
    assert again.identity.weights_sha256 == identity.weights_sha256
    assert dict(again.score([ASK])) == found, "bit for bit"
    other = load(max_length=128, kv_cache="q4_0", flash_attention="on")
    assert other.identity.quantization["kv_cache"] == "q4_0"
    assert other.identity.sha256 != identity.sha256
    assert dict(other.score([ASK]))[0].logprobs != found[0].logprobs, "the cache's type was really used"


def test_a_server_that_is_killed_ends_the_run_with_a_reason(load):
    engine = load(max_length=128)
    assert isinstance(dict(engine.score([ASK]))[0], ScoreReply)
    engine._served.owner._process.send_signal(signal.SIGKILL)
    with pytest.raises(EngineError, match=r"llama.cpp ended by itself \(exit code -9\)"):
        list(engine.score([ASK]))


def test_a_parent_that_is_killed_leaves_no_server_behind(gguf):
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[2]);"
        "from evalkit.adapters.llama.assembly import LlamaProcess;"
        "asked = {'model': sys.argv[1], 'alias': 'm', 'context': 64, 'parallel': 1, 'threads': 1, 'kv_cache': 'f16',"
        " 'flash_attention': 'auto', 'gpu_layers': 0};"
        "server = LlamaProcess(asked, 60.0); print(server._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(gguf), str(ROOT)], stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        assert _alive(child)
        parent.kill()
    deadline = time.monotonic() + 600
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def test_a_file_that_ends_too_early_is_refused_with_llama_cpps_own_words(gguf, load, tmp_path):
    cut = tmp_path / "cut.gguf"
    with gguf.open("rb") as stream:
        cut.write_bytes(stream.read(20_000_000))
    with pytest.raises(EngineError, match=r"cut\.gguf: llama\.cpp cannot load it") as caught:
        load(cut)
    assert "its last words" in str(caught.value)


def test_a_file_whose_numbers_are_not_finite_is_refused(gguf, load, tmp_path):
    """llama.cpp itself answers with null for every log-probability, and with words."""
    package = pytest.importorskip("gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(gguf.read_bytes())
    tensors = {tensor.name: tensor for tensor in package.GGUFReader(broken, "r+").tensors}
    tensors["output_norm.weight"].data[...] = float("nan")
    tensors["output_norm.weight"].data.flush()
    with pytest.raises(EngineError, match=r"not finite \(.*null, which is what NaN becomes in JSON"):
        load(broken, max_length=128)


def test_a_file_without_a_chat_template_takes_no_messages(gguf, load, tmp_path):
    mute = tmp_path / "mute.gguf"
    data = gguf.read_bytes()
    key = b"tokenizer.chat_template"
    assert data.count(key) == 1
    mute.write_bytes(data.replace(key, b"tokenizer.hidden_templat"[: len(key)]))
    engine = load(mute, max_length=128)
    assert engine.identity.chat_template_sha256 is None
    assert any("no chat template" in line for line in engine.warnings)
    ((_, answer),) = engine.generate([GenerateRequest(prompt="Once upon a time", max_tokens=3)])
    assert isinstance(answer, Generation)
    with pytest.raises(UsageError, match="the served model has no chat template"):
        list(engine.generate([GenerateRequest(prompt=TALK, max_tokens=3)]))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("no-such-model", {}, "no asset and no file"),
        (str(ROOT / "README.md"), {}, "a model file must be .gguf"),
        (MODEL, {"max_length": 9000}, "more than the 8192 tokens it was trained for"),
        (MODEL, {"kv_cache": "q9"}, "kv_cache"),
    ],
)
def test_wrong_requests_are_named_before_anything_starts(load, model, options, words):
    with pytest.raises(UsageError, match=words):
        load(model, **options)


def test_recipes_are_another_adapters(gguf):
    spec = EngineSpec(name="small", adapter="llama_cpp", model=MODEL, recipe="int4-awq")
    with pytest.raises(UsageError, match="runs a GGUF file as it is, not recipe 'int4-awq'"):
        load_engine(spec, Resources(assets=AssetStore(ROOT)))
