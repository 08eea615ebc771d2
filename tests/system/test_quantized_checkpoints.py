"""Checkpoints that ModelOpt wrote: by `evalkit quantize`, read back by the expanding loader, restored from a state.

A tiny random Llama amplifies every difference; its numbers bound those of trained models from above.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("modelopt")
pytest.importorskip("requests")

import torch
from safetensors.torch import load_file, save_file

from evalkit.adapters.base import Resources, ScoreRequest
from evalkit.adapters.causal.loading import load_model
from evalkit.adapters.checkpoint.reading import read_trace
from evalkit.adapters.fakequant import publishing
from evalkit.adapters.fakequant.assembly import calibrate_with
from evalkit.adapters.fakequant.exported import FORMATS, expand, unpack
from evalkit.adapters.fakequant.options import CalibrationOptions, ModelOptOptions
from evalkit.adapters.fakequant.quantize import apply_recipe, logits_of
from evalkit.adapters.modelopt import write_checkpoint
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.cli import main
from evalkit.errors import ConfigError, EngineError, IdentityMismatchError, RecipeError, UsageError
from evalkit.recipes import load_recipe, resolve_recipe
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

RESOURCES = Resources(assets=AssetStore(Path(__file__).resolve().parents[2]))
CALIBRATION = {"samples": 4, "tokens": 32}
LAYERS = 4
REQUESTS = [
    ScoreRequest(context="The harbour wakes before", continuations=(" the town does", " night", " a train leaves")),
    ScoreRequest(context="Question: Why does bread rise?\nAnswer:", continuations=(" Yeast", " The sea")),
]
TOKENS = torch.arange(5, 101).reshape(2, 48)

PACKED = (
    "modelopt-fp8",
    "modelopt-fp8-kv",
    "modelopt-fp8-kv-cast",
    "llama-official-fp8",
    "int4-awq",
    "int8-sq",
    "w4a8-awq",
    "control-fp8-saturated",
    "control-fp8-clipped",
)

AVERAGED = ("int4-awq", "w4a8-awq")
"""Packing averages the scales of layers that share an input, which makes another model."""


def spec_of(model: Path | str, recipe: str | Path, dtype: str = "float32", **options: Any) -> EngineSpec:
    return EngineSpec(
        name="tiny",
        adapter="modelopt",
        model=str(model),
        recipe=str(recipe),
        dtype=dtype,
        device="cpu",
        options={"threads": 1, **options},
    )


def needs(recipe: str | Path) -> dict[str, Any]:
    return {"calibration": CALIBRATION} if load_recipe(recipe).expectation.calibration.needed else {}


def load(model: Path, recipe: str | Path, dtype: str = "float32", **options: Any) -> Any:
    return load_engine(spec_of(model, recipe, dtype, **options), RESOURCES)


def scores(engine: Any) -> list[float]:
    replies = dict(engine.score(REQUESTS))
    return [value for index in range(len(REQUESTS)) for value in replies[index].logprobs]


def relative(found: Any, expected: Any) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def written(tiny_folder, tmp_path_factory):
    """Each recipe written once by `evalkit quantize`'s own code."""
    base = tmp_path_factory.mktemp("written")

    def write(recipe: str, dtype: str = "float32") -> Path:
        output = base / f"{recipe}-{dtype}"
        if not output.exists():
            write_checkpoint(spec_of(tiny_folder, recipe, dtype, **needs(recipe)), RESOURCES, output)
        return output

    return write


@pytest.fixture(scope="module")
def expanded(written):
    """Each of them read back once."""
    return cache(lambda recipe: load(written(recipe), recipe, checkpoint="exported"))


@pytest.fixture(scope="module")
def quantized(tiny_folder):
    """A model with its quantizers, not folded."""

    def make(recipe: str, dtype: str = "float32") -> Any:
        spec = spec_of(tiny_folder, recipe, dtype)
        options = ModelOptOptions(threads=1, calibration=CalibrationOptions(**CALIBRATION))
        loaded = load_model(spec, options, RESOURCES)
        read = load_recipe(recipe)
        apply_recipe(loaded.model, resolve_recipe(read, LAYERS), calibrate_with(read, loaded, options), fold=False)
        return loaded.model

    return make


# --- reading back what was packed


@pytest.mark.parametrize("recipe", PACKED)
def test_an_expanded_checkpoint_is_the_model_it_was_packed_from(expanded, quantized, recipe):
    model, copy = quantized(recipe), expanded(recipe)._loaded.model
    if recipe in AVERAGED:
        _average_scales(model)
    check_alike(model, copy)
    for place in numbers_to_spoil(copy):
        with spoiled(place), pytest.raises(AssertionError):
            check_alike(model, copy)


def check_alike(model: Any, copy: Any) -> None:
    """Assert that two models hold the same numbers, and that their quantizers round the same ones to the same.

    Their logits cannot tell. Packed weights (code times scale) differ in the last bit of fp32; a sum near the middle of
    two codes then falls on the other side, and all that follows moves by up to 2e-2, as sums in another order move it.
    """
    modules, theirs = dict(copy.named_modules()), dict(copy.named_parameters())
    calls = quantizer_calls(model)
    assert calls.keys() == quantizer_calls(copy).keys()
    for name, (given, rounded) in calls.items():
        quantizer = modules[name]
        if name.endswith(".weight_quantizer"):
            check_rounded(name, given, theirs[name.removesuffix("_quantizer")], rounded)
        else:
            scale = getattr(quantizer, "pre_quant_scale", None)  # AWQ and SmoothQuant scale activations first
            check_rounded(name, given if scale is None else given * scale, quantizer(given), rounded)
    for name, numbers in model.named_parameters():
        assert f"{name}_quantizer" in calls or torch.equal(theirs[name], numbers), name


def check_rounded(name: str, numbers: Any, found: Any, expected: Any) -> None:
    """Assert that each number was rounded to the same code twice, or lies in the middle between the two."""
    further = ((found - numbers).abs() - (expected - numbers).abs()).abs()
    bits = 8 * torch.finfo(torch.float32).eps  # a division by a scale, a product with it, and the scale's own division
    assert bool((further <= bits * numbers.abs()).all()), name


def quantizer_calls(model: Any) -> dict[str, tuple[Any, Any]]:
    """What each quantizer was given and what it made of it, by its name in the model."""
    calls: dict[str, tuple[Any, Any]] = {}
    with ExitStack() as hooks:
        for name, one in model.named_modules():
            if name.endswith("_quantizer"):
                keep = partial(_keep, calls, name)
                hooks.callback(one.register_forward_hook(keep).remove)
        logits_of(model, TOKENS)
    return calls


def _keep(calls: dict[str, tuple[Any, Any]], name: str, _: Any, given: tuple[Any, ...], made: Any) -> None:
    assert name not in calls
    calls[name] = (given[0].clone(), made.clone())


def numbers_to_spoil(model: Any) -> list[Any]:
    """A packed weight, one that was not packed, and the scales of two quantizers where they have any."""
    layer = model.model.layers[2]
    scales = [
        one for part in (layer.mlp.down_proj.input_quantizer, layer.self_attn.k_bmm_quantizer) for one in part.buffers()
    ]
    return [layer.mlp.up_proj.weight, layer.input_layernorm.weight, *scales]


@contextmanager
def spoiled(numbers: Any) -> Iterator[None]:
    """One part in a hundred too large inside."""
    right = numbers.clone()
    numbers.data.mul_(1.01)
    yield
    numbers.data.copy_(right)


def _average_scales(model: Any) -> None:
    from modelopt.torch.export.unified_export_hf import (  # noqa: PLC0415 - slow to import
        requantize_resmooth_fused_llm_layers,
    )

    requantize_resmooth_fused_llm_layers(model)


def test_packing_awq_makes_another_model_and_the_trace_says_so(expanded, written, quantized, other_processor):
    model, packed = quantized("int4-awq"), expanded("int4-awq")._loaded.model
    here = logits_of(model, TOKENS)
    with other_processor.other_processor(1):
        rounding = relative(logits_of(model, TOKENS), here)  # 4-bit weights alone: no activation is rounded
    told = read_trace(written("int4-awq")).exported["logits_relative_error"]
    assert min(told, relative(logits_of(packed, TOKENS), here)) > 1000 * rounding > 0.0
    assert read_trace(written("modelopt-fp8")).exported["logits_relative_error"] < told / 3


@pytest.mark.parametrize(("dtype", "least", "most"), [("float32", 0.0, 1e-3), ("bfloat16", 0.005, 0.05)])
def test_packed_codes_are_at_most_one_step_from_the_simulated_ones(written, quantized, dtype, least, most):
    """In bf16, packing divides in bf16 and rounds twice: some codes fall on the neighbour. Simulation works in fp32."""
    tensors = load_file(written("modelopt-fp8", dtype) / "model.safetensors")
    different, count = 0, 0
    for name, module in quantized("modelopt-fp8", dtype).named_modules():
        if f"{name}.weight_scale" not in tensors:
            continue
        scale = tensors[f"{name}.weight_scale"].float()
        codes = (module.weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        steps = (_ordered(codes) - _ordered(tensors[f"{name}.weight"])).abs()
        assert int(steps.max()) <= 1
        different, count = different + int((steps > 0).sum()), count + steps.numel()
    assert count > 100_000
    assert least <= different / count <= most


def _ordered(codes: Any) -> Any:
    """Number FP8 codes by size, so that neighbours differ by one."""
    bits = codes.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


@pytest.mark.parametrize("recipe", PACKED)
def test_an_expanded_checkpoint_is_read_back_in_the_words_of_the_recipe(expanded, written, recipe):
    identity = expanded(recipe).identity
    expected = load_recipe(recipe).expectation
    assert (identity.adapter, identity.fidelity, identity.recipe) == ("modelopt", "dequantised", recipe)
    assert identity.recipe_sha256 == resolve_recipe(load_recipe(recipe), LAYERS).sha256
    assert identity.quantization["algorithm"] == expected.algorithm
    assert identity.quantization["kv_cache"] == expected.kv_cache
    assert sum(identity.quantization["enabled"].values()) == expected.enabled_quantizers.in_model(LAYERS)
    assert identity.quantization["trace"]["recipe_sha256"] == identity.recipe_sha256
    assert identity.weights_sha256 == read_trace(written(recipe)).weights_sha256


def test_end_tokens_are_those_of_the_folder(written, tmp_path):
    folder = shutil.copytree(written("modelopt-fp8"), tmp_path / "copy")
    (folder / "evalkit.json").unlink()
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": [1, 7]}))
    engine = load(folder, "modelopt-fp8", checkpoint="exported")
    assert engine.identity.options["end_tokens"] == [1, 7]


def test_codes_are_unpacked_low_half_first():
    packed = torch.tensor([[0xF1, 0x87]], dtype=torch.uint8)
    assert unpack(packed).tolist() == [[1.0, 7.0], [-1.0, -8.0]]
    scale = torch.tensor([[2.0], [10.0]])
    assert expand(packed, scale).tolist() == [[2.0, 14.0], [-10.0, -80.0]]


def test_4_bit_codes_with_a_second_scale_are_unpacked_to_fp8():
    packed, scale = torch.tensor([[0xF1, 0x87]], dtype=torch.uint8), torch.tensor([[1.1], [1.0]])
    rounded = expand(packed, scale, torch.tensor([0.1]))
    assert rounded.tolist() == [pytest.approx([1.1, 8.0]), pytest.approx([-1.0, -8.0])], "77 is between 72 and 80"
    with pytest.raises(ValueError, match="2 second scales for one matrix"):
        expand(packed, scale, torch.ones(2))
    with pytest.raises(ValueError, match=r"a second scale for codes of type torch\.int8"):
        expand(torch.zeros(2, 4, dtype=torch.int8), torch.ones(2), torch.ones(1))


@pytest.mark.parametrize(
    ("codes", "scale", "seen"),
    [
        (torch.zeros(2, 4, dtype=torch.int8), torch.ones(3), "3 scales for 2 rows"),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.ones(4, 3), "for 4 rows of 4 values"),
        (torch.zeros(2, 4, dtype=torch.uint8), torch.ones(2, 2), "for 4 rows of 4 values"),
        (torch.zeros(2, 4, dtype=torch.int16), torch.ones(2), "codes of type torch.int16"),
    ],
)
def test_codes_and_scales_that_do_not_belong_together_are_refused(codes, scale, seen):
    with pytest.raises(ValueError, match=seen):
        expand(codes, scale)


# --- what cannot be expanded


def test_a_format_that_cannot_be_expanded_is_refused_by_name(written, tiny_folder, tmp_path, monkeypatch):
    folder = written("int8-sq")
    monkeypatch.delitem(FORMATS, "W8A8_SQ_PER_CHANNEL")
    with pytest.raises(UsageError, match=r"the format W8A8_SQ_PER_CHANNEL cannot be expanded; these can: FP8, .*W4A16"):
        load(folder, "int8-sq", checkpoint="exported")
    trace = write_checkpoint(spec_of(tiny_folder, "int8-sq", **needs("int8-sq")), RESOURCES, tmp_path / "unread")
    assert trace.exported == {"read_back": False, "reason": "W8A8_SQ_PER_CHANNEL cannot be expanded"}


def test_another_recipe_than_the_checkpoints_is_refused(written):
    with pytest.raises(RecipeError, match=r"recipe 'modelopt-fp8' \(.*asked for is 'modelopt-fp8-kv'"):
        load(written("modelopt-fp8"), "modelopt-fp8-kv", checkpoint="exported")


def test_a_changed_checkpoint_is_refused(written, tmp_path):
    folder = shutil.copytree(written("modelopt-fp8"), tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] *= 2
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IdentityMismatchError, match="the weights were changed"):
        load(folder, "modelopt-fp8", checkpoint="exported")


@pytest.mark.parametrize(
    ("lacking", "fault"),
    [
        ("model.layers.1.mlp.up_proj.input_scale", "1 layers have no input_scale, which FP8 needs"),
        (
            "model.layers.1.mlp.up_proj.weight_scale",
            r"up_proj\.weight' holds codes \(torch\.float8_e4m3fn\) and has no scale",
        ),
        ("model.norm.weight", "1 tensors are missing"),
    ],
)
def test_a_checkpoint_with_a_hole_is_refused(written, tmp_path, lacking, fault):
    folder = shutil.copytree(written("modelopt-fp8"), tmp_path / "copy")
    (folder / "evalkit.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    del tensors[lacking]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match=fault):
        load(folder, "modelopt-fp8", checkpoint="exported")


def test_an_original_model_is_no_exported_one(tiny_folder):
    with pytest.raises(UsageError, match=r"no hf_quant_config\.json.*next step: leave out the option checkpoint"):
        load(tiny_folder, "modelopt-fp8", checkpoint="exported")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"trust_state": True}, "trust_state: only a state checkpoint has a state"),
        (
            {"checkpoint": "exported", "calibration": CALIBRATION},
            "the scales of a checkpoint of kind 'exported' are fixed",
        ),
        (
            {"checkpoint": "exported", "device_map": "auto"},
            "device_map: an exported checkpoint is expanded on one device",
        ),
        ({"checkpoint": "packed"}, "unknown checkpoint 'packed'"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options, fault):
    with pytest.raises(ConfigError, match=fault):
        load(Path("/nowhere"), "modelopt-fp8", **options)


# --- a state checkpoint


@pytest.fixture(scope="module")
def state(tiny_folder, quantized, tmp_path_factory):
    """Weights, scales and a state file, as ModelOpt's own hook saves them."""
    from modelopt.torch import opt as mto  # noqa: PLC0415 - slow to import

    base = tmp_path_factory.mktemp("states")

    def save(recipe: str) -> Path:
        folder = base / recipe
        if not folder.exists():
            model = quantized(recipe, "bfloat16")
            model.save_pretrained(folder)
            torch.save(mto.modelopt_state(model), folder / "modelopt_state.pth")
            for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
                shutil.copy(tiny_folder / name, folder)
        return folder

    return save


@pytest.mark.parametrize("recipe", ["modelopt-fp8-kv", "llama-official-fp8", "int4-awq", "int8-sq", "w4a8-awq"])
def test_a_restored_state_is_the_model_that_was_saved(state, tiny_folder, recipe):
    restored = load(state(recipe), recipe, "bfloat16", checkpoint="state")
    applied = load(tiny_folder, recipe, "bfloat16", **needs(recipe))
    assert scores(restored) == scores(applied)
    told = restored.identity.quantization
    assert restored.identity.fidelity == "simulated"
    assert told["state"]["read"] == "restricted"
    assert {**told, "state": None, "calibration": None} == {
        **applied.identity.quantization,
        "state": None,
        "calibration": None,
    }


def test_a_state_of_another_recipe_is_refused(state):
    with pytest.raises(RecipeError, match="recipe 'modelopt-fp8' was not applied as declared"):
        load(state("modelopt-fp8-kv"), "modelopt-fp8", "bfloat16", checkpoint="state")


def test_a_state_that_may_run_code_is_refused_unless_trusted_and_that_is_recorded(state, tmp_path):
    folder = shutil.copytree(state("modelopt-fp8-kv"), tmp_path / "copy")
    path = folder / "modelopt_state.pth"
    torch.save({**torch.load(path), "made_by": pathlib.PurePosixPath("somebody")}, path)
    with pytest.raises(UsageError, match=r"could run any code\. Next step: only if you know .* \{trust_state: true\}"):
        load(folder, "modelopt-fp8-kv", "bfloat16", checkpoint="state")
    engine = load(folder, "modelopt-fp8-kv", "bfloat16", checkpoint="state", trust_state=True)
    assert engine.identity.quantization["state"]["read"] == "trusted"
    assert (
        engine.identity.sha256
        != load(state("modelopt-fp8-kv"), "modelopt-fp8-kv", "bfloat16", checkpoint="state").identity.sha256
    )


def test_a_state_without_quantizers_is_refused(state, tmp_path):
    folder = shutil.copytree(state("modelopt-fp8-kv"), tmp_path / "copy")
    path = folder / "modelopt_state.pth"
    torch.save({**torch.load(path), "modelopt_state_dict": []}, path)
    with pytest.raises(RecipeError, match="are not of one checkpoint: 0 scales are missing and 64 are not wanted"):
        load(folder, "modelopt-fp8-kv", "bfloat16", checkpoint="state")


def test_weights_without_their_scales_are_refused(state, tmp_path):
    folder = shutil.copytree(state("modelopt-fp8-kv"), tmp_path / "copy")
    tensors = {name: one for name, one in load_file(folder / "model.safetensors").items() if "_quantizer" not in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RecipeError, match="64 scales are missing and 0 are not wanted"):
        load(folder, "modelopt-fp8-kv", "bfloat16", checkpoint="state")


@pytest.mark.parametrize("content", [b"", b"no pickle at all", b"\x80\x02."])
def test_a_damaged_state_is_refused(state, tmp_path, content):
    folder = shutil.copytree(state("modelopt-fp8-kv"), tmp_path / "copy")
    (folder / "modelopt_state.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"modelopt_state\.pth: (damaged state file|is a pickle)"):
        load(folder, "modelopt-fp8-kv", "bfloat16", checkpoint="state")


# --- evalkit quantize


def quantize(*arguments: str) -> int:
    return main(["quantize", *arguments, "--option", "threads=1"])


def test_quantize_writes_a_checkpoint_with_its_trace(tiny_folder, tmp_path, capsys):
    output = tmp_path / "new" / "checkpoint"
    arguments = ["--model", str(tiny_folder), "--recipe", "llama-official-fp8", "--dtype", "float32", "--device", "cpu"]
    assert quantize(*arguments, "--output", str(output)) == 0
    shown = capsys.readouterr().out
    assert "algorithm FP8_PER_CHANNEL_PER_TOKEN, key-value cache none" in shown
    assert "read back: relative error of the logits" in shown
    assert "note: the bound 1200.0 of an activation row's maximum is not part of the checkpoint" in shown
    trace = read_trace(output)
    assert trace.recipe["sha256"] == resolve_recipe(load_recipe("llama-official-fp8"), LAYERS).sha256
    assert trace.source["model"] == "tiny-llama"
    assert len(trace.quantizers) == 12
    assert trace.stored["weights"] == {"FP8": 6}
    names = {path.name for path in output.iterdir()}
    assert names == {*trace.files, "evalkit.json"}
    assert {path.stat().st_mode & 0o077 for path in output.iterdir()} == {
        (output / "config.json").stat().st_mode & 0o077
    }
    assert str(tmp_path) not in (output / "evalkit.json").read_text()
    assert list(tmp_path.joinpath("new").iterdir()) == [output], "nothing beside it is left"


def test_quantizing_again_gives_the_same_bytes(written, tiny_folder, tmp_path):
    first = written("modelopt-fp8-kv")
    spec = spec_of(tiny_folder, "modelopt-fp8-kv", **needs("modelopt-fp8-kv"))
    write_checkpoint(spec, RESOURCES, tmp_path / "again")
    assert (tmp_path / "again" / "evalkit.json").read_bytes() == (first / "evalkit.json").read_bytes()


def test_an_occupied_folder_is_refused_and_an_empty_one_is_filled(tiny_folder, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("kept")
    (tmp_path / "empty").mkdir()
    arguments = ["--model", str(tiny_folder), "--recipe", "llama-official-fp8", "--device", "cpu", "--json"]
    assert quantize(*arguments, "--output", str(tmp_path / "full")) == 2
    assert "full: exists and is not empty; next step: name a new folder with --output" in capsys.readouterr().err
    assert (tmp_path / "full" / "mine").read_text() == "kept"
    assert quantize(*arguments, "--output", str(tmp_path / "empty")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights_sha256"] == read_trace(tmp_path / "empty").weights_sha256


def test_an_engine_of_a_suite_can_be_named(tiny_folder, tmp_path, capsys):
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        f"name: s\npolicy: demo\nengine: {{adapter: modelopt, model: {tiny_folder}, device: cpu}}\n"
        "baseline: {name: official, recipe: llama-official-fp8}\n"
        "candidates: [{name: plain, adapter: hf}]\ntasks: [mmlu-cloze-demo]\n"
    )
    assert main(["quantize", f"{suite}#official", "--output", str(tmp_path / "out"), "--quiet"]) == 0
    assert read_trace(tmp_path / "out").recipe["name"] == "llama-official-fp8"
    assert main(["quantize", f"{suite}#plain", "--output", str(tmp_path / "none")]) == 2
    assert "no engine 'plain' with adapter modelopt" in capsys.readouterr().err
    assert main(["quantize", "--recipe", "int4-awq", "--output", str(tmp_path / "none")]) == 2


def test_nothing_is_left_after_an_error(tiny_folder, tmp_path, monkeypatch):
    def half(loaded: Any, folder: Path, *, progress: bool) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise EngineError("the disk is full")

    monkeypatch.setattr(publishing, "_export", half)
    with pytest.raises(EngineError, match="the disk is full"):
        write_checkpoint(spec_of(tiny_folder, "llama-official-fp8"), RESOURCES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_written_checkpoint_that_is_not_the_model_is_never_published(tiny_folder, tmp_path, monkeypatch):
    original = publishing._export

    def spoiled(loaded: Any, folder: Path, *, progress: bool) -> None:
        original(loaded, folder, progress=progress)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        changed = {name: one * 50 if name.endswith("weight_scale") else one for name, one in tensors.items()}
        save_file(changed, path, metadata={"format": "pt"})

    monkeypatch.setattr(publishing, "_export", spoiled)
    spec = spec_of(tiny_folder, "modelopt-fp8", **needs("modelopt-fp8"))
    with pytest.raises(RecipeError, match=r"has nothing to do with the model it was made from \(relative error"):
        write_checkpoint(spec, RESOURCES, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_that_names_it(tiny_folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngineError, match=r"file/out: cannot be written"):
        write_checkpoint(spec_of(tiny_folder, "llama-official-fp8"), RESOURCES, tmp_path / "file" / "out")


def test_a_model_spread_over_devices_is_written_and_not_read_back(tiny_folder, tmp_path):
    trace = write_checkpoint(spec_of(tiny_folder, "llama-official-fp8", device_map="cpu"), RESOURCES, tmp_path / "out")
    assert trace.exported == {"read_back": False, "reason": "the model was spread over devices, and is expanded on one"}
    assert trace.stored["weights"] == {"FP8": 6}


def test_blocks_that_do_not_divide_the_rows_cannot_be_packed(tiny_folder, tmp_path):
    text = load_recipe("int4-awq").path.read_text()
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("{-1: 128,", "{-1: 96,"))
    spec = spec_of(tiny_folder, mine, calibration=CALIBRATION)
    with pytest.raises(RecipeError, match="recipe 'mine': its blocks of 96 do not divide the rows of 128 values"):
        write_checkpoint(spec, RESOURCES, tmp_path / "out")


def test_a_recipe_that_no_server_runs_is_an_error_of_modelopts(tiny_folder, tmp_path):
    with pytest.raises(EngineError, match="ModelOpt cannot write this model: NotImplementedError"):
        write_checkpoint(spec_of(tiny_folder, "control-rtn3"), RESOURCES, tmp_path / "out")


def test_only_original_weights_are_quantized(written, tmp_path):
    spec = spec_of(written("modelopt-fp8"), "modelopt-fp8", checkpoint="exported")
    with pytest.raises(
        UsageError, match="option checkpoint is 'exported'; a checkpoint is written from original weights"
    ):
        write_checkpoint(spec, RESOURCES, tmp_path / "out")
    with pytest.raises(UsageError, match="this is an exported ModelOpt checkpoint"):
        write_checkpoint(replace_options(spec), RESOURCES, tmp_path / "out")


def replace_options(spec: EngineSpec) -> EngineSpec:
    return spec.model_copy(update={"options": {"threads": 1}})
