"""docs/tensorrt-llm.md: its examples are accepted, its options and formats are those of the code."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from evalkit.adapters.base import read_options
from evalkit.adapters.checkpoint.reading import Trace
from evalkit.adapters.fakequant.options import ModelOptOptions
from evalkit.adapters.trtllm.loading import LENGTH
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.cli import VERBS
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "tensorrt-llm.md").read_text("utf-8")
OPTIONS = {"modelopt": ModelOptOptions, "tensorrt_llm": TensorRTOptions}
ROWS = [row for row in PAGE.splitlines() if row.startswith("| `")]


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_an_example_is_accepted(text):
    spec = EngineSpec(name="example", **yaml.safe_load(text))
    assert read_options(OPTIONS[spec.adapter], spec)


def test_every_option_is_explained_with_its_default():
    rows = {name: row for row in ROWS for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(TensorRTOptions.model_fields) <= rows.keys()
    for name in ("memory_fraction", "top_logprobs", "fallback", "scoring", "kv_cache"):
        assert rows[name].split("|")[2].strip() == str(TensorRTOptions.model_fields[name].default)
    assert str(LENGTH) in rows["max_length"]


def test_every_key_of_the_trace_is_explained():
    explained = {name for row in ROWS for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert {one.name for one in fields(Trace)} - {"format", "evalkit", "versions"} <= explained


def test_every_format_that_can_be_expanded_is_named():
    formats = pytest.importorskip("evalkit.adapters.fakequant.exported", exc_type=ImportError).FORMATS
    named = {row.split("|")[1].strip().strip("`") for row in ROWS}
    assert set(formats) <= named


def test_the_verbs_exist():
    assert set(re.findall(r"^evalkit (\w+)", PAGE, re.MULTILINE)) <= set(VERBS)
