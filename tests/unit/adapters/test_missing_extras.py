"""An adapter whose packages are not installed says which pip line brings them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import adapter_names, load_engine, reusable
from evalkit.assets import AssetStore
from evalkit.errors import ExitCode, MissingExtraError
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [("openai_server", "httpx", "server"), ("llama_cpp", "xllamacpp", "llama"), ("lm_eval", "lm_eval", "hf")],
)
def test_a_missing_package_names_its_extra(monkeypatch, adapter, package, extra):
    module = importlib.import_module(f"evalkit.adapters.{adapter}")
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(MissingExtraError, match=rf"pip install 'evalkit-quant\[{extra}\]'") as caught:
        load_engine(EngineSpec(name="a", adapter=adapter, model="m"), Resources(assets=AssetStore(ROOT)))
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_adapters_of_servers_are_listed_with_a_line_each():
    names = adapter_names()
    assert all(names[name] for name in ("openai_server", "llama_cpp", "lm_eval"))


@pytest.mark.parametrize(
    ("adapter", "options", "expected"),
    [
        ("hf", {}, True),
        ("llama_cpp", {}, True),
        ("openai_server", {"base_url": "http://h"}, False),
        ("openai_server", {"base_url": "http://h", "weights_sha256": "ab" * 32}, True),
        ("lm_eval", {"model_args": {"pretrained": "x"}}, True),
        ("lm_eval", {"model_args": {"base_url": "http://h"}}, False),
        ("lm_eval", {"model_args": {"base_url": "http://h"}, "weights_sha256": "ab" * 32}, True),
        ("not-installed", {}, True),
    ],
)
def test_runs_of_engines_that_may_have_changed_are_not_reused_unseen(adapter, options, expected):
    assert reusable(EngineSpec(name="a", adapter=adapter, model="m", options=options)) is expected
