"""What doctor says of extras: all that the distribution declares, from its own metadata."""

from __future__ import annotations

import importlib
from importlib import metadata
from pathlib import Path

import pytest

from evalkit import doctor
from evalkit.assets import AssetStore
from evalkit.doctor import examine, extras_of

ROOT = Path(__file__).resolve().parents[3]


def declared() -> dict[str, list[str]]:
    """Extras as the project file has them."""
    try:
        toml = importlib.import_module("tomllib")
    except ImportError:
        toml = pytest.importorskip("tomli")
    return dict(toml.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])


def as_metadata(extras: dict[str, list[str]]) -> list[str]:
    return ["click>=8", *(f"{line}; extra == '{extra}'" for extra, lines in extras.items() for line in lines)]


@pytest.fixture
def findings(monkeypatch, tmp_path):
    def look(lines):
        monkeypatch.setattr(doctor.metadata, "requires", lambda _name: lines)
        found = examine(AssetStore(ROOT), {"outputs": tmp_path}, online=False)
        return {one.name: one for one in found if one.area == "extra"}

    return look


def test_every_extra_of_the_project_is_looked_at_whatever_will_be_added(findings):
    extras = declared()
    assert {"hf", "modelopt", "mmlu", "server", "llama", "trtllm", "fastchat", "plots", "sign"} <= extras.keys()
    assert findings(as_metadata(extras)).keys() == extras.keys()


def test_an_extra_brings_what_the_extras_in_it_bring():
    found = extras_of(as_metadata(declared()))
    assert {"torch", "transformers", "lm-eval", "nvidia-modelopt"} <= set(found["modelopt"])
    for extra in ("hf", "modelopt", "llama", "trtllm"):
        assert "lm-eval" in found[extra], "MMLU can be run wherever an engine is"
    assert found["server"] == ("h11", "httpx"), "a judge behind a server needs no more"
    assert not {"torch", "transformers"} & {*found["mmlu"], *found["server"], *found["llama"], *found["trtllm"]}


@pytest.mark.parametrize(
    "line",
    ['psycopg[binary]>=3.2; extra == "x"', "psycopg [binary] >=3.2 ; python_version >= '3.10' and extra == 'x'"],
)
def test_requirements_are_read_however_they_are_written(line):
    assert extras_of([line]) == {"x": ("psycopg",)}


def test_extras_that_name_one_another_end():
    lines = ['evalkit-quant[b]; extra == "a"', 'evalkit-quant[a]; extra == "b"', 'one; extra == "b"']
    assert extras_of(lines) == {"a": ("one",), "b": ("one",)}


def test_what_is_missing_is_said_with_the_line_that_installs_it(findings):
    found = findings(["numpy; extra == 'here'", "no-such-package-of-anyone; extra == 'there'"])
    assert (found["here"].state, found["there"].state) == ("ok", "gap")
    assert found["there"].seen == "missing: no-such-package-of-anyone"
    assert found["there"].next_step == "pip install 'evalkit-quant[there]'"


def test_a_checkout_that_was_never_installed_is_a_gap(monkeypatch, tmp_path):
    def lacking(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", lacking)
    (found,) = [one for one in examine(AssetStore(ROOT), {}, online=False) if one.area == "extra"]
    assert (found.state, "not installed" in found.seen) == ("gap", True)
