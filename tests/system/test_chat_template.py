"""A model without a chat template: every adapter says the same, and FastChat's template of a given name helps.

The template's text is FastChat's own, installed for these tests; none of it is part of this project.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.adapters.base import GenerateRequest, Message, Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.cli import main
from evalkit.errors import AssetError, ExitCode, UsageError
from evalkit.store import read_manifest, read_records
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
MODEL, TASK, RELEASE = "smollm2-135m-instruct", "talk", "fschat==0.2.36"
TALK = (Message(role="user", content="Say yes."),)
TEMPLATE = "fastchat:zero_shot"


@pytest.fixture(scope="module")
def mute(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with room for a conversation and no chat template."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("mute") / "mute")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    for name, changes in (
        ("tokenizer_config.json", {"chat_template": None}),
        ("config.json", {"max_position_embeddings": 4096}),
    ):
        row = {**json.loads((folder / name).read_text("utf-8")), **changes}
        text = json.dumps({key: value for key, value in row.items() if key != "chat_template"})
        (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def mute_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model's GGUF file with the key of its template spoilt."""
    pytest.importorskip("httpx")
    pytest.importorskip("xllamacpp")
    try:
        data = AssetStore(ROOT).fetch(MODEL).path.read_bytes()
    except AssetError as error:
        pytest.skip(f"no source of the model is reachable: {error}")
    key = b"tokenizer.chat_template"
    assert data.count(key) == 1
    file = tmp_path_factory.mktemp("gguf") / "mute.gguf"
    file.write_bytes(data.replace(key, b"tokenizer.hidden_templat"[: len(key)]))
    return file


def double() -> Any:
    return importlib.import_module("tensorrt_double")


OPTIONS: dict[str, dict[str, Any]] = {
    "hf": {"threads": 1},
    "modelopt": {"threads": 1},
    "lm_eval": {"threads": 1},
    "llama_cpp": {"threads": 1, "max_length": 128},
    "tensorrt_llm": {"max_length": 512},
}


@pytest.fixture(params=OPTIONS)
def engine(request: pytest.FixtureRequest, mute: Path) -> Iterator[Any]:
    adapter, stack = request.param, ExitStack()
    options, model, more = dict(OPTIONS[adapter]), str(mute), {"device": "cpu", "dtype": "float32"}
    if adapter == "modelopt":
        pytest.importorskip("modelopt")
        more["recipe"] = "control-rtn3"
    elif adapter == "lm_eval":
        pytest.importorskip("lm_eval")
        model, options = "hf", {**options, "model_args": {"pretrained": model}}
    elif adapter == "llama_cpp":
        model = str(request.getfixturevalue("mute_file"))
    elif adapter == "tensorrt_llm":
        pytest.importorskip("packaging")
        more["device"] = "auto"
        stack.enter_context(double().installed())
    with stack:
        spec = EngineSpec(name="mute", adapter=adapter, model=model, options=options, **more)
        made = load_engine(spec, Resources(assets=AssetStore(ROOT)))
        yield made
        made.close()


def test_every_adapter_refuses_messages_in_the_same_words_and_takes_text(engine):
    assert engine.identity.chat_template_sha256 is None
    with pytest.raises(UsageError) as caught:
        list(engine.generate([GenerateRequest(prompt=TALK, max_tokens=2)]))
    for words in (
        "has no chat template, so messages cannot be put to it",
        "none is guessed from a model's name",
        "--template fastchat:<name>",
        "pip install 'evalkit-quant[fastchat]'",
    ):
        assert words in str(caught.value)
    ((_, answer),) = engine.generate([GenerateRequest(prompt="Once upon a time", max_tokens=2)])
    assert answer.completion_tokens >= 1


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task of eight MT-Bench conversations with answers of a few tokens."""
    try:
        AssetStore(ROOT).fetch("mt-bench")
    except AssetError as error:
        pytest.skip(f"no source of the questions is reachable: {error}")
    root = tmp_path_factory.mktemp("definitions")
    for name in ("tasks", "judges"):
        shutil.copytree(ROOT / name, root / name)
    text = (root / "tasks/mt-bench/mt-bench-mini.yaml").read_text("utf-8").replace("mt-bench-mini", TASK, 1)
    assert "max_tokens: 64" in text
    (root / f"tasks/mt-bench/{TASK}.yaml").write_text(text.replace("max_tokens: 64", "max_tokens: 4"), "utf-8")
    return root


@pytest.fixture(scope="module")
def fastchat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """FastChat in a folder of its own, without what it depends on, for as long as these tests run."""
    folder = tmp_path_factory.mktemp("fastchat")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), RELEASE], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{RELEASE} cannot be installed: {done.stderr.strip()[-200:]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield
    for name in [name for name in sys.modules if name.split(".")[0] == "fastchat"]:
        del sys.modules[name]


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_conversation_is_held_with_a_template_of_a_given_name(mute, definitions, fastchat, tmp_path, capsys):
    engine = ["--adapter", "hf", "--model", mute, "--dtype", "float32", "--device", "cpu", "--option", "threads=1"]
    words = ["run", *engine, "--task", TASK, "--definitions", definitions, "--quiet"]
    assert run(*words, "--output", tmp_path / "without") == ExitCode.USAGE
    assert "--template fastchat:<name>" in capsys.readouterr().err
    assert run(*words, "--output", tmp_path / "with", "--template", TEMPLATE) == 0
    capsys.readouterr()

    suite = tmp_path / "suite.yaml"
    engines = {"adapter": "hf", "model": str(mute), "dtype": "float32", "device": "cpu", "options": {"threads": 1}}
    named = {"name": "s", "policy": "demo", "engine": engines, "baseline": {"name": "base"}, "tasks": [TASK]}
    more = {"candidates": [{"name": "other"}], "template": TEMPLATE, "definitions": str(definitions)}
    suite.write_text(json.dumps({**named, **more}), "utf-8")
    assert run("run", f"{suite}#base", "--output", tmp_path / "suite", "--quiet") == 0

    runs = {name: read_manifest(tmp_path / name).tasks[TASK] for name in ("with", "suite")}
    assert runs["with"] == runs["suite"]
    assert runs["with"].settings["template"] == TEMPLATE
    assert read_manifest(tmp_path / "with").requested["engine"]["name"] == "with"
    records = {name: read_records(tmp_path / name, TASK) for name in runs}
    assert records["with"] == records["suite"]
    assert len(records["with"]) == 8
    assert {record.status for record in records["with"]} == {"ok"}


def test_a_name_that_fastchat_does_not_have_is_answered_with_the_closest(mute, definitions, fastchat, tmp_path, capsys):
    engine = ["--adapter", "hf", "--model", mute, "--device", "cpu"]
    words = ["run", *engine, "--task", TASK, "--definitions", definitions, "--output", tmp_path / "out", "--quiet"]
    assert run(*words, "--template", "fastchat:zero_shoot") == ExitCode.USAGE
    assert "did you mean 'zero_shot'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
