"""MMLU through a server on a machine that has lm-eval and httpx, and neither torch nor transformers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.assets import AssetStore
from evalkit.errors import AssetError

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
LACKING = ("torch", "transformers", "accelerate", "peft", "gguf", "modelopt", "xllamacpp", "tensorrt_llm")
PROGRAM = '''
import importlib.util, json, sys
lacking, folder, tests = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]

class Hiding:
    """Finds nothing of what is lacking, as where it is not installed."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, *more):
        return None if name.partition(".")[0] in lacking else self._finder.find_spec(name, *more)

sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
assert not any(map(importlib.util.find_spec, lacking))
for name in ("brains", "model_server"):
    spec = importlib.util.spec_from_file_location(name, f"{tests}/{name}.py")
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from brains import ToyBrain
from model_server import ModelServer, vllm
from evalkit.cli import main

class Roomy(ToyBrain):
    max_length = 4096

with ModelServer(Roomy(), vllm(most=100), "toy") as server:
    code = main(
        ["run", "--adapter", "openai_server", "--model", "toy", "--option", f"base_url={server.url}", "--quiet"]
        + ["--task", "six", "--definitions", f"{folder}/definitions", "--output", f"{folder}/run", "--json"]
    )
print(json.dumps({"code": code, "loaded": [name for name in lacking if name in sys.modules]}))
'''


def test_mmlu_runs_through_a_server_where_no_engine_is_installed(tmp_path):
    for package in ("lm_eval", "httpx"):
        pytest.importorskip(package)
    try:
        AssetStore(ROOT).fetch("mmlu", splits=("test",))
    except AssetError as error:
        pytest.skip(f"no source of MMLU is reachable: {error}")
    for name in ("tasks/mmlu", "judges"):
        (tmp_path / "definitions" / name).mkdir(parents=True)
    (tmp_path / "definitions/tasks/mmlu/source.yaml").write_text((ROOT / "tasks/mmlu/source.yaml").read_text("utf-8"))
    text = (ROOT / "tasks/mmlu/mmlu-0shot.yaml").read_text("utf-8").replace("mmlu-0shot", "six", 1)
    extra = "items_per_subject: 3\nsubjects: [anatomy, astronomy]\n"
    (tmp_path / "definitions/tasks/mmlu/six.yaml").write_text(f"{text}{extra}", "utf-8")
    words = [sys.executable, "-W", "ignore", "-c", PROGRAM, json.dumps(LACKING), tmp_path, ROOT / "tests"]
    out = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False, cwd=ROOT)
    assert out.returncode == 0, out.stderr[-2000:]
    assert json.loads(out.stdout.splitlines()[-1]) == {"code": 0, "loaded": []}, out.stderr[-2000:]
    lines = (tmp_path / "run/records/six.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == 6
    assert {json.loads(line)["status"] for line in lines} == {"ok"}
