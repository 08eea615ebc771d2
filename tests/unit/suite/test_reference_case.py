"""The reference case as shipped: its suite and policy load, its options are known, and it can be planned anywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.adapters.base import read_options
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.definitions import find_definitions
from evalkit.policy import load_policy
from evalkit.recipes import load_recipe
from evalkit.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "examples" / "llama-3.1-405b-h200.yaml"


@pytest.fixture(scope="module")
def suite():
    return load_suite(FILE)


def test_it_compares_two_recipes_with_the_official_one_in_the_same_engine(suite):
    engines = {engine.name: engine for engine in suite.engines}
    assert {name: engine.recipe for name, engine in engines.items()} == {
        "official-fp8": "llama-official-fp8",
        "modelopt-fp8-kv": "modelopt-fp8-kv",
        "int4-awq": "int4-awq",
        "control": "control-fp8-saturated",
        "near-control": "control-fp8-clipped",
    }
    assert {engine.adapter for engine in engines.values()} == {"tensorrt_llm"}
    read = {name: read_options(TensorRTOptions, engine) for name, engine in engines.items()}
    assert {name: options.tensor_parallel for name, options in read.items()} == {
        "official-fp8": 8,
        "modelopt-fp8-kv": 8,
        "int4-awq": 2,
        "control": 8,
        "near-control": 8,
    }
    assert {options.max_length for options in read.values()} == {8192}, "limits that differ would differ in what fails"
    read_options(TensorRTOptions, suite.rerun_engine)
    for engine in engines.values():
        assert load_recipe(engine.recipe).expectation.declared
        assert Path(engine.model).is_absolute() or engine.model.startswith("./")


def test_its_control_is_the_baselines_model_so_that_tokenizer_and_template_are_the_same(suite):
    text = FILE.read_text("utf-8")
    made = dict(re.findall(r"evalkit quantize --model \S+ --recipe (\S+) --output (\S+)", text))
    models = set(re.findall(r"evalkit quantize --model (\S+) ", text))
    assert len(models) == 1, "every checkpoint is made from one model"
    for engine in suite.engines:
        assert Path(engine.model).resolve() == (ROOT / made[engine.recipe]).resolve()
    for engine in suite.controls:
        assert load_recipe(engine.recipe).expectation.control
        assert load_recipe(engine.recipe).expectation.algorithm == "FP8", "what TensorRT-LLM reads"


def test_its_tasks_are_those_its_policy_decides_by(suite):
    policy = load_policy(suite.policy)
    assert policy.name == "release"
    assert {endpoint.task for endpoint in policy.endpoints.values()} <= set(suite.tasks) == {"mmlu", "mt-bench-sampled"}
    definitions = find_definitions()
    protocols = {endpoint.task: endpoint.protocol for endpoint in policy.endpoints.values()}
    assert {task: definitions.task(task).protocol for task in suite.tasks} == protocols
    assert suite.rerun is not None
    assert suite.controls


def test_its_judge_is_reached_over_http_and_asked_as_often_as_the_policy_wants(suite):
    assert suite.judge.engine.adapter == "openai_server"
    read_options(ServerOptions, suite.judge.engine)
    assert suite.judge.repeats == 2
    assert suite.judge.qualify


def test_it_can_be_planned_without_a_gpu(capsys):
    assert cli.main(["plan", str(FILE), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["policy"], plan["recipes"]) == ("release", 2)
    sizes = {endpoint["name"]: endpoint["size"] for endpoint in plan["endpoints"]}
    assert sizes == {"mmlu": 14042, "mt_bench": 80}
    assert not any("no controls" in line or "run twice" in line for line in plan["warnings"])
