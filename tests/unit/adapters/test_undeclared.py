"""Weights that are no weights: codes that nothing declares, pointers, cut files. Every adapter looks first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import load_file, save_file

from evalkit.adapters.base import Resources
from evalkit.adapters.checkpoint.declared import Declared
from evalkit.adapters.checkpoint.stored import StoredTensor, undeclared_faults
from evalkit.adapters.fakequant.exported import _attention
from evalkit.adapters.registry import load_engine
from evalkit.adapters.source import check_headers
from evalkit.adapters.trtllm.loading import find_target
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.assets import AssetStore
from evalkit.errors import EngineError, EvalkitError, RecipeError, UsageError
from evalkit.suite import EngineSpec

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).resolve().parents[3]
RESOURCES = Resources(assets=AssetStore(ROOT))
UP, KEY = "model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.k_proj.weight"


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny_folder, tmp_path / "odd")
    return tmp_path / "odd"


def rewrite(model: Path, changes: dict[str, Any]) -> None:
    """Put other tensors into a model; None takes one out."""
    held = load_file(model / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in held.items() if tensor is not None}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def load(adapter: str, model: Path) -> Any:
    if adapter == "tensorrt_llm":  # the library is not here: what it would be given is
        return find_target(
            EngineSpec(name="x", adapter=adapter, model=str(model)), TensorRTOptions.model_validate({}), RESOURCES
        )
    if adapter == "lm_eval":
        pytest.importorskip("lm_eval")
        options = {"model_args": {"pretrained": str(model)}}
        spec = EngineSpec(name="x", adapter=adapter, model="hf", device="cpu", dtype="float32", options=options)
        return load_engine(spec, RESOURCES)
    if adapter == "modelopt":
        pytest.importorskip("modelopt")
    recipe = "modelopt-fp8" if adapter == "modelopt" else "none"
    spec = EngineSpec(name="x", adapter=adapter, model=str(model), device="cpu", dtype="float32", recipe=recipe)
    return load_engine(spec, RESOURCES)


def codes(model: Path, kind: torch.dtype, scale: str | None) -> None:
    weight = load_file(model / "model.safetensors")[UP]
    step = weight.abs().max() / 100
    found = {UP: (weight / step).to(kind)}
    rewrite(model, found | ({UP.replace("weight", scale): step} if scale else {}))


ADAPTERS = ("hf", "modelopt", "tensorrt_llm", "lm_eval")


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("kind", "scale"),
    [(torch.float8_e4m3fn, "weight_scale"), (torch.float8_e5m2, None), (torch.int8, "SCB"), (torch.uint8, None)],
)
def test_codes_without_a_declaration_are_never_loaded(model, adapter, kind, scale):
    codes(model, kind, scale)
    with pytest.raises(RecipeError, match=rf"odd: .*\n.*{UP}: hold codes .* no quantization is declared; next step"):
        load(adapter, model)


@pytest.mark.parametrize("name", ["k_scale", "kv_scale", "k_proj.output_scale", "k_proj.weight_scale_inv"])
def test_a_scale_that_nothing_declares_is_refused_beside_plain_weights(model, name):
    rewrite(model, {f"model.layers.0.self_attn.{name}": torch.tensor(0.5)})
    with pytest.raises(RecipeError, match=f"self_attn.{name}: belong to a quantized model"):
        load("hf", model)


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", (4, 8, 2, 16)),
        ("model.layers.0.mlp.down_proj.weight_packed", "I32", (8, 2)),
        ("model.layers.0.mlp.down_proj.qweight", "I32", (8, 2)),
        ("model.layers.0.mlp.down_proj.weight", "U32", (8, 2)),
        ("model.layers.0.mlp.down_proj.weight.quant_state.bitsandbytes__nf4", "U8", (77,)),
        ("model.embed_tokens.weight", "I8", (8, 4)),
        ("model.layers.0.self_attn.q_proj.input_quantizer._amax", "F32", ()),
    ],
)
def test_every_format_has_tensors_that_a_plain_model_has_not(name, dtype, shape):
    tensors = {name: StoredTensor(file="a", dtype=dtype, shape=shape)}
    assert len(undeclared_faults(Declared(), tensors)) == 1
    assert undeclared_faults(Declared(algorithm="some"), tensors) == []


@pytest.mark.parametrize(
    ("name", "dtype", "shape"),
    [
        ("h.0.attn.bias", "U8", (1, 1, 64, 64)),
        ("h.0.attn.causal_mask", "I8", (64, 64)),
        ("embeddings.position_ids", "I64", (1, 64)),
        ("logit_scale", "F32", ()),
        ("model.layers.0.norm.scale", "F32", (8,)),
        ("model.layers.0.per_dim_scale", "F32", (8,)),
        ("batch_norm.num_batches_tracked", "I64", ()),
    ],
)
def test_what_plain_models_store_beside_weights_is_left_alone(name, dtype, shape):
    assert undeclared_faults(Declared(), {name: StoredTensor(file="a", dtype=dtype, shape=shape)}) == []


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
            "Git LFS pointer.*git lfs",
        ),
        (lambda data: b"", "is empty; next step: download"),
        (lambda data: data[:-7], "cut off: .* next step: download"),
        (lambda data: data + b"more", "too long: .* next step: download"),
        (lambda data: data[:60], "damaged safetensors header.*next step: download"),
        (lambda data: b"\x90\x5f\x01\0\0\0\0\0" + b"[" * 90_000, "damaged safetensors header"),
    ],
    ids=["pointer", "empty", "cut", "longer", "cut-in-header", "deep"],
)
def test_damaged_weights_are_named_with_the_next_step(model, adapter, damage, fault):
    file = model / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UsageError, match=f"model.safetensors: .*{fault}|model.safetensors: {fault}"):
        load(adapter, model)


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        ({"weight_map": {UP: "model-00001-of-00002.safetensors"}}, "names 1 files that are not there"),
        ({"weight_map": {UP: "../odd/other.safetensors"}}, "names 1 files that are not there"),
        ({"weight_map": [1]}, "no index of safetensors files"),
    ],
)
def test_an_index_that_leads_nowhere_is_named(model, index, fault):
    (model / "model.safetensors").rename(model / "other.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=rf"model.safetensors.index.json: {fault}.*next step"):
        check_headers(model)


@pytest.mark.parametrize("name", ["model.layers.1.mlp.up_proj.bias", "model.layers.9.mlp.up_proj.weight"])
def test_a_stored_part_of_a_layer_that_the_loader_passes_over_is_refused(model, name):
    rewrite(model, {name: torch.zeros(4)})
    with pytest.raises(EngineError, match=f"1 stored tensors belong to layers of this model.*{name}"):
        load("hf", model)


def test_a_part_that_this_kind_of_model_has_not_is_no_loss(model):
    rewrite(model, {"vision_tower.patches.weight": torch.zeros(4, 4), "mtp.fc.weight": torch.zeros(4, 4)})
    load("hf", model).close()


@pytest.mark.parametrize("adapter", ["hf", "lm_eval"])
def test_codes_that_the_loader_expands_are_dequantised_and_keep_their_method(model, adapter):
    if torch.cuda.is_available():
        pytest.skip("a GPU may run the codes themselves")
    found: dict[str, Any] = {}
    for name, weight in load_file(model / "model.safetensors").items():
        if "_proj" in name:
            rows, columns = weight.shape
            blocks = weight.reshape(rows // 32, 32, columns // 32, 32)
            scale = blocks.abs().amax(dim=(1, 3)) / 448
            found[name] = (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
            found[f"{name}_scale_inv"] = scale
    rewrite(model, found)
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [32, 32],
    }
    (model / "config.json").write_text(json.dumps(config))
    engine = load(adapter, model)
    assert engine.identity.fidelity == "dequantised"
    assert engine.identity.quantization["algorithm"] == "fp8"
    engine.close()


def test_codes_of_a_module_that_is_declared_unquantized_are_refused(model):
    codes(model, torch.float8_e4m3fn, "weight_scale")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "modules_to_not_convert": [UP.removesuffix(".weight")]}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="hold codes, but are excluded"):
        load("hf", model)


def test_truncation_and_padding_left_by_a_calibration_are_no_other_tokenizer(model, tiny_folder):
    before = load("hf", model)
    file = model / "tokenizer.json"
    document = json.loads(file.read_text())
    left = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 8, "pad_id": 1, "pad_type_id": 0}
    document["padding"] = {**left, "pad_token": "<|end|>"}
    document["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "OnlyFirst", "stride": 0}
    file.write_text(json.dumps(document))
    after = load("hf", model)
    assert after.identity.tokenizer_sha256 == before.identity.tokenizer_sha256
    document["added_tokens"][0]["lstrip"] = True
    file.write_text(json.dumps(document))
    assert load("hf", model).identity.tokenizer_sha256 != before.identity.tokenizer_sha256


@pytest.mark.parametrize("place", ["self_attn.k_proj", "self_attn", "self_attn.attn"])
def test_a_cache_scale_is_found_on_its_projection_and_on_its_attention(place):
    on = SimpleNamespace(k_bmm_quantizer=SimpleNamespace(is_enabled=True))
    modules = {"self_attn": on, "self_attn.k_proj": SimpleNamespace()}
    assert _attention(place, "k_bmm_quantizer", modules) == "self_attn"
    on.k_bmm_quantizer.is_enabled = False
    assert _attention(place, "k_bmm_quantizer", modules) is None


def test_every_refusal_is_one_of_evalkits_own(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"quantization_config": "fp8"}))
    with pytest.raises(EvalkitError, match="quantization_config is 'fp8', no mapping"):
        load("hf", model)
