from __future__ import annotations

import re
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from evalkit.adapters import registry
from evalkit.adapters.base import Resources
from evalkit.adapters.registry import adapter_names, load_engine
from evalkit.errors import ConfigError, EngineError, MissingExtraError, UsageError
from evalkit.suite import EngineSpec


def load(adapter: str, **changes):
    spec = EngineSpec(**{"name": "mine", "adapter": adapter, "model": "nothing", **changes})
    return load_engine(spec, Resources(assets=None))


@pytest.fixture
def every_package(monkeypatch):
    """Pretend that every package is installed, or none but those not in `lacking`."""

    def lacking(*names: str) -> None:
        for adapter in ("hf", "modelopt"):
            monkeypatch.setattr(
                f"evalkit.adapters.{adapter}.find_spec", lambda name: None if name in names else ModuleSpec(name, None)
            )

    lacking()
    return lacking


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a distribution `acme-engines` whose adapter `acme` is the given module text."""

    def install(text: str) -> None:
        (tmp_path / "acme_adapter.py").write_text(text)
        info = tmp_path / "acme_engines-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-engines\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[evalkit.adapters]\nacme = acme_adapter\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "acme_adapter", raising=False)

    return install


def test_an_adapter_is_a_file_and_has_a_line_about_it():
    names = adapter_names()
    assert {"hf", "modelopt", "scripted"} <= names.keys()
    assert {"base", "registry", "processor", "__init__", "causal", "fakequant", "scripting"}.isdisjoint(names)
    assert all(names.values())


def test_a_built_in_adapter_is_a_module_that_loads_an_engine():
    folder = Path(registry.__file__).parent
    loading = {path.stem for path in folder.glob("*.py") if re.search(r"^def load\(", path.read_text(), re.MULTILINE)}
    assert set(adapter_names()) == loading, "what adapters share is no adapter"


def test_an_unknown_adapter_is_answered_with_the_closest():
    with pytest.raises(UsageError, match="unknown adapter 'model-opt'; did you mean 'modelopt'"):
        load("model-opt")


def test_an_adapter_of_another_package_is_listed_and_loaded(installed):
    installed("SUMMARY = 'x'\ndef load(spec, resources):\n    return f'engine {spec.name}'\n")
    assert adapter_names()["acme"] == "from acme-engines"
    assert load("acme") == "engine mine"


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("import not_there_at_all", "ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("raise OSError('no driver')", "OSError: no driver"),
    ],
)
def test_an_adapter_that_cannot_be_imported_names_its_package_and_the_next_step(installed, text, seen):
    installed(text)
    assert adapter_names()["acme"] == "from acme-engines"
    with pytest.raises(EngineError) as caught:
        load("acme")
    assert str(caught.value) == (
        f"adapter 'acme' of package 'acme-engines' (acme_adapter) cannot be imported: {seen}; "
        "next step: repair or uninstall that package"
    )


def test_an_adapter_without_load_names_its_package(installed):
    installed("SUMMARY = 'x'")
    with pytest.raises(EngineError, match="adapter 'acme' of package 'acme-engines' has no function 'load'"):
        load("acme")


@pytest.mark.parametrize(
    ("adapter", "package", "extra"),
    [("hf", "torch", "hf"), ("hf", "transformers", "hf"), ("modelopt", "modelopt", "modelopt"),
     ("modelopt", "requests", "modelopt")],
)  # fmt: skip
def test_a_missing_package_is_named_with_the_line_that_installs_it(every_package, adapter, package, extra):
    every_package(package)
    with pytest.raises(MissingExtraError) as caught:
        load(adapter, recipe="none" if adapter == "hf" else "int4-awq")
    assert str(caught.value) == (
        f"adapter '{adapter}' needs the package '{package}', which is not installed; "
        f"next step: pip install 'evalkit-quant[{extra}]'"
    )


def test_hf_takes_no_recipe_and_says_which_adapter_does(every_package):
    with pytest.raises(UsageError, match=r"engine 'mine': .* not recipe 'int4-awq'; next step: adapter: modelopt"):
        load("hf", recipe="int4-awq")


def test_modelopt_needs_a_recipe_and_says_where_they_are_listed(every_package):
    with pytest.raises(UsageError, match=r"engine 'mine': .* needs a recipe; next step: name one \(evalkit list rec"):
        load("modelopt")


@pytest.mark.parametrize(
    ("adapter", "options", "fault"),
    [
        ("hf", {"thread": 1}, "engine 'mine', options: unknown key 'thread'; did you mean 'threads'?"),
        ("hf", {"max_length": "8k"}, "'max_length' should be a valid integer, not '8k'"),
        ("hf", {"scoring": "quick"}, "unknown scoring 'quick'"),
        ("hf", {"calibration": {}}, "unknown key 'calibration'"),
        ("modelopt", {"calibration": {"sample": 1}}, "unknown key 'calibration.sample'; did you mean 'samples'?"),
        (
            "modelopt",
            {"calibration": {"tokens": 7}},
            "'calibration.tokens' should be greater than or equal to 8, not 7",
        ),
    ],
)
def test_a_wrong_option_is_named_with_its_value(every_package, adapter, options, fault):
    with pytest.raises(ConfigError) as caught:
        load(adapter, recipe="none" if adapter == "hf" else "int4-awq", options=options)
    assert fault in str(caught.value)
