from __future__ import annotations

import json
import struct

import pytest

from evalkit.adapters.base import Resources
from evalkit.adapters.source import file_sha256, find_model
from evalkit.assets import AssetStore
from evalkit.errors import UsageError


def weights(value: int) -> bytes:
    header = json.dumps({"norm.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<f", value)


@pytest.fixture
def find(tmp_path):
    resources = Resources(assets=AssetStore(tmp_path, cache=tmp_path / "cache"))
    return lambda model: find_model(str(model), resources)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "a.safetensors").write_bytes(weights(1))
    return path


def test_a_folder_is_named_without_its_path_and_digested_by_its_weights(find, folder):
    found = find(folder)
    assert (found.name, found.gguf, found.source) == ("model", None, "local")
    (folder / "config.json").write_text('{"other": 1}')
    assert find(folder).weights_sha256 == found.weights_sha256
    (folder / "a.safetensors").write_bytes(weights(2))
    assert find(folder).weights_sha256 != found.weights_sha256


def test_a_gguf_file_is_digested_whole(find, tmp_path):
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    found = find(tmp_path / "tiny.gguf")
    assert (found.name, found.gguf, found.folder) == ("tiny.gguf", "tiny.gguf", tmp_path)
    assert found.weights_sha256 == file_sha256(tmp_path / "tiny.gguf")


def test_a_name_that_is_nothing_gets_the_closest_asset(find):
    with pytest.raises(UsageError, match=r"is no asset.*did you mean 'smollm2-135m-instruct'"):
        find("smollm2-135m-instrct")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"modelopt_state.pth": ""}, "marks a ModelOpt state checkpoint.*next step: give the original model"),
        ({"hf_quant_config.json": "{}"}, "exported ModelOpt checkpoint.*TensorRT-LLM and vLLM; next step"),
        ({"config.json": json.dumps({"quantization_config": {"quant_method": "modelopt_fp4"}})}, "exported ModelOpt"),
        ({"config.json": "{"}, "config.json: not JSON"),
        ({"config.json": "[1]"}, "config.json: not a JSON object"),
        ({"config.json": None}, "no config.json; give the folder of a transformers model"),
        ({"a.safetensors": None}, "pickled weights are never loaded.*next step: convert the weights to safetensors"),
        ({"a.safetensors": None, "b.gguf": ""}, r"next step: name the file .*b\.gguf"),
    ],
)
def test_files_that_would_be_misread_are_refused_by_folder_and_next_step(find, folder, files, fault):
    for name, text in files.items():
        (folder / name).unlink(missing_ok=True)
        if text is not None:
            (folder / name).write_text(text)
    with pytest.raises(UsageError, match=fault) as caught:
        find(folder)
    assert str(caught.value).startswith(str(folder))


def test_a_file_that_is_no_gguf_is_refused(find, folder):
    with pytest.raises(UsageError, match=r"a model file must be \.gguf"):
        find(folder / "a.safetensors")
