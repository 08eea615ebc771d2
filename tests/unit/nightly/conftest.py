from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from evalkit.cli import main

ROOT = Path(__file__).resolve().parents[3]


def load(name: str):
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory):
    """800 questions; a baseline that has 86 % of them right."""
    pytest.importorskip("lm_eval")
    tools = load("nightly_world")
    world = tools.World(tmp_path_factory.mktemp("nights"), 800)
    world.key("good", world.flipped(losses=4, gains=4, seed=3))
    world.key("bad", world.flipped(losses=60, gains=4, seed=4))
    stored = world.root / "stored" / "official-fp8"
    suite = world.suite({"any": {}}, name="stored")
    assert main(["run", f"{suite}#official-fp8", "--output", str(stored), "--quiet"]) == 0
    return SimpleNamespace(world=world, tools=tools, stored=stored)


@pytest.fixture
def night(small_world, monkeypatch, tmp_path, capsys):
    """Run nights of a suite of one's own; `run` returns (exit code, results, stderr)."""
    small_world.tools.remembered(monkeypatch)
    world = small_world.world
    monkeypatch.setenv("EVALKIT_HISTORY", "none")

    def candidate(key: str, **options):
        return {"recipe": "modelopt-fp8-kv", "seed": 2, "key": str(world.root / f"{key}.key.jsonl"), **options}

    def suite(candidates, *, policy=None, **changes) -> Path:
        world.policy(**{"nightly": {"margin_points": 3.0, "cap": 500}, **(policy or {})})
        own = tmp_path / "nightly.policy.yaml"
        own.write_text((world.root / "nightly.policy.yaml").read_text())
        changes = {"outputs": str(tmp_path / "outputs"), "policy": str(own), **changes}
        made = world.suite(candidates, name="small", **changes)
        file = tmp_path / "small.yaml"
        file.write_text(made.read_text())
        baseline = tmp_path / "outputs" / "official-fp8"
        if "baseline" not in changes and not baseline.exists():
            shutil.copytree(small_world.stored, baseline)
        return file

    def run(file: Path, *more: str, label: str = "2026-03-01"):
        capsys.readouterr()
        code = main(["nightly", str(file), "--night", label, "--json", *more])
        told = capsys.readouterr()
        return code, json.loads(told.out) if told.out else None, told.err

    return SimpleNamespace(
        candidate=candidate,
        suite=suite,
        run=run,
        world=world,
        outputs=tmp_path / "outputs",
        nights=tmp_path / "outputs" / "nights",
    )
