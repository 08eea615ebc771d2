"""A night with real engines: a tiny Llama through transformers, quantized by ModelOpt, asked by lm-eval's tasks."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import yaml

from evalkit.cli import main

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("modelopt")
pytest.importorskip("lm_eval")

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]


def load(name: str):
    return importlib.import_module(name)


def test_a_night_of_real_quantized_engines(tiny_folder, tmp_path, monkeypatch, capsys):
    """A model of random weights knows nothing, so only what a night does is looked at, not what it finds."""
    tools = load("nightly_world")
    tools.remembered(monkeypatch)
    world = tools.World(tmp_path / "world", 200)
    world.policy(
        assay={"required": ["above_chance"], "baseline_lower_min": {"mmlu": 0.01}},
        nightly={"margin_points": 20.0, "cap": 200},
        planning={"discordance": 0.1},
    )
    engine = {"adapter": "modelopt", "model": str(tiny_folder), "dtype": "float32", "device": "cpu"}
    options = {"threads": 1, "calibration": {"samples": 4, "tokens": 32}}
    file = world.suite(
        {"modelopt-fp8-kv": {"recipe": "modelopt-fp8-kv"}},
        name="real",
        engine={**engine, "options": options},
    )
    document = yaml.safe_load(file.read_text())
    document["baseline"] = {"name": "official-fp8", "recipe": "llama-official-fp8"}
    file.write_text(yaml.safe_dump(document))
    command = ["nightly", str(file), "--night", "n1", "--json", "--history", f"sqlite:///{tmp_path / 'h.sqlite'}"]
    code = main(command)
    (result,) = json.loads(capsys.readouterr().out)
    assert code in (0, 1, 3)
    assert result["engine"]["recipe"] == "modelopt-fp8-kv"
    assert result["engine"]["quantization"] != result["baseline"]["engine"]["quantization"]
    found = result["endpoints"]["mmlu"]
    assert found["probe"]["disagree"] == 0  # the same rows in the same batch give the same numbers
    assert found["watch"]["n11"] + found["watch"]["n00"] > 0
    assert found["triage"]["mean_change"] != 0.0
    assert result["speed"]["items"] == found["asked"]
    assert main(["nightly", "history", "--history", f"sqlite:///{tmp_path / 'h.sqlite'}"]) == 0
    assert "modelopt-fp8-kv" in capsys.readouterr().out
