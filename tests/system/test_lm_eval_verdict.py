"""Two output folders of lm-eval's own, and evalkit's own runs of the same items: one and the same verdict.

lm-eval runs three tiny models with its own model class and writes its files with its own code. evalkit runs the same
three by its adapter. Both ways end in `evalkit certify`, and everything that is decided must be equal.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks.lm_eval import LmEvalBenchmark
from evalkit.cli import main
from evalkit.collect import collect
from evalkit.definitions import TaskDefinition
from evalkit.errors import ExitCode
from evalkit.policy import load_policy
from evalkit.records import Manifest
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
TASK = "lm_eval:harbour"
GROUPS = ("boats", "nets")
ROWS = 110
"""Of each of the two tasks."""

WORDS = ("harbour", "boat", "gull", "rope", "lamp", "bread", "engine", "net", "water", "town", "deck", "coil")
MODELS = ("official", "near", "far")


def _rows(group: str) -> list[dict[str, Any]]:
    start = GROUPS.index(group) * 5
    return [
        {
            "question": f"The {WORDS[(start + n) % 12]} and the {WORDS[(start + 5 * n + n // 12) % 12]}, number {n}:",
            "choices": [f"a {WORDS[(n * k + k + start) % 12]} of {WORDS[(n + 3 * k) % 12]}" for k in (1, 2, 3)],
            "answer": (n * n + start) % 3,
        }
        for n in range(ROWS)
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "transformers", "lm_eval"):
        pytest.importorskip(package)
    root = tmp_path_factory.mktemp("tasks")
    for group in GROUPS:
        (root / f"{group}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(group)))
        task = {
            "task": f"harbour_{group}",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(root / f"{group}.jsonl")}, "cache_dir": str(root / "cache")},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}\nAnswer:",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        }
        (root / f"harbour_{group}.yaml").write_text(yaml.safe_dump(task, sort_keys=False))
    names = [f"harbour_{group}" for group in GROUPS]
    weighted = [{"metric": "acc", "weight_by_size": True}]
    whole = {"group": "harbour", "task": names, "aggregate_metric_list": weighted}
    (root / "harbour.yaml").write_text(yaml.safe_dump(whole))
    return root


@pytest.fixture(scope="module")
def models(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny model, the same with a little noise in its weights, and another one altogether."""
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    made = sys.modules.get("tiny_models") or _tiny_models()
    root = tmp_path_factory.mktemp("models")
    near = AutoModelForCausalLM.from_pretrained(tiny_folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in near.parameters():
            parameter.add_(0.01 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    near.save_pretrained(root / "near")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(root / "near")
    return {"official": tiny_folder, "near": root / "near", "far": made.write_tiny_llama(root / "far", seed=5)}


def _tiny_models() -> Any:
    return importlib.import_module("tiny_models")


def _by_lm_eval(model: Path, tasks: Path, output: Path) -> None:
    """Run lm-eval with its own model class and let it write its files with its own code."""
    import lm_eval  # noqa: PLC0415
    from lm_eval.loggers import EvaluationTracker  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    tracker = EvaluationTracker(output_path=str(output))
    results = lm_eval.simple_evaluate(
        "hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=["harbour"],
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        task_manager=TaskManager(include_defaults=False, include_path=str(tasks)),
        evaluation_tracker=tracker,
        log_samples=True,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])


def _by_evalkit(name: str, model: Path, tasks: Path, output: Path) -> None:
    spec = EngineSpec(name=name, adapter="hf", model=str(model), dtype="float32", device="cpu", options={"threads": 1})
    definition = TaskDefinition(
        name=TASK,
        kind="choice",
        benchmark="lm_eval",
        protocol="lm-eval-0shot",
        metric="acc",
        lm_eval={"task": "harbour", "shots": 0},
    )
    benchmark = LmEvalBenchmark(definition, rows=None, dataset={}, include=tasks)
    engine = load_engine(spec, Resources(assets=AssetStore(ROOT)))
    try:
        manifest = Manifest(
            evalkit="0",
            engine=engine.identity,
            tasks={TASK: benchmark.task_run},
            requested={"engine": {"name": name}},
            created_at="2026-01-01T00:00:00+00:00",
        )
        with RunFolder.create_or_resume(output, manifest) as folder:
            collect(folder, engine, [benchmark], progress=False)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    document = load_policy("demo").model_dump(mode="json")
    endpoint = document["endpoints"]["mmlu"]
    endpoint |= {"task": TASK, "metric": "acc", "protocol": "lm-eval-0shot", "margins_points": [8.0], "chance": 0.3333}
    document["endpoints"] = {"harbour": endpoint}
    document["assay"] |= {"required": []}
    document.pop("release")
    file = tmp_path_factory.mktemp("policy") / "policy.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


@pytest.fixture(scope="module")
def certificates(tasks, models, policy, tmp_path_factory) -> dict[str, tuple[int, dict[str, Any]]]:
    """Exit code and certificate by either way."""
    root = tmp_path_factory.mktemp("runs")
    for name, model in models.items():
        _by_evalkit(name, model, tasks, root / "own" / name)
        _by_lm_eval(model, tasks, root / "files" / name)
        argv = ["run", "import", root / "files" / name, "--output", root / "theirs" / name, "--recipe", name]
        assert main([str(word) for word in argv]) == 0
    found = {}
    for way in ("own", "theirs"):
        folders = [root / way / name for name in MODELS]
        argv = ["certify", "--policy", policy, "--baseline", folders[0], "--post-hoc", "--quiet"]
        argv += ["--candidate", folders[1], "--candidate", folders[2], "--output", root / way]
        code = main([str(word) for word in argv])
        found[way] = (code, json.loads((root / way / "certificate.json").read_text()))
    return found


def _said(certificate: dict[str, Any], run: str) -> dict[str, Any]:
    """Everything that a certificate decides about a run, without who ran it."""
    (verdict,) = [one for one in certificate["decision"]["verdicts"] if one["recipe"] == run]
    comparison = certificate["comparisons"][run]["harbour"]
    return {
        "outcome": verdict["outcome"],
        "reasons": verdict["reasons"],
        "resolve": verdict["resolve"],
        "p": (verdict["p"], verdict["holm_p"]),
        "steps": [[step["state"], step["statistic"], step["p_certify"]] for step in verdict["endpoints"][0]["steps"]],
        "coverage": comparison["coverage"],
        "table": comparison["proportion"]["observed"],
        "effects": comparison["proportion"]["effects"],
        "subjects": comparison["proportion"]["subjects"],
    }


@pytest.mark.parametrize("run", MODELS[1:])
def test_either_way_says_the_same(certificates, run: str) -> None:
    own, theirs = (_said(certificates[way][1], run) for way in ("own", "theirs"))
    assert own == theirs
    assert own["coverage"]["candidate"]["scored"] == 2 * ROWS
    assert own["table"]["n10"] + own["table"]["n01"] > 0, "the models differ, or there were nothing to compare"
    assert {row["subject"] for row in own["subjects"]} == {f"harbour_{group}" for group in GROUPS}


def test_the_verdicts_are_of_both_kinds(certificates) -> None:
    """The near model is within the margin, the other is not shown to be: the two ways agree on more than one thing."""
    for way in ("own", "theirs"):
        code, certificate = certificates[way]
        assert code == ExitCode.INCONCLUSIVE, "a policy chosen after the runs certifies nothing"
        told = {one["recipe"]: one["reasons"][0] for one in certificate["decision"]["verdicts"]}
        assert {reason["code"] for reason in told.values()} == {"exploratory"}
        assert "would give CERTIFIED" in told["near"]["message"]
        assert "would give CERTIFIED" not in told["far"]["message"]


def test_what_lm_eval_s_files_cannot_say_is_said_to_be_unknown(certificates) -> None:
    engine = certificates["theirs"][1]["runs"]["near"]["engine"]
    assert engine["weights_sha256"] == "unknown"
    assert engine["recipe"] == "near"
    assert certificates["own"][1]["runs"]["near"]["engine"]["weights_sha256"] != "unknown"


def test_probabilities_agree_too(certificates) -> None:
    """Not only right and wrong: the distance between the distributions is the same to the precision of float32."""
    shifts = [certificates[way][1]["comparisons"]["far"]["harbour"]["shift"] for way in ("own", "theirs")]
    assert shifts[0]["divergence"] == pytest.approx(shifts[1]["divergence"], rel=1e-4)
    assert shifts[0]["top1_agreement"] == shifts[1]["top1_agreement"]
