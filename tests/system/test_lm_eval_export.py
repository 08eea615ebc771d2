"""lm-eval itself, run from end to end, against evalkit's files of the same items and the same answers."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import yaml

from evalkit.adapters.base import Generation, ScoreReply
from evalkit.benchmarks.lm_eval import LmEvalBenchmark
from evalkit.collect import collect
from evalkit.definitions import TaskDefinition
from evalkit.interop import export_lm_eval, import_lm_eval, write_imported
from evalkit.records import EngineIdentity, Manifest, text_digest
from evalkit.store import RunFolder, read_items, read_run

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

LABELS = {"text": ["oak", "elm", "a long answer"], "label": ["x", "y", "z"]}
MEAN = {"aggregation": "mean", "higher_is_better": True}
ROWS = {
    "trees": [{"question": f"tree {n}?", "choices": LABELS, "answer": n % 3, "about": None} for n in range(13)],
    "towns": [{"question": f"town {n % 5}?", "choices": LABELS, "answer": n % 3, "about": 0.1 * n} for n in range(7)],
    "last": [{"text": f"the {n} end of the", "word": "story" if n % 2 else "day"} for n in range(5)],
    "sums": [{"question": f"{n} plus {n}?", "answer": str(2 * n)} for n in range(6)],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nAnswer:",
    "doc_to_choice": "{{choices.text}}",
    "doc_to_target": "answer",
    "num_fewshot": 2,
    "fewshot_split": "dev",
    "fewshot_config": {"sampler": "first_n"},
    "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
}
TASKS = {
    "woods_trees": {**CHOICE, "rows": "trees"},
    "woods_towns": {**CHOICE, "rows": "towns"},
    "lasting": {
        "rows": "last",
        "output_type": "loglikelihood",
        "doc_to_text": "{{text}}",
        "doc_to_target": "{{' '+word}}",
        "metric_list": [{"metric": "acc", **MEAN}],
    },
    "adding": {
        "rows": "sums",
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 9},
        "metric_list": [{"metric": "exact_match", **MEAN}],
    },
}
GROUP = {
    "group": "woods",
    "task": ["woods_trees", "woods_towns"],
    "aggregate_metric_list": [
        {"metric": "acc", "weight_by_size": True},
        {"metric": "acc_norm", "weight_by_size": True},
    ],
}
KINDS = {"woods": ("choice", "acc", 2), "lasting": ("choice", "acc", 0), "adding": ("text", "exact_match", 0)}


def score(salt: str, context: str, continuation: str) -> float:
    return -0.1 - int(text_digest(f"{salt}|{context}|{continuation}")[:8], 16) / 2**30


def words(salt: str, prompt: str) -> str:
    first = int(prompt.rsplit("Q: ", 1)[1].split(maxsplit=1)[0])
    return str(2 * first + int(text_digest(salt + prompt)[:2], 16) % 2)


class Engine:
    """Answers from a digest of the text alone."""

    def __init__(self, salt: str) -> None:
        self.salt = salt
        self.identity = EngineIdentity(
            adapter="digest",
            model="org/digest",
            weights_sha256="0" * 64,
            recipe="none",
            recipe_sha256=None,
            fidelity="engine",
            quantization={},
            dtype="float32",
            tokenizer_sha256="0" * 64,
            chat_template_sha256=None,
            versions={},
            device="cpu",
        )

    def score(self, requests):
        for index, request in enumerate(requests):
            scores = tuple(score(self.salt, request.context, text) for text in request.continuations)
            yield index, ScoreReply(logprobs=scores, greedy=tuple(x > -2 for x in scores), tokens=(1,) * len(scores))

    def generate(self, requests):
        for index, request in enumerate(requests):
            text = words(self.salt, request.prompt)
            yield index, Generation(text=text, finish="stop", prompt_tokens=0, completion_tokens=0)

    def close(self):
        pass


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    pytest.importorskip("lm_eval")
    root = tmp_path_factory.mktemp("tasks")
    for name, task in TASKS.items():
        rows = ROWS[task["rows"]]
        files = {}
        for split, part in (("test", rows), ("dev", rows[:3])):
            file = root / f"{name}_{split}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in part))
            files[split] = str(file)
        config = {key: value for key, value in task.items() if key != "rows"} | {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": files, "cache_dir": str(root / "cache")},
            "test_split": "test",
            "metadata": {"version": 2.5},
        }
        (root / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (root / "woods.yaml").write_text(yaml.safe_dump(GROUP))
    return root


@pytest.fixture(scope="module")
def runs(tasks, tmp_path_factory):
    """Two models, each run by lm-eval and by evalkit; lm-eval's folders, evalkit's folders, evalkit's exports."""
    root = tmp_path_factory.mktemp("runs")
    for salt in ("one", "two"):
        _lm_eval(tasks, salt, root / f"lm_eval_{salt}")
    benchmarks = [LmEvalBenchmark(_definition(name), rows=None, dataset={}, include=tasks) for name in KINDS]
    engine = Engine("one")
    manifest = Manifest(
        evalkit="0",
        engine=engine.identity,
        tasks={benchmark.task: benchmark.task_run for benchmark in benchmarks},
        created_at="2026-01-02T03:04:05+00:00",
    )
    with RunFolder.create_or_resume(root / "run", manifest) as folder:
        collect(folder, engine, benchmarks, progress=False)
    exported = export_lm_eval(root / "run", root / "exported")
    return SimpleNamespace(
        root=root, exported=exported, ours=_read(root / "exported"), theirs=_read(root / "lm_eval_one")
    )


def _definition(name: str) -> TaskDefinition:
    kind, metric, shots = KINDS[name]
    return TaskDefinition(
        name=f"lm_eval:{name}",
        kind=kind,
        benchmark="lm_eval",
        protocol=f"lm-eval-{shots}shot",
        metric=metric,
        lm_eval={"task": name, "shots": shots},
    )


def _lm_eval(tasks, salt, output):
    """Run lm-eval and let it write its files with its own code."""
    import lm_eval  # noqa: PLC0415
    from lm_eval.api.model import LM  # noqa: PLC0415
    from lm_eval.loggers import EvaluationTracker  # noqa: PLC0415
    from lm_eval.tasks import TaskManager  # noqa: PLC0415

    class Model(LM):
        def loglikelihood(self, requests, disable_tqdm=False):
            scores = [score(salt, *request.args) for request in requests]
            return [(value, value > -2) for value in scores]

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def generate_until(self, requests, disable_tqdm=False):
            return [words(salt, request.args[0]) for request in requests]

    tracker = EvaluationTracker(output_path=str(output))
    results = lm_eval.simple_evaluate(
        Model(),
        model_args=f"pretrained=org/{salt},quantization={salt},api_key=sk-0123456789abcdefghij",
        tasks=list(KINDS),
        task_manager=TaskManager(include_defaults=False, include_path=str(tasks)),
        evaluation_tracker=tracker,
        log_samples=True,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name in results["configs"]:
        tracker.save_results_samples(task_name=name, samples=samples[name])


def _read(folder):
    (file,) = folder.glob("*/results_*.json")
    samples = {
        path.name.removeprefix("samples_").rpartition("_")[0]: [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in file.parent.glob("samples_*.jsonl")
    }
    return SimpleNamespace(results=json.loads(file.read_text()), samples=samples, file=file)


def shape(value):
    """The types of a value, all the way down; lists by their first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_samples_are_equal_field_by_field(runs):
    assert runs.ours.samples.keys() == runs.theirs.samples.keys() == TASKS.keys()
    for name, theirs in runs.theirs.samples.items():
        ours = runs.ours.samples[name]
        assert len(ours) == len(theirs) == len(ROWS[TASKS[name]["rows"]])
        for left, right in zip(ours, theirs, strict=True):
            assert list(left) == list(right), "the same fields in the same order"
            for field in left:
                if name == "adding" and field == "filtered_resps":
                    continue  # records do not keep what a filter extracted
                assert left[field] == right[field], (name, field)
                assert shape(left[field]) == shape(right[field]), (name, field)
            assert json.dumps(left["doc"]) == json.dumps(right["doc"]), "columns in the order that doc_hash is made of"


def test_results_have_lm_eval_s_numbers_keys_and_types(runs):
    ours, theirs = runs.ours.results, runs.theirs.results
    assert ours["task_hashes"] == theirs["task_hashes"]
    assert {group: set(names) for group, names in ours["group_subtasks"].items()} == {"woods": set(GROUP["task"])}
    for key in ("n-shot", "n-samples"):
        assert ours[key] == {name: theirs[key][name] for name in ours[key]}, key
        assert shape(ours[key]) == {name: shape(theirs[key])[name] for name in ours[key]}
    for name in TASKS:
        assert ours["versions"][name] == theirs["versions"][name]
        assert ours["higher_is_better"][name] == theirs["higher_is_better"][name]
    assert ours["results"].keys() == theirs["results"].keys()
    for name, row in theirs["results"].items():
        assert ours["results"][name].keys() == row.keys(), name
        assert shape(ours["results"][name]) == shape(row), name
        for key, value in row.items():
            expected = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert ours["results"][name][key] == expected, (name, key)
    assert ours["groups"] == {"woods": ours["results"]["woods"]}
    added = {"evalkit_version", "evalkit_identity_sha256", "evalkit_tasks", "evalkit_occurrences"}
    assert ours.keys() - theirs.keys() == added
    assert "lm_eval_version" in theirs.keys() - ours.keys()
    both = [key for key in ours if key in theirs and key not in ("configs", "config", "versions")]
    for key in both:
        assert type(ours[key]) is type(theirs[key]), key


def test_nothing_is_left_out_and_the_file_names_are_lm_eval_s(runs):
    assert runs.exported.written == {"lm_eval:woods": 20, "lm_eval:lasting": 5, "lm_eval:adding": 6}
    assert set(runs.exported.failed.values()) == set(runs.exported.absent.values()) == {0}
    stem = runs.theirs.file.stem.rpartition("_")[2]
    assert len(runs.ours.file.stem.rpartition("_")[2]) == len(stem)
    assert runs.ours.file.parent.name == "org__digest"


def test_a_folder_of_lm_eval_is_read_as_evalkit_s_own_run_of_the_task(runs):
    imported = import_lm_eval(runs.root / "lm_eval_one")
    own = read_run(runs.root / "run")
    assert imported.records.keys() == own.records.keys()
    assert imported.missing == dict.fromkeys(own.records, 0)
    for task, records in own.records.items():
        assert {record.key: record for record in imported.records[task]} == {record.key: record for record in records}
        items = {item.key: item for item in read_items(runs.root / "run", task)}
        assert {item.key: item for item in imported.items[task]} == items
        for name in ("kind", "protocol", "shots", "metric", "planned", "item_set_sha256", "prompts_sha256"):
            assert getattr(imported.manifest.tasks[task], name) == getattr(own.manifest.tasks[task], name), name


def test_two_folders_of_lm_eval_can_be_compared(runs, tmp_path):
    compared = []
    for salt in ("one", "two"):
        imported = import_lm_eval(runs.root / f"lm_eval_{salt}", recipe=salt)
        assert "sk-0123" not in imported.manifest.to_json()
        assert imported.manifest.engine.quantization["declared"]["model_args"] == {"quantization": salt}
        write_imported(imported, tmp_path / salt)
        compared.append(read_run(tmp_path / salt))
    left, right = compared
    assert left.manifest.tasks == right.manifest.tasks
    assert left.manifest.engine.options == right.manifest.engine.options
    assert left.manifest.engine.versions == right.manifest.engine.versions
    for task, records in left.records.items():
        assert [record.key for record in records] == [record.key for record in right.records[task]]
        assert all(record.status == "ok" for record in (*records, *right.records[task]))
    assert left.records_sha256("lm_eval:woods") != right.records_sha256("lm_eval:woods")
