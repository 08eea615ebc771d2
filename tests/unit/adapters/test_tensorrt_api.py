"""What is sent to TensorRT-LLM, and what its doubles have, is in NVIDIA's lists (tests/doubles/tensorrt_api.yaml)."""

from __future__ import annotations

import ast
import importlib
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version

pytest.importorskip("torch")
pytest.importorskip("transformers")

from evalkit.adapters.base import Resources
from evalkit.adapters.trtllm import loading
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.assets import AssetStore
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[3]
API: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "tests" / "doubles" / "tensorrt_api.yaml").read_text("utf-8"))
EVERY = {"1.2.1": "1.2", "1.3.0rc11": "1.2", "1.3.0rc22": "1.3", "1.3.0rc29": "1.3", "1.4.0rc1": "1.4"}
"""Published versions, with the list each is held to."""
ALL_OPTIONS: dict[str, Any] = {
    "tensor_parallel": 2,
    "pipeline_parallel": 2,
    "context_parallel": 2,
    "expert_parallel": 2,
    "gpus_per_node": 8,
    "max_length": 64,
    "max_batch_size": 8,
    "kv_cache": "fp8",
    "chunked_prefill": True,
    "guided_decoding": "xgrammar",
    "trust_remote_code": True,
}


def listed(kind: str, column: str) -> set[str]:
    return {name for name, row in API[kind].items() if column in str(row[3]).split()}


@pytest.fixture(params=sorted(EVERY))
def version(request):
    with importlib.import_module("tensorrt_double").installed(request.param):
        yield request.param


def test_the_file_says_for_every_name_its_type_default_status_and_versions():
    columns = set(API["versions"])
    assert all(about["read"] and about["what"] and Version(about["from"]) for about in API["versions"].values())
    statuses = {"", "stable", "beta", "prototype", "deprecated"}
    for kind, rows in API.items():
        for name, row in rows.items() if kind != "versions" else ():
            assert len(row) == 4, (kind, name)
            assert row[2] in statuses, (kind, name)
            assert set(str(row[3]).split()) <= columns, (kind, name)
    assert "quant_config" not in API["LLM"], "a property of the loaded model, and no keyword"


def test_every_keyword_that_a_model_is_loaded_with_is_in_the_list_of_every_version(tiny_folder, version, monkeypatch):
    sent: dict[str, set[str]] = {}

    class SeenError(Exception):
        pass

    library = loading.import_library()
    made = loading.Library.make

    def record(self: Any, name: str, **wanted: Any) -> Any:
        sent.setdefault(name, set()).update(wanted)
        return made(self, name, **wanted)

    def refuse(**keywords: Any) -> None:
        sent["LLM"] = set(keywords)
        raise SeenError

    monkeypatch.setattr(loading.Library, "make", record)
    monkeypatch.setattr(library.api, "LLM", refuse)
    spec = EngineSpec(name="x", adapter="tensorrt_llm", model=str(tiny_folder), dtype="bfloat16", options=ALL_OPTIONS)
    options = TensorRTOptions(**ALL_OPTIONS, tokenizer=str(tiny_folder))
    resources = Resources(assets=AssetStore(ROOT))
    target = loading.find_target(spec, options, resources)
    with pytest.raises(loading.EngineError, match="SeenError"):
        loading.open_session(spec, options, library, target)
    assert len(sent["LLM"]) >= 16
    for kind, names in sent.items():
        assert names <= listed(kind, EVERY[version]), (kind, names - listed(kind, EVERY[version]))


def test_every_name_of_the_double_is_in_the_list_of_its_version(version):
    api = importlib.import_module("tensorrt_llm.llmapi")
    column = EVERY[version]
    held = {
        "LLM": set(api.TorchLlmArgs.model_fields),
        "KvCacheConfig": set(api.KvCacheConfig.model_fields),
        "QuantConfig": set(api.QuantConfig.model_fields),
        "SamplingParams": {one.name for one in fields(api.SamplingParams)},
        "GuidedDecodingParams": {one.name for one in fields(api.GuidedDecodingParams)},
        "CompletionOutput": {one.name for one in fields(api.CompletionOutput)},
        "generate_async": set(inspect.signature(api.LLM.generate_async).parameters) - {"self"},
        "RequestOutput": {name for name in vars(api.RequestOutput(1, [2], None)) if not name.startswith("_")},
    }
    for kind, names in held.items():
        assert names <= listed(kind, column), (kind, names - listed(kind, column))
    assert held["LLM"] == listed("LLM", column), "as many as the library, so that a name that it lost is refused"


def test_every_attribute_that_is_read_from_a_result_is_in_the_list():
    read = {
        node.attr
        for path in (ROOT / "evalkit" / "adapters" / "trtllm").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "output"
    } - {"message"}  # of a failure, which takes an output's place
    assert {"prompt_logprobs", "generation_logits", "finish_reason"} <= read
    for column in API["versions"]:
        assert read <= listed("CompletionOutput", column) | listed("RequestOutput", column)


def test_every_option_of_a_launch_is_in_the_list_of_the_servers_command_line():
    page = (ROOT / "docs" / "tensorrt-llm.md").read_text("utf-8") + (
        ROOT / "examples" / "llama-3.1-405b-h200.yaml"
    ).read_text("utf-8")
    named = {
        word
        for line in page.splitlines()
        if "trtllm-serve" in line
        for word in line.replace("`", " ").split()
        if word.startswith("--")
    }
    for column in ("1.2", "1.4"):
        assert named <= listed("trtllm-serve", column), named - listed("trtllm-serve", column)
