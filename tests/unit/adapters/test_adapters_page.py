"""docs/adapters.md: every example is accepted by its adapter, and every option of a server's adapters is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from evalkit.adapters.base import read_options
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.adapters.harness.options import HarnessOptions
from evalkit.adapters.llama.options import LlamaOptions
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.registry import adapter_names
from evalkit.adapters.scripting.options import ScriptedOptions
from evalkit.recipes import load_recipe
from evalkit.suite import EngineSpec

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "adapters.md").read_text("utf-8")
OPTIONS = {
    "hf": CausalOptions,
    "modelopt": ModelOptOptions,
    "openai_server": ServerOptions,
    "llama_cpp": LlamaOptions,
    "lm_eval": HarnessOptions,
    "scripted": ScriptedOptions,
}
EXAMPLES = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["adapter"])
def test_an_example_is_accepted(example):
    spec = EngineSpec(name="example", **example)
    assert read_options(OPTIONS[spec.adapter], spec)
    assert spec.adapter in adapter_names()
    assert spec.recipe == "none" or load_recipe(spec.recipe)


def test_every_adapter_of_the_table_has_an_example():
    table = re.findall(r"^\| `(\w+)` \| .* \| .* \| .* \| .* \|$", PAGE, re.MULTILINE)
    assert set(OPTIONS) <= set(table)
    assert {example["adapter"] for example in EXAMPLES} >= set(OPTIONS)


@pytest.mark.parametrize("model", [ServerOptions, LlamaOptions, HarnessOptions], ids=lambda model: model.__name__)
def test_every_option_is_explained_with_its_default(model):
    rows = {
        name: row
        for row in PAGE.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert set(model.model_fields) <= rows.keys()


@pytest.mark.parametrize(("model", "names"), [(ServerOptions, ("concurrency", "timeout_s", "retries", "check_every"))])
def test_defaults_of_the_page_are_those_of_the_code(model, names):
    for name in names:
        default = model.model_fields[name].default
        row = next(row for row in PAGE.splitlines() if row.startswith("| `") and f"`{name}`" in row.split("|")[1])
        assert str(int(default)) in row.split("|")[3]
