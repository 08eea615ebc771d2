"""Real MMLU, a real model: evalkit's engine and lm-eval's own model class must say the same, item by item."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks import load_benchmark
from evalkit.collect import collect
from evalkit.definitions import Definitions
from evalkit.errors import AssetError
from evalkit.records import Manifest
from evalkit.store import RunFolder, read_run
from evalkit.suite import EngineSpec

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
SUBJECTS = 20
"""Of each of the two tasks, one question: 160 continuations in all."""

PROMISED = 1e-3
"""Nats within which README.md says that log-probabilities agree in fp32: a promise, not what one machine showed."""


@pytest.fixture(scope="module")
def assets():
    for package in ("torch", "transformers", "lm_eval", "gguf"):
        pytest.importorskip(package)
    store = AssetStore(ROOT)
    try:
        store.fetch("mmlu", splits=("test",))
        store.fetch("smollm2-135m-instruct")
    except AssetError as error:
        pytest.skip(f"no source of the data or the model is reachable: {error}")
    return store


@pytest.fixture(scope="module")
def engine(assets):
    spec = EngineSpec(
        name="small", adapter="hf", model="smollm2-135m-instruct", dtype="float32", device="cpu", options={"threads": 1}
    )
    made = load_engine(spec, Resources(assets=assets))
    yield made
    made.close()


@pytest.mark.parametrize("name", ["mmlu-0shot", "mmlu-cloze"])
def test_the_same_items_the_same_numbers_the_same_hashes(assets, engine, name, tmp_path):
    everything = Definitions(ROOT).task(name)
    subjects = tuple(sorted(_subjects(assets)))[:SUBJECTS]
    definition = everything.model_copy(update={"items_per_subject": 1, "subjects": subjects})
    benchmark = load_benchmark(definition, assets)
    manifest = Manifest(
        evalkit="0", engine=engine.identity, tasks={name: benchmark.task_run}, created_at="2020-01-01T00:00:00Z"
    )
    with RunFolder.create_or_resume(tmp_path / "run", manifest) as folder:
        collect(folder, engine, [benchmark], progress=False)
    records = {record.key.rsplit("/", 1)[0]: record for record in read_run(tmp_path / "run").records[name]}
    assert len(records) == SUBJECTS

    samples = _lm_eval_samples(engine, benchmark)
    differences, decided = [], 0
    for item in benchmark.items:
        record, sample = records[item.key], samples[item.details["lm_eval_task"]]
        theirs = [pair[0] for pair in sample["filtered_resps"]]
        ours = list(record.reply.logprobs)
        assert [pair[1] for pair in sample["arguments"]] == list(item.continuations)
        differences += [abs(left - right) for left, right in zip(ours, theirs, strict=True)]
        assert _hashes(item.details) == _hashes(sample)
        assert _task_hash(item.details) == _task_hash(sample)
        if not _decided(theirs, item.continuations):
            continue
        decided += 1
        assert ours.index(max(ours)) == theirs.index(max(theirs))
        assert [bool(pair[1]) for pair in sample["filtered_resps"]] == list(record.reply.greedy)
        for metric in sample["metrics"]:
            assert record.marks[metric] == sample[metric]
    assert len(differences) == 4 * SUBJECTS
    assert max(differences) < PROMISED
    assert decided > SUBJECTS / 2, "most choices are wider than that"


def _decided(values, continuations):
    """Whether what is promised cannot change which option is the likeliest, neither in all nor for each character."""
    by_length = [value / len(text.strip()) for value, text in zip(values, continuations, strict=True)]
    margins = (sorted(numbers)[-1] - sorted(numbers)[-2] for numbers in (values, by_length))
    return min(margins) > 2 * PROMISED


def _subjects(assets):
    one_each = Definitions(ROOT).task("mmlu-0shot").model_copy(update={"items_per_subject": 1})
    return {item.subject for item in load_benchmark(one_each, assets).items}


def _lm_eval_samples(engine, benchmark):
    """Run the very same task objects by lm-eval with the very same loaded model; return task to its one sample."""
    lm_eval = pytest.importorskip("lm_eval")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    loaded = engine._loaded
    model = huggingface.HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=1, device="cpu")
    tasks = {
        item.details["lm_eval_task"]: (benchmark._sources[item.key].task, item.details["doc_id"])
        for item in benchmark.items
    }
    found = lm_eval.simple_evaluate(
        model,
        tasks=[task for task, _ in tasks.values()],
        samples={name: [row] for name, (_, row) in tasks.items()},
        bootstrap_iters=0,
        log_samples=True,
    )["samples"]
    assert all(len(rows) == 1 for rows in found.values())
    return {name: rows[0] for name, rows in found.items()}


def _hashes(row):
    return [row[name] for name in ("doc_hash", "prompt_hash", "target_hash")]


def _task_hash(row):
    return hashlib.sha256("".join(_hashes(row)).encode()).hexdigest()
