"""A checkpoint of `evalkit quantize` is the same model for transformers 4, which the stable TensorRT-LLM reads it with.

transformers 4 is a library that no one here wrote; it runs in a process of its own (`tests/second_reader.py`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("modelopt")
pytest.importorskip("requests")

import tiny_models
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from evalkit.adapters.base import Resources
from evalkit.adapters.checkpoint.resolved import config_facts, config_for_both, differences
from evalkit.adapters.fakequant import publishing
from evalkit.adapters.modelopt import write_checkpoint
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.errors import IdentityMismatchError, RecipeError
from evalkit.recipes import load_recipe
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = Resources(assets=AssetStore(ROOT))
SCALED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
MODELS = {
    "llama3": {"rope_theta": 500000.0, "rope_scaling": {**SCALED, "original_max_position_embeddings": 128}},
    "base": {"rope_theta": 100000.0, "rope_scaling": None},
    "plain": None,
}
"""Rotary embeddings as files of transformers 4 say them, as most of the hub does; None: as transformers 5 says it."""

RECIPES = {
    "llama3": ("modelopt-fp8-kv", "llama-official-fp8", "int8-sq", "int4-awq", "w4a8-awq", "control-fp8-saturated"),
    "base": ("llama-official-fp8", "modelopt-fp8", "modelopt-fp8-kv-cast"),
    "plain": ("llama-official-fp8", "control-fp8-clipped"),
}
FAMILIES = (
    *(
        "bloom",
        "cohere",
        "cohere2",
        "deepseek_v3",
        "exaone4",
        "falcon",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
    ),
    *(
        "gpt2",
        "gpt_neox",
        "gpt_oss",
        "granite",
        "llama",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo2",
        "opt",
        "phi",
        "phi3",
    ),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2"),
)
SEVEN = {"rope_parameters": {"rope_theta": 7.0, "rope_type": "default"}, "rope_scaling": None, "rope_theta": 7.0}
FEW = {"calibration": {"samples": 1, "tokens": 16}}


def published(folder: Path, rope: dict[str, Any] | None) -> Path:
    """Write the tiny model as transformers 4 would have published it."""
    tiny_models.write_tiny_llama(folder)
    if rope is not None:
        config = json.loads((folder / "config.json").read_text())
        config = {name: value for name, value in config.items() if name not in ("rope_parameters", "dtype")}
        config |= {**rope, "torch_dtype": "float32", "transformers_version": "4.43.0"}
        (folder / "config.json").write_text(json.dumps(config))
        words = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tiny_models.END, "model_max_length": 512}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder


def spec_of(model: Path, recipe: str, **options: Any) -> EngineSpec:
    return EngineSpec(
        name="tiny",
        adapter="modelopt",
        model=str(model),
        recipe=recipe,
        dtype="float32",
        device="cpu",
        options={"threads": 1, **options},
    )


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("sources")
    return {name: published(base / name, rope) for name, rope in MODELS.items()}


@pytest.fixture(scope="module")
def exported(sources, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Every recipe, written by `evalkit quantize`'s own code."""
    base, found = tmp_path_factory.mktemp("exported"), {}
    for model, recipes in RECIPES.items():
        for recipe in recipes:
            more = FEW if load_recipe(recipe).expectation.calibration.needed else {}
            found[model, recipe] = base / f"{model}-{recipe}"
            write_checkpoint(spec_of(sources[model], recipe, **more), RESOURCES, found[model, recipe])
    return found


@pytest.fixture(scope="module")
def as_before(exported, tmp_path_factory) -> dict[str, Path]:
    """The same folder as transformers 5 leaves it: each with one thing that transformers 4 cannot read."""
    base = tmp_path_factory.mktemp("before")
    rope = shutil.copytree(exported["llama3", "llama-official-fp8"], base / "rope")
    config = json.loads((rope / "config.json").read_text())
    del config["rope_theta"], config["rope_scaling"]
    (rope / "config.json").write_text(json.dumps(config))
    name = shutil.copytree(exported["llama3", "llama-official-fp8"], base / "name")
    words = json.loads((name / "tokenizer_config.json").read_text())
    (name / "tokenizer_config.json").write_text(json.dumps({**words, "tokenizer_class": "TokenizersBackend"}))
    return {"rope": rope, "name": name}


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, dict[str, Any]]:
    """Configurations of model families, none with the library's own rotary base, completed for both generations."""
    base, found = tmp_path_factory.mktemp("families"), {}
    for family in FAMILIES:
        config = CONFIG_MAPPING[family]()
        parameters = getattr(config, "rope_parameters", None) or {}
        for part in (
            one for one in (parameters, *parameters.values()) if isinstance(one, dict) and "rope_theta" in one
        ):
            part["rope_theta"] *= 3.0
        folder = base / family
        config.save_pretrained(folder)
        path = folder / "config.json"
        path.write_text(json.dumps(config_for_both(json.loads(path.read_text()), {})))
        found[str(folder)] = json.loads(json.dumps(config_facts(config, 5)))
    return found


@pytest.fixture(scope="module")
def readings(exported, as_before, families, transformers_4) -> dict[int, dict[str, Any]]:
    """What transformers 5 and transformers 4 make of all of them, by generation."""
    asked = {
        "checkpoints": [str(path) for path in (*exported.values(), *as_before.values())],
        "configurations": families,
    }
    found = {}
    for generation, first in ((5, []), (4, [str(transformers_4)])):
        path = os.pathsep.join([*first, str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "second_reader.py")],
            input=json.dumps(asked),
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found[generation] = json.loads(done.stdout)
        assert found[generation]["transformers"].startswith(f"{generation}.")
    return found


def both(readings: dict[int, Any], kind: str, place: Path | str) -> tuple[Any, Any]:
    return readings[5][kind][str(place)], readings[4][kind][str(place)]


@pytest.mark.parametrize(("model", "recipe"), [(model, recipe) for model in RECIPES for recipe in RECIPES[model]])
def test_every_recipe_is_the_same_model_for_both_generations(exported, readings, model, recipe):
    new, old = both(readings, "checkpoints", exported[model, recipe])
    assert [one.get("error") for one in (new, old)] == [None, None]
    assert (new["differences"], old["differences"]) == ([], [])
    assert max(abs(here - there) for here, there in zip(new["logits"], old["logits"], strict=True)) < 1e-5


def test_a_folder_as_transformers_5_leaves_it_is_another_model_for_transformers_4_and_is_seen(as_before, readings):
    new, old = both(readings, "checkpoints", as_before["rope"])
    assert new["differences"] == []
    assert "rotary_base: 500000.0 when it was quantized, 10000.0 here" in old["differences"]
    assert any(line.startswith('rotary_scaling: {"factor": 8.0') for line in old["differences"])
    assert max(abs(here - there) for here, there in zip(new["logits"], old["logits"], strict=True)) > 0.01
    new, old = both(readings, "checkpoints", as_before["name"])
    assert new["differences"] == []
    assert old["error"].startswith("ValueError: Tokenizer class TokenizersBackend does not exist")


def test_both_generations_resolve_the_same_of_every_family_that_is_often_served(families, readings):
    for folder in families:
        assert both(readings, "configurations", folder) == ([], []), folder


def test_the_tokenizers_files_are_the_sources_own(sources, exported):
    for (model, _), folder in exported.items():
        assert (folder / "tokenizer.json").read_bytes() == (sources[model] / "tokenizer.json").read_bytes()
        if model != "plain":  # as it was published, to the byte
            name = "tokenizer_config.json"
            assert (folder / name).read_bytes() == (sources[model] / name).read_bytes()


@pytest.mark.parametrize(
    ("file", "change", "fact"),
    [
        ("config.json", SEVEN, r"rotary_base: 500000\.0 when it was quantized, 7\.0 here(?s:.*)rotary_scaling: .*None"),
        ("config.json", {"num_key_value_heads": 4}, "kv_heads: 2 when it was quantized, 4 here"),
        ("config.json", {"tie_word_embeddings": True}, "tied_embeddings: False when it was quantized, True here"),
        ("config.json", {"rms_norm_eps": 0.1}, "norm_epsilon: 1e-06 when it was quantized, 0.1 here"),
        ("tokenizer_config.json", {"eos_token": None}, "eos_token_id: 1 when it was quantized, None here"),
    ],
)  # fmt: skip
def test_an_adapter_refuses_a_folder_that_its_library_reads_as_another_model(exported, tmp_path, file, change, fact):
    """A file's digest would say so too, so it is taken out of the record: here the rules of reading changed."""
    folder = shutil.copytree(exported["llama3", "llama-official-fp8"], tmp_path / "copy")
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    record = json.loads((folder / "evalkit.json").read_text())
    del record["files"][file]
    (folder / "evalkit.json").write_text(json.dumps(record))
    with pytest.raises(
        IdentityMismatchError, match=r"reads another model out of this folder than .* quantized \(next"
    ) as said:
        load_engine(spec_of(folder, "llama-official-fp8", checkpoint="exported"), RESOURCES)
    assert re.search(fact, str(said.value))


def test_blocks_that_do_not_divide_a_row_are_refused_before_the_calibration(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_models, "HIDDEN", 96)
    source = published(tmp_path / "narrow", None)
    monkeypatch.setattr(publishing, "calibrate_with", lambda *_: pytest.fail("the calibration began"))
    with pytest.raises(RecipeError, match=r"blocks of 128 do not divide the rows of 96 values of narrow.*; next step"):
        write_checkpoint(spec_of(source, "int4-awq", **FEW), RESOURCES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_record_says_what_the_source_was_resolved_to(sources, exported):
    facts = json.loads((exported["llama3", "modelopt-fp8-kv"] / "evalkit.json").read_text())["facts"]
    assert facts["rotary_base"] == 500000.0
    assert facts["rotary_scaling"] == {**{("type" if k == "rope_type" else k): v for k, v in SCALED.items()},
                                       "original_max_position_embeddings": 128}  # fmt: skip
    assert (facts["layers"], facts["heads"], facts["kv_heads"], facts["head_dim"]) == (4, 4, 2, 32)
    assert (facts["vocabulary"], facts["tokens"], facts["dtype"], facts["eos_token_id"]) == (512, 512, "float32", 1)
    source = AutoConfig.from_pretrained(str(sources["llama3"]))
    assert differences(facts, config_facts(source, 5)) == []
