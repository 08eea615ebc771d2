from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from evalkit.errors import ConfigError, UsageError
from evalkit.recipes import Recipe, load_recipe, recipe_names, resolve_recipe

RECIPE = """\
metadata: {recipe_type: ptq, description: all but the first and the last layer}
quantize:
  algorithm: max
  quant_cfg:
    - {quantizer_name: '*', enable: false}
    - {quantizer_name: '*[kv]_proj.weight_quantizer', cfg: {num_bits: e4m3, block_sizes: {-1: 128, type: static}}}
    - {quantizer_name: '*layers.{last_layer}.*', enable: false}
    - {$import: configs/ptq/units/base_disable_all}
"""

EXPECT = """\
title: A recipe for tests
algorithm: FP8
kv_cache: none
enabled_quantizers: {per_layer: 6, layers_excluded: 2}
calibration: {needed: true, samples: 8, tokens: 64, asset: null}
devices: [cpu, cuda]
control: false
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    (tmp_path / "fp8.yaml").write_text(RECIPE)
    (tmp_path / "fp8.expect.yaml").write_text(EXPECT)
    return tmp_path


def loaded(library: Path, document: Any) -> Recipe:
    path = library / "other.yaml"
    path.write_text(yaml.safe_dump(document))
    return load_recipe(path)


def test_a_recipe_of_the_library_has_its_expectation(library: Path) -> None:
    assert recipe_names(library) == ["fp8"]
    recipe = load_recipe("fp8", library=library)
    assert recipe.document["quantize"]["quant_cfg"][1]["cfg"]["block_sizes"] == {-1: 128, "type": "static"}
    assert recipe.expectation.enabled_quantizers is not None
    assert recipe.expectation.enabled_quantizers.in_model(30) == 168
    assert recipe.expectation.enabled_quantizers.in_model(1) == 0
    assert recipe.expectation.declared


def test_the_last_layer_is_written_in_and_the_recipe_is_left_alone(library: Path) -> None:
    recipe = load_recipe("fp8", library=library)
    resolved = resolve_recipe(recipe, 30)
    assert resolved.document["quantize"]["quant_cfg"][2]["quantizer_name"] == "*layers.29.*"
    assert recipe.document["quantize"]["quant_cfg"][2]["quantizer_name"] == "*layers.{last_layer}.*"
    assert "{last_layer}" not in str(resolved.document)
    assert len({recipe.sha256, resolved.sha256, resolve_recipe(recipe, 31).sha256}) == 3
    assert resolve_recipe(recipe, 30).sha256 == resolved.sha256
    with pytest.raises(UsageError, match="0 layers"):
        resolve_recipe(recipe, 0)


def test_the_digest_is_of_content(library: Path) -> None:
    digest = load_recipe("fp8", library=library).sha256
    (library / "fp8.yaml").write_text("# why\n" + RECIPE)
    assert load_recipe("fp8", library=library).sha256 == digest
    (library / "fp8.yaml").write_text(RECIPE.replace("128", "64"))
    assert load_recipe("fp8", library=library).sha256 != digest


def test_a_recipe_without_expectation_file_says_so(library: Path) -> None:
    (library / "bare.yaml").write_text(RECIPE)
    expectation = load_recipe(library / "bare.yaml").expectation
    assert (expectation.declared, expectation.enabled_quantizers, expectation.kv_cache) == (False, None, None)


def test_unknown_names_are_answered_with_the_closest(library: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'pf8'; did you mean 'fp8'"):
        load_recipe("pf8", library=library)
    with pytest.raises(UsageError, match="the model as it is stored"):
        load_recipe("none", library=library)
    with pytest.raises(UsageError, match="no such file"):
        load_recipe("./fp8", library=library)


ENTRY = {"quantizer_name": "*", "enable": False}


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ([1], "a recipe is a mapping with the key 'quantize'"),
        ({"quantise": {}}, "unknown key 'quantise'; did you mean 'quantize'"),
        ({"quantize": {"quant_cfg": [ENTRY]}}, "missing key 'quantize.algorithm'"),
        ({"quantize": {"algorithm": "max", "quant_cfg": {"*": {"enable": False}}}}, "form before ModelOpt 0.44"),
        ({"quantize": {"algorithm": "max", "quant_cfg": []}}, "must be a list"),
        ({"quantize": {"algorithm": "max", "quant_cfg": [7]}}, "'quantize.quant_cfg.0' must be a mapping"),
        ({"quantize": {"algorithm": "max", "quant_cfg": [{"cfg": {}}]}}, "has no 'quantizer_name'"),
        ({"quantize": {"algorithm": "max", "quant_cfg": [ENTRY], "algo": 1}}, "unknown key 'quantize.algo'"),
        (
            {"quantize": {"algorithm": "max", "quant_cfg": [{"quantizer_name": "*.{lst_layer}.*"}]}},
            "has '{lst_layer}'; the only placeholder is {last_layer}",
        ),
        (
            {"quantize": {"algorithm": "max", "quant_cfg": [{"quantizer_name": "*.{last_layer"}]}},
            "has '{last_layer'; the only placeholder",
        ),
    ],
)
def test_only_the_list_form_is_accepted(library: Path, document: Any, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(library, document)
    assert any(fault in sentence for sentence in caught.value.faults), caught.value.faults


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("algorithm: FP8\n", "", "missing key 'algorithm'"),
        ("per_layer", "per_leyer", "unknown key 'enabled_quantizers.per_leyer'; did you mean 'per_layer'?"),
        ("[cpu, cuda]", "[gpu]", "unknown devices.0 'gpu'"),
        ("control: false", "declared: true", "unknown key 'declared'"),
    ],
)
def test_faults_of_an_expectation_name_its_file(library: Path, old: str, new: str, fault: str) -> None:
    assert old in EXPECT
    (library / "fp8.expect.yaml").write_text(EXPECT.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_recipe("fp8", library=library)
    assert caught.value.source.endswith("fp8.expect.yaml")
    assert any(sentence.startswith(fault) for sentence in caught.value.faults), caught.value.faults
