"""benchmarks/gpu_check.py: without a GPU it says so; its comparison is right wherever it runs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from evalkit.adapters.base import Resources, ScoreReply
from evalkit.assets import AssetStore

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_check.py"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "gpu_check", module)
        spec.loader.exec_module(module)
        yield module


def test_without_a_gpu_the_script_says_so_and_exits_with_2():
    environment = {"CUDA_VISIBLE_DEVICES": "", "PATH": "/usr/bin:/bin", "HOME": str(ROOT)}
    ended = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    assert "no CUDA GPU" in ended.stderr
    assert "next step: run this on a machine with an NVIDIA GPU" in ended.stderr


@pytest.mark.parametrize("recipe", ["none", "modelopt-fp8-kv"])
def test_one_device_agrees_with_itself_to_the_bit(script, tiny_folder, recipe, monkeypatch):
    monkeypatch.setattr(script.m, "cores", lambda: 1)
    case = script.Case(recipe=recipe, dtype="float32", model=str(tiny_folder))
    asked = script.text_requests(6)
    assert len({request.continuations for request in asked}) > 1
    numbers = script.compare_devices(case, ("cpu", "cpu"), asked, Resources(assets=AssetStore(ROOT)))
    assert (numbers["items"], numbers["same_choice"], numbers["largest_nats"]) == (6, 1.0, 0.0)
    assert numbers["same_quantization"]
    adapter = "hf" if recipe == "none" else "modelopt"
    assert script.row_of(case, numbers) == [adapter, recipe, "float32", "6", "100.0%", "0", "0", "the same"]


def test_differences_are_counted_by_choice_and_by_nats(script):
    def reply(*values: float) -> ScoreReply:
        return ScoreReply(logprobs=values, greedy=(False,) * len(values), tokens=(1,) * len(values))

    found = script.differences([reply(-1.0, -2.0), reply(-1.0, -2.0)], [reply(-1.5, -2.0), reply(-3.0, -2.0)])
    assert found == {"items": 2, "same_choice": 0.5, "largest_nats": 2.0, "mean_nats": 0.625}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_computes_what_the_processor_computes(script, tiny_folder):
    case = script.Case(recipe="none", dtype="float32", model=str(tiny_folder))
    numbers = script.compare_devices(
        case, ("cpu", "cuda"), script.text_requests(12), Resources(assets=AssetStore(ROOT))
    )
    assert numbers["largest_nats"] < 1e-2
