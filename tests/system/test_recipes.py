"""Every recipe of the library that runs on a processor, applied by ModelOpt to a tiny random Llama; and what is wrong.

The model is float32, so that quantized weights can be recognised to the last step of their grid.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("modelopt")
pytest.importorskip("requests")

import torch
from transformers import AutoModelForCausalLM

from evalkit.adapters.base import Resources, ScoreRequest
from evalkit.adapters.fakequant.backends import quantize_rows
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import ConfigError, RecipeError, UsageError
from evalkit.recipes import load_recipe, recipe_names, resolve_recipe
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 4
CALIBRATION = {"samples": 4, "tokens": 32}
RECIPES = [name for name in recipe_names() if "cpu" in load_recipe(name).expectation.devices]
REQUESTS = [
    ScoreRequest(context="The harbour wakes before", continuations=(" the town does", " night", " a train leaves")),
    ScoreRequest(context="Question: Why does bread rise?\nAnswer:", continuations=(" Yeast", " The sea")),
]
E4M3 = {"num_bits": "e4m3", "axis": None}
FP32_OF_LOGITS = 1000 * 2.0**-24
"""Nats: ten log-probabilities of logits below 64, each right to a few units in its last place of fp32."""


@pytest.fixture(scope="module")
def load(tiny_folder):
    resources = Resources(assets=AssetStore(ROOT))

    def load(
        recipe: str | Path,
        model: Path = tiny_folder,
        adapter: str = "modelopt",
        dtype: Literal["float32", "float64"] = "float32",
        **options: Any,
    ) -> Any:
        if adapter == "modelopt":
            options = {"calibration": CALIBRATION, **options}
        spec = EngineSpec(
            name="tiny",
            adapter=adapter,
            model=str(model),
            recipe=str(recipe),
            dtype=dtype,
            device="cpu",
            options={"threads": 1, **options},
        )
        return load_engine(spec, resources)

    return load


@pytest.fixture(scope="module")
def engines(load):
    """Each recipe applied once; "none" is the model as it is stored."""
    made: dict[str, Any] = {}

    def engine(recipe: str) -> Any:
        if recipe not in made:
            made[recipe] = load(recipe, adapter="hf" if recipe == "none" else "modelopt")
        return made[recipe]

    return engine


def scores(engine: Any) -> list[float]:
    replies = dict(engine.score(REQUESTS))
    return [value for index in range(len(REQUESTS)) for value in replies[index].logprobs]


def weights(engine: Any) -> dict[str, Any]:
    return dict(engine._loaded.model.named_parameters())


def quantized(recipe: str, name: str) -> bool:
    """Whether a recipe of the library quantizes a parameter, as its title says."""
    linear = name.startswith("model.layers.") and name.endswith("_proj.weight")
    if recipe != "llama-official-fp8":
        return linear
    return linear and ".mlp." in name and name.split(".")[2] not in ("0", str(LAYERS - 1))


@pytest.fixture
def written(tmp_path):
    """Write a recipe file, with an expectation if one is given; returns its path."""

    def write(entries: list[dict[str, Any]], algorithm: Any = "max", expect: dict[str, Any] | None = None, **more: Any):
        path = tmp_path / "mine.yaml"
        document = {"metadata": {"recipe_type": "ptq"}, "quantize": {"algorithm": algorithm, "quant_cfg": entries}}
        path.write_text(yaml.safe_dump({**document, **more}))
        if expect is not None:
            (tmp_path / "mine.expect.yaml").write_text(yaml.safe_dump({"title": "mine", "algorithm": "FP8", **expect}))
        return path

    return write


def off(*patterns: str) -> list[dict[str, Any]]:
    return [{"quantizer_name": pattern, "enable": False} for pattern in patterns]


def on(pattern: str, **cfg: Any) -> dict[str, Any]:
    return {"quantizer_name": pattern, "cfg": {**E4M3, **cfg}}


EMBEDDINGS_OFF = {"quantizer_name": "*", "parent_class": "nn.Embedding", "enable": False}
FP8 = [*off("*"), on("*weight_quantizer"), on("*input_quantizer"), EMBEDDINGS_OFF, *off("*lm_head*")]
NEEDS, NEEDS_NOT = {"calibration": {"needed": True}}, {"calibration": {"needed": False}}


# --- what the library promises


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_read_back_as_it_is_declared(engines, recipe):
    identity, expected = engines(recipe).identity, load_recipe(recipe).expectation
    assert (identity.recipe, identity.fidelity, identity.adapter) == (recipe, "simulated", "modelopt")
    assert identity.recipe_sha256 == resolve_recipe(load_recipe(recipe), LAYERS).sha256
    assert identity.quantization["algorithm"] == expected.algorithm
    assert identity.quantization["kv_cache"] == expected.kv_cache
    assert sum(identity.quantization["enabled"].values()) == expected.enabled_quantizers.in_model(LAYERS)
    assert identity.quantization["padded_blocks"] == 0
    record = identity.quantization["calibration"]
    assert (record is not None) == expected.calibration.needed
    assert record is None or (record["samples"], record["tokens"]) == (4, 32)
    assert "nvidia-modelopt" in identity.versions


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_changes_the_weights_it_names_and_no_other(engines, recipe):
    before, after = weights(engines("none")), weights(engines(recipe))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if quantized(recipe, name)}
    assert len(changed) == (6 if recipe == "llama-official-fp8" else 7 * LAYERS)


@pytest.mark.parametrize("recipe", RECIPES)
def test_changed_weights_lie_on_the_grid_of_their_format(engines, recipe):
    before, after = weights(engines("none")), weights(engines(recipe))
    for name in before:
        if quantized(recipe, name):
            assert off_grid(recipe, after[name]) < 1e-3
            assert off_grid(recipe, before[name]) > 1e-2


def off_grid(recipe: str, weight: Any) -> float:
    """How far weights are from whole steps of their format, in steps; scales are found from the weights themselves."""
    grids = {
        "control-rtn2": (2, weight.shape[1]),
        "control-rtn3": (3, weight.shape[1]),
        "int4-awq": (4, 128),
        "int8-sq": (8, weight.shape[1]),
    }
    if recipe in grids:
        bits, size = grids[recipe]
        blocks = weight.reshape(-1, size)
        codes = blocks / (blocks.abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1))
        return float((codes - codes.round()).abs().max())
    if recipe == "w4a8-awq":  # rounded twice: 16 levels a block, each moved to the nearest FP8 number
        return float(max(len(block.unique()) > 16 for block in weight.reshape(-1, 128)))
    row = recipe == "llama-official-fp8"
    largest = weight.abs().amax(dim=1, keepdim=True) if row else weight.abs().max()
    codes = weight / (largest / 448.0)
    return float((codes - codes.to(torch.float8_e4m3fn).float()).abs().max())


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_engine_with_a_recipe_gives_other_numbers_and_finite_ones(engines, recipe):
    found = scores(engines(recipe))
    assert all(map(math.isfinite, found))
    assert max(abs(a - b) for a, b in zip(found, scores(engines("none")), strict=True)) > 1e-3


@pytest.mark.parametrize("recipe", RECIPES)
def test_loading_again_gives_the_same_engine(engines, load, recipe):
    assert load(recipe).identity.sha256 == engines(recipe).identity.sha256
    # Other batches add in another order. In float64 no sum moves by a step of FP8; what is left is the fp32 of logits.
    once, again = (load(recipe, dtype="float64", **limits) for limits in ({}, {"max_batch_tokens": 7}))
    assert again.identity.sha256 == once.identity.sha256
    assert scores(again) == pytest.approx(scores(once), abs=FP32_OF_LOGITS)


def test_no_two_recipes_make_the_same_engine(engines):
    assert len({engines(recipe).identity.sha256 for recipe in RECIPES}) == len(RECIPES)
    assert len({tuple(scores(engines(recipe))) for recipe in RECIPES}) == len(RECIPES)


def test_other_calibration_texts_make_another_engine(load, engines, tmp_path):
    (tmp_path / "texts.txt").write_text("A single sentence, said again and again. " * 40)
    other = load("modelopt-fp8", calibration={"file": str(tmp_path / "texts.txt"), **CALIBRATION})
    assert other.identity.sha256 != engines("modelopt-fp8").identity.sha256
    assert other.identity.quantization["calibration"]["source"] == "texts.txt"
    assert str(tmp_path) not in str(other.identity)


def test_the_official_recipe_bounds_the_maximum_of_a_row_at_1200(engines):
    layers = engines("llama-official-fp8")._loaded.model.model.layers
    rows = torch.tensor([[5000.0, 100.0, -3000.0, 3.0], [1000.0, 100.0, -900.0, 3.0]])
    bounded = layers[1].mlp.down_proj.input_quantizer(rows)
    assert bounded[0].tolist()[::2] == [1200.0, -1200.0]
    assert float(bounded[1, 0]) == pytest.approx(1000.0)
    assert torch.equal(bounded, quantize_rows(rows, 1200.0))
    assert torch.equal(bounded[1], quantize_rows(rows, 1e9)[1])
    assert float(quantize_rows(rows, 1e9)[0, 0]) == pytest.approx(5000.0)
    assert torch.equal(layers[0].mlp.down_proj.input_quantizer(rows), rows), "the first layer stays unquantized"


def test_a_lower_bound_changes_the_numbers_of_the_official_recipe(load, engines, tmp_path):
    document = load_recipe("llama-official-fp8").document
    found = {}
    for bound in (0.5, 1e6):
        path = tmp_path / "bound.yaml"
        text = yaml.safe_dump(document)
        assert text.count("scale_ub: 1200.0") == 1
        path.write_text(text.replace("scale_ub: 1200.0", f"scale_ub: {bound}"))
        found[bound] = scores(load(path))
    official = scores(engines("llama-official-fp8"))
    assert found[1e6] == official, "no activation of this model reaches 1200"
    assert max(abs(a - b) for a, b in zip(found[0.5], official, strict=True)) > 1e-2


def test_rows_are_rounded_to_fp8_with_a_scale_of_their_own():
    rows = torch.tensor([[448.0, 17.0, 0.0], [44.8, 1.7, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[448.0, 16.0, 0.0], [44.8, 1.6, 0.0], [0.0, 0.0, 0.0]])
    assert torch.allclose(quantize_rows(rows, 1200.0), expected, rtol=1e-6)
    assert quantize_rows(rows.bfloat16(), 1200.0).dtype == torch.bfloat16


def test_a_quantized_cache_is_in_effect(engines):
    kinds = [scores(engines(name)) for name in ("modelopt-fp8", "modelopt-fp8-kv", "modelopt-fp8-kv-cast")]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert max(abs(a - b) for a, b in zip(kinds[one], kinds[other], strict=True)) > 1e-4


# --- what is refused


def test_a_recipe_that_was_not_calibrated_is_refused(load, written):
    path = written(FP8, expect={"enabled_quantizers": {"per_layer": 14}, **NEEDS_NOT})
    with pytest.raises(RecipeError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith("recipe 'mine' was not applied as declared:")
    assert "model.layers.0.self_attn.q_proj.input_quantizer" in message
    assert "and 25 more: no finite scale was calibrated" in message
    assert "Next step: calibrate (option calibration)" in message


def test_another_number_of_quantizers_than_declared_is_refused(load, written):
    path = written(FP8, expect={"enabled_quantizers": {"per_layer": 13}, **NEEDS})
    with pytest.raises(RecipeError) as caught:
        load(path)
    assert "recipe 'mine'" in str(caught.value)
    assert "56 quantizers are enabled (28 input, 28 weight); declared are 52 (13 in each of 4 layers)" in str(
        caught.value
    )
    assert "Next step: correct the patterns in quant_cfg, or enabled_quantizers in the expectation file" in str(
        caught.value
    )


def test_all_faults_of_a_recipe_are_reported_together(load, written):
    expect = {"algorithm": "W4A16", "kv_cache": "FP8", "enabled_quantizers": {"per_layer": 16}, **NEEDS}
    with pytest.raises(RecipeError) as caught:
        load(written(FP8[:-1], expect=expect))
    _, *faults = str(caught.value).split("\n  - ")
    assert [fault.split(" ")[0] for fault in faults] == ["58", "lm_head.input_quantizer,", "algorithm", "KV"]


@pytest.mark.parametrize(
    ("entries", "seen"),
    [
        ([*off("*"), on("*no_such_module.weight_quantizer")], "no quantizer is enabled|no weight quantizer is enabled"),
        (
            [*off("*"), on("*weight_quantizer"), on("*input_quantizer", type="dynamic"), *off("*lm_head*")],
            "one dynamic scale for a whole batch.*write block_sizes",
        ),
    ],
)
def test_recipes_that_do_not_do_what_they_seem_to_are_refused(load, written, entries, seen):
    with pytest.raises(RecipeError, match=rf"(?s)recipe 'mine'.*({seen})"):
        load(written(entries))


def test_a_key_that_modelopt_does_not_know_is_refused_by_recipe_and_key(load, written):
    with pytest.raises(ConfigError, match=r"(?s)recipe 'mine': ModelOpt refuses it: .*num_bitz"):
        load(written([*off("*"), {"quantizer_name": "*weight_quantizer", "cfg": {"num_bitz": 8}}]))


def test_a_backend_without_its_bound_is_refused(load, written):
    rows = {"type": "dynamic", "block_sizes": {-1: None}, "backend": "fp8_rowwise_ub"}
    for more, seen in (({}, "None"), ({"backend_extra_args": {"scale_ub": -1}}, "-1")):
        entries = [*off("*"), on("*mlp*weight_quantizer", axis=0), on("*mlp*input_quantizer", **rows, **more)]
        with pytest.raises(ConfigError) as caught:
            load(written(entries))
        assert str(caught.value) == (
            f"recipe 'mine': 'quantize.quant_cfg.2': backend fp8_rowwise_ub has the bound {seen}; "
            "write backend_extra_args: {scale_ub: 1200.0}, or leave out backend for no bound"
        )


def test_an_unknown_key_of_a_recipe_file_is_refused_before_anything_is_loaded(load, written):
    path = written(FP8, metdata={"recipe_type": "ptq"})
    with pytest.raises(ConfigError) as caught:
        load(path, model=Path("/nowhere"))
    assert str(caught.value) == f"{path}: unknown key 'metdata'; did you mean 'metadata'?"


def test_an_unknown_recipe_is_answered_with_the_closest(load):
    with pytest.raises(UsageError, match="unknown recipe 'int4-awk'; did you mean 'int4-awq'"):
        load("int4-awk", model=Path("/nowhere"))


def test_formats_without_a_processor_kernel_are_refused_before_anything_is_loaded(load, written):
    mx = {"block_sizes": {-1: 32, "type": "dynamic", "scale_bits": [8, 0]}}
    path = written([*off("*"), on("*weight_quantizer", **mx)])
    for recipe, seen in (("nvfp4", "recipe 'nvfp4' uses NVFP4"), (path, "recipe 'mine' uses an MX format")):
        with pytest.raises(
            UsageError, match=f"{seen}, which ModelOpt computes on CUDA GPUs only; next step: device: cu"
        ):
            load(recipe, model=Path("/nowhere"))


@pytest.fixture(scope="module")
def checkpoints(tiny_folder, tmp_path_factory):
    """What ModelOpt itself writes: an exported FP8 checkpoint, and the original model with a state file beside it."""
    mto = pytest.importorskip("modelopt.torch.opt")  # late: importing it takes seconds and warns
    mtq = pytest.importorskip("modelopt.torch.quantization")
    export = pytest.importorskip("modelopt.torch.export")
    folder = tmp_path_factory.mktemp("checkpoints")
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16).eval()
    tokens = torch.arange(64)[None]
    mtq.quantize(model, mtq.FP8_DEFAULT_CFG, forward_loop=lambda one: one(input_ids=tokens))
    model.save_pretrained(folder / "state")
    torch.save(mto.modelopt_state(model), folder / "state" / "modelopt_state.pth")
    model.config.dtype = torch.bfloat16  # saving turned it into a word, which the export cannot read
    export.export_hf_checkpoint(model, export_dir=folder / "exported")
    return SimpleNamespace(exported=folder / "exported", state=folder / "state")


@pytest.mark.parametrize(("adapter", "recipe"), [("hf", "none"), ("modelopt", "modelopt-fp8")])
def test_an_exported_checkpoint_is_refused_with_the_engines_that_read_it(load, checkpoints, adapter, recipe):
    assert (checkpoints.exported / "hf_quant_config.json").exists()
    with pytest.raises(UsageError) as caught:
        load(recipe, model=checkpoints.exported, adapter=adapter)
    message = str(caught.value)
    assert message.startswith(f"{checkpoints.exported}: this is an exported ModelOpt checkpoint")
    assert "TensorRT-LLM and vLLM; next step: serve it with one of them" in message


@pytest.mark.parametrize(("adapter", "recipe"), [("hf", "none"), ("modelopt", "modelopt-fp8")])
def test_a_state_checkpoint_is_refused_because_it_would_run_unquantized(load, checkpoints, adapter, recipe):
    with pytest.raises(UsageError) as caught:
        load(recipe, model=checkpoints.state, adapter=adapter)
    message = str(caught.value)
    assert message.startswith(f"{checkpoints.state}: modelopt_state.pth marks a ModelOpt state checkpoint")
    assert "next step: give the original model and use adapter 'modelopt' with a recipe" in message


def test_calibration_text_that_is_too_short_is_refused_with_the_numbers(load, tmp_path):
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(
        UsageError, match=r"short\.txt: \d+ tokens of calibration text; 4 rows of 32 tokens need 128; next"
    ):
        load("modelopt-fp8", calibration={"file": str(tmp_path / "short.txt"), **CALIBRATION})
