"""Quantized checkpoints on disk, without torch: what is declared, held, expected and traced; and contradictions."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.adapters.checkpoint.declared import layer_count, read_declared
from evalkit.adapters.checkpoint.reading import (
    TRACE_FILE,
    Trace,
    check_files,
    folder_files,
    read_checkpoint,
    read_trace,
)
from evalkit.adapters.checkpoint.stored import elements, lost_in_export, quantized_by, read_headers, read_stored
from evalkit.adapters.source import ModelFiles
from evalkit.errors import ConfigError, DataError, IdentityMismatchError, RecipeError, UsageError
from evalkit.recipes import load_recipe, resolve_recipe

LAYERS = 3
NAMES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
FEED_FORWARD = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
SIZES = {"F8_E4M3": 1, "U8": 1, "I8": 1, "BF16": 2, "F32": 4}


def write_tensors(path: Path, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Write a safetensors file of zeros."""
    rows, place = {}, 0
    for name, (dtype, shape) in tensors.items():
        size = SIZES[dtype]
        for one in shape:
            size *= one
        rows[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    header = json.dumps(rows).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(place))


def all_layers() -> list[str]:
    return [f"model.layers.{n}.{name}" for n in range(LAYERS) for name in (*NAMES, *FEED_FORWARD)]


def tensors(coded: list[str], *, scales: tuple[str, ...] = ("weight_scale", "input_scale"), cache: bool = True) -> Any:
    found = {"model.embed_tokens.weight": ("BF16", (8, 4)), "lm_head.weight": ("BF16", (8, 4))}
    for module in all_layers():
        found[f"{module}.weight"] = ("F8_E4M3" if module in coded else "BF16", (4, 4))
        if module in coded:
            found |= {f"{module}.{scale}": ("F32", ()) for scale in scales}
        if cache and module.endswith(("k_proj", "v_proj")):
            found[f"{module}.{module[-6]}_scale"] = ("F32", ())
    return found


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as recipe modelopt-fp8-kv makes it."""

    def write(coded: list[str] | None = None, *, quant: Any = None, config: Any = None, **how: Any) -> Path:
        path = tmp_path / "checkpoint"
        path.mkdir(exist_ok=True)
        quant = {
            "quant_algo": "FP8",
            "kv_cache_quant_algo": "FP8",
            "exclude_modules": ["lm_head", "model.embed_tokens"],
            **(quant or {}),
        }
        document = {"producer": {"name": "modelopt", "version": "0.47.0"}, "quantization": quant}
        (path / "hf_quant_config.json").write_text(json.dumps(document))
        (path / "config.json").write_text(json.dumps({"num_hidden_layers": LAYERS, **(config or {})}))
        write_tensors(path / "model.safetensors", tensors(all_layers() if coded is None else coded, **how))
        return path

    return write


def read(path: Path, recipe: str) -> Any:
    return read_checkpoint(
        ModelFiles(name=path.name, folder=path, gguf=None, source="local", weights_sha256="0" * 64), recipe
    )


def test_headers_name_every_tensor_without_reading_one(folder):
    found = read_headers(folder())
    assert found["lm_head.weight"].dtype == "BF16"
    assert elements(found["lm_head.weight"]) == 32
    assert len(found) == 2 + 21 * 3 + 6


@pytest.mark.parametrize("content", [b"\x05\x00", struct.pack("<Q", 1 << 40), struct.pack("<Q", 4) + b"{{}}"])
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UsageError, match=r"model\.safetensors: damaged safetensors header"):
        read_headers(tmp_path)


def test_a_tensor_in_two_files_is_refused(folder):
    path = folder()
    write_tensors(path / "more.safetensors", {"lm_head.weight": ("BF16", (8, 4))})
    with pytest.raises(UsageError, match=r"'lm_head.weight' is in model\.safetensors and in more\.safetensors"):
        read_headers(path)


def test_what_is_held_is_sorted_into_layers_and_scales(folder):
    held = read_stored(folder())
    assert len(held.linear) == 7 * LAYERS + 1
    assert set(held.quantized) == set(all_layers())
    assert held.cache_scales
    assert held.record() == {
        "linear": 22,
        "weights": {"FP8": 21},
        "scales": {"weight_scale": 21, "input_scale": 21, "k_scale": 3, "v_scale": 3},
    }


def test_a_checkpoint_of_its_recipe_is_taken(folder):
    found = read(folder(), "modelopt-fp8-kv")
    assert (found.declared.algorithm, found.declared.kv_cache, found.quantized) == ("FP8", "FP8", True)
    assert found.declared.producer == "modelopt 0.47.0"
    assert found.recipe.sha256 == resolve_recipe(load_recipe("modelopt-fp8-kv"), LAYERS).sha256


def test_a_recipe_of_another_format_is_refused_with_all_differences(folder):
    with pytest.raises(RecipeError) as caught:
        read(folder(), "llama-official-fp8")
    first, *faults = str(caught.value).split("\n  - ")
    assert first == "checkpoint: the checkpoint is not what it should be:"
    assert faults[0] == "algorithm declared is FP8, recipe 'llama-official-fp8' makes FP8_PER_CHANNEL_PER_TOKEN"
    assert faults[1] == "KV cache declared is FP8, recipe 'llama-official-fp8' makes none"
    assert faults[2].endswith("and 15 more: stored quantized, recipe 'llama-official-fp8' leaves them alone")


def test_the_official_recipe_is_known_by_its_layers_and_not_by_the_name_of_its_format(folder):
    middle = [f"model.layers.1.{name}" for name in FEED_FORWARD]
    excluded = ["lm_head", "model.layers.0*", "model.layers.1.self_attn*", "model.layers.2*"]
    quant = {"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN", "kv_cache_quant_algo": None, "exclude_modules": excluded}
    how = {"quant": quant, "scales": ("weight_scale",), "cache": False}
    assert read(folder(middle, **how), "llama-official-fp8").quantized
    everywhere = {**quant, "exclude_modules": ["lm_head"]}
    with pytest.raises(RecipeError, match="stored quantized, recipe 'llama-official-fp8' leaves them alone"):
        read(folder(**{**how, "quant": everywhere}), "llama-official-fp8")


def test_two_kinds_of_cache_scales_are_two_recipes(folder):
    with pytest.raises(RecipeError, match="has calibrated scales, recipe 'modelopt-fp8-kv-cast' makes the constant"):
        read(folder(), "modelopt-fp8-kv-cast")
    assert read(folder(cache=False), "modelopt-fp8-kv-cast").quantized
    with pytest.raises(RecipeError, match="has no scales, recipe 'modelopt-fp8-kv' makes calibrated ones"):
        read(folder(cache=False), "modelopt-fp8-kv")


def test_files_that_declare_nothing_and_hold_codes_are_refused(folder):
    path = folder()
    (path / "hf_quant_config.json").unlink()
    with pytest.raises(RecipeError, match=r"21 layers hold codes \(FP8\), but no quantization is declared"):
        read(path, "none")


def test_files_that_declare_codes_and_hold_none_are_refused(folder):
    with pytest.raises(RecipeError, match="FP8 is declared, but no layer holds codes"):
        read(folder([], cache=False), "none")


@pytest.mark.parametrize(
    ("excluded", "message"),
    [
        (["lm_head", "*layers.1.mlp*"], "model.layers.1.mlp.up_proj: hold codes, but are excluded as declared"),
        ([], None),
    ],
)
def test_a_list_of_exclusions_must_fit_the_layers(folder, excluded, message):
    path = folder(quant={"exclude_modules": excluded})
    if message is None:
        assert read(path, "modelopt-fp8-kv").quantized
        return
    with pytest.raises(RecipeError, match=message):
        read(path, "modelopt-fp8-kv")


def test_a_layer_left_out_silently_is_found(folder):
    lacking = [module for module in all_layers() if module != "model.layers.2.mlp.up_proj"]
    with pytest.raises(RecipeError, match=r"layers\.2\.mlp\.up_proj: hold no codes, but are not excluded as declared"):
        read(folder(lacking), "none")


def test_two_files_that_declare_different_things_are_refused(folder):
    inside = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}
    with pytest.raises(
        UsageError, match=r"config\.json declares algorithm 'NVFP4', hf_quant_config\.json declares 'FP8'"
    ):
        read_declared(folder(config={"quantization_config": inside}))


@pytest.mark.parametrize(
    ("inside", "algorithm", "cache"),
    [
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head"]}, "fbgemm_fp8", "none"),
        (
            {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"type": "float", "num_bits": 8}},
            "FP8",
            "FP8",
        ),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": "NVFP4"}, "NVFP4", "NVFP4"),
        (None, "none", "none"),
    ],
)
def test_config_alone_declares_too(folder, inside, algorithm, cache):
    path = folder(config={"quantization_config": inside} if inside else {})
    (path / "hf_quant_config.json").unlink()
    found = read_declared(path)
    assert (found.algorithm, found.kv_cache) == (algorithm, cache)


@pytest.mark.parametrize("text", ["{", "[]", '{"quantization": 3}'])
def test_an_unreadable_declaration_is_refused(folder, text):
    path = folder()
    (path / "hf_quant_config.json").write_text(text)
    with pytest.raises(UsageError, match=r"hf_quant_config\.json: no ModelOpt quantization"):
        read_declared(path)


def test_layers_quantized_in_different_ways_are_refused_by_name(folder):
    with pytest.raises(UsageError, match="MIXED_PRECISION, layers quantized in different ways"):
        read_declared(folder(quant={"quant_algo": "MIXED_PRECISION"}))


def test_a_model_that_does_not_say_how_many_layers_it_has_is_refused(folder):
    path = folder()
    (path / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no num_hidden_layers"):
        layer_count(path)
    (path / "config.json").write_text('{"text_config": {"num_hidden_layers": 5}}')
    assert layer_count(path) == 5


def test_a_recipe_without_expectations_cannot_be_compared_and_says_so(folder, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(load_recipe("modelopt-fp8-kv").path.read_text())
    with pytest.raises(RecipeError, match=r"recipe 'mine' has no expectation file.*write mine\.expect\.yaml beside it"):
        read(folder(), str(mine))


def test_the_last_entry_that_matches_decides_and_imports_are_not_guessed():
    def by(*entries: dict[str, Any]) -> Any:
        recipe = SimpleNamespace(document={"quantize": {"quant_cfg": list(entries)}})
        return quantized_by(recipe, all_layers())

    off = {"quantizer_name": "*", "enable": False}
    on = {"quantizer_name": "*mlp*weight_quantizer", "cfg": {"num_bits": 8}}
    assert by(off) == frozenset()
    assert by(off, on) == {module for module in all_layers() if "mlp" in module}
    assert by(on, off) == frozenset()
    assert by(off, on, {"quantizer_name": "*.1.*", "enable": False}) == {
        module for module in all_layers() if "mlp" in module and ".1." not in module
    }
    assert by(off, {**on, "parent_class": "nn.Embedding"}) == frozenset()
    assert by(off, {"$import": "configs/ptq/units/base_disable_all"}) is None


def test_what_no_checkpoint_can_hold_is_named():
    assert lost_in_export(resolve_recipe(load_recipe("llama-official-fp8"), LAYERS)) == [
        "the bound 1200.0 of an activation row's maximum is not part of the checkpoint"
    ]
    assert lost_in_export(resolve_recipe(load_recipe("modelopt-fp8-kv"), LAYERS)) == []


# --- the trace


def traced(path: Path, recipe: str = "modelopt-fp8-kv") -> Trace:
    resolved = resolve_recipe(load_recipe(recipe), LAYERS)
    trace = Trace(
        evalkit="0.0",
        source={"model": "original", "weights_sha256": "1" * 64},
        recipe={"name": recipe, "sha256": resolved.sha256, "document": {}},
        quantization={"calibration": None},
        declared={},
        stored={},
        quantizers=[],
        exported={"read_back": False, "reason": "a test"},
        versions={},
        weights_sha256="0" * 64,
        files=folder_files(path),
        facts={"layers": LAYERS},
    )
    (path / TRACE_FILE).write_text(trace.to_json())
    return trace


def test_a_trace_comes_back_as_it_was_written(folder):
    path = folder()
    assert read_trace(path) is None
    trace = traced(path)
    assert read_trace(path).to_json() == trace.to_json()
    assert "evalkit.json" not in trace.files
    assert read(path, "modelopt-fp8-kv").record()["trace"]["source"] == "original"


def test_a_trace_of_another_recipe_is_named(folder):
    path = folder()
    traced(path, "modelopt-fp8")
    with pytest.raises(
        RecipeError, match=r"evalkit\.json says that recipe 'modelopt-fp8' \(.*asked for is 'modelopt-fp8-kv'"
    ):
        read(path, "modelopt-fp8-kv")


def test_a_traced_recipe_needs_no_expectations(folder, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text(load_recipe("modelopt-fp8-kv").path.read_text())
    path = folder()
    traced(path)
    assert read(path, str(mine)).quantized


def test_every_changed_file_is_named(folder):
    path = folder()
    trace = traced(path)
    (path / "config.json").write_text('{"num_hidden_layers": 3, "rope_theta": 1.0}')
    (path / "hf_quant_config.json").unlink()
    write_tensors(path / "extra.safetensors", {"x": ("BF16", (2, 2))})
    with pytest.raises(IdentityMismatchError) as caught:
        check_files(path, trace, "2" * 64)
    for fault in (
        "hf_quant_config.json is missing",
        "config.json was changed",
        "extra.safetensors was added",
        "the weights were changed",
    ):
        assert fault in str(caught.value)


def test_a_trace_of_before_is_read_and_says_nothing_of_the_source(folder):
    path = folder()
    row = json.loads(traced(path).to_json())
    del row["facts"]
    (path / TRACE_FILE).write_text(json.dumps({**row, "format": 1}))
    assert read_trace(path).facts == {}
    assert read(path, "modelopt-fp8-kv").quantized
    (path / TRACE_FILE).write_text(json.dumps({**row, "format": 2}))
    with pytest.raises(DataError, match="read it with the evalkit that wrote it"):
        read_trace(path)


@pytest.mark.parametrize("text", ["{", '{"format": 2}', '{"format": 3}', '{"format": 1, "surprise": 1}'])
def test_an_unreadable_trace_is_refused(folder, text):
    path = folder()
    (path / TRACE_FILE).write_text(text)
    with pytest.raises(DataError):
        read_trace(path)


def test_an_unknown_recipe_is_refused(folder):
    with pytest.raises((UsageError, ConfigError), match="unknown recipe 'fp9'"):
        read(folder(), "fp9")
