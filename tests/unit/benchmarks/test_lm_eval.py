from __future__ import annotations

import hashlib
import json
import logging

import pytest

from evalkit.adapters.base import ScoreReply
from evalkit.benchmarks import UNMADE
from evalkit.benchmarks.lm_eval import LmEvalBenchmark
from evalkit.collect.asking import ask
from evalkit.errors import AssetError, DataError, UsageError
from evalkit.records import ChoiceReply, TextReply, Turn, content_digest

lm_eval = pytest.importorskip("lm_eval")
LM = pytest.importorskip("lm_eval.api.model").LM
TaskManager = pytest.importorskip("lm_eval.tasks").TaskManager


def reply_of(benchmark, item, number):
    """What the deterministic model below would have said to this item."""
    if not item.continuations:
        return TextReply(turns=(Turn(text=words(item.context), finish="stop", prompt_tokens=1, completion_tokens=1),))
    contexts = item.details.get("contexts") or [item.context] * len(item.continuations)
    pairs = list(zip(contexts, item.continuations, strict=True))
    return ChoiceReply(
        logprobs=tuple(number(*pair) for pair in pairs),
        greedy=tuple(number(*pair) > -2 for pair in pairs),
        target=item.target,
        lengths=tuple(item.details["lengths"]),
    )


def words(prompt: str) -> str:
    first = int(prompt.rsplit("Q: ", 1)[1].split(maxsplit=1)[0])
    return [f"it is {2 * first}", f"I say {2 * first}", "no idea", f"it is {first + 1}"][first % 4]


def lm_eval_samples(folder, name, number, shots):
    """Run the same task by lm-eval from end to end, with the same model."""

    class Model(LM):
        def loglikelihood(self, requests, disable_tqdm=False):
            return [(number(*request.args), number(*request.args) > -2) for request in requests]

        def loglikelihood_rolling(self, requests, disable_tqdm=False):
            raise NotImplementedError

        def generate_until(self, requests, disable_tqdm=False):
            return [words(request.args[0]) for request in requests]

    manager = TaskManager(include_defaults=False, include_path=str(folder))
    return lm_eval.simple_evaluate(Model(), tasks=[name], num_fewshot=shots, task_manager=manager, bootstrap_iters=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "shots", "changes"),
    [
        ("t_choice", 0, {}),
        ("t_choice", 0, {"metric": "acc_norm"}),
        ("t_choice_random", 2, {}),
        ("t_text", 0, {"kind": "text", "metric": "exact_match,strict"}),
        ("t_last", 0, {}),
        ("t_blank", 0, {}),
    ],
)
def test_items_and_marks_are_lm_eval_s_own(lm, name, shots, changes):
    benchmark = lm.load(name, lm_eval={"task": name, "shots": shots}, **changes)
    results = lm_eval_samples(lm.folder, name, lm.number, shots)
    samples = results["samples"][name]
    by_row = {item.details["doc_id"]: item for item in benchmark.items}
    assert len(by_row) == len(benchmark.items) == len({sample["doc_id"] for sample in samples})
    several = len({sample["filter"] for sample in samples}) > 1
    for sample in samples:
        item = by_row[sample["doc_id"]]
        for field in ("doc_hash", "prompt_hash", "target_hash"):
            assert item.details[field] == sample[field]
        assert item.context == sample["arguments"][0][0]
        assert item.details["target"] == str(sample["target"])
        marks = benchmark.mark(item, reply_of(benchmark, item, lm.number)).marks
        for metric in sample["metrics"]:
            assert marks[f"{metric},{sample['filter']}" if several else metric] == sample[metric]
    decided = [benchmark.mark(item, reply_of(benchmark, item, lm.number)).marks for item in benchmark.items]
    metric = benchmark.task_run.metric
    key = metric if "," in metric else f"{metric},none"
    assert sum(marks[metric] for marks in decided) / len(decided) == pytest.approx(results["results"][name][key])
    assert 0 < results["results"][name][key] < 1


def test_what_a_run_says_of_the_task(lm):
    task = lm.load("t_choice", chance=0.25).task_run
    assert (task.kind, task.shots, task.metric, task.chance, task.planned) == ("choice", 0, "acc", 0.25, 12)
    assert task.settings == {"lm_eval_task": "t_choice", "version": "3.0"}
    shots = lm.load("t_choice_random", lm_eval={"task": "t_choice_random", "shots": 2}).task_run
    assert shots.settings["fewshot_seed"] == 1234
    assert shots.item_set_sha256 != task.item_set_sha256


def test_items_are_known_by_content_and_sorted(lm):
    items = lm.load("t_choice").items
    assert [(item.subject, item.item_sha256) for item in items] == sorted(
        (item.subject, item.item_sha256) for item in items
    )
    assert all(item.item_sha256 == content_digest(item.doc) for item in items)
    assert items[0].target == items[0].doc["gold"]
    assert items[0].details["lengths"] == [3, 5, 4, 10]


def test_a_limit_takes_the_lowest_digests_and_another_seed_takes_others(lm):
    few = lm.load("t_choice", items_per_subject=5)
    again = lm.load("t_choice", items_per_subject=5)
    other = lm.load("t_choice", items_per_subject=5, order_seed=1)
    everything = {item.key: item for item in lm.load("t_choice").items}
    assert len(few.items) == 5
    assert few.items == again.items
    assert {item.key for item in few.items} != {item.key for item in other.items}
    assert all(item == everything[item.key] for item in few.items)


def test_a_limit_does_not_change_randomly_drawn_examples(lm):
    shots = {"task": "t_choice_random", "shots": 2}
    everything = {item.key: item for item in lm.load("t_choice_random", lm_eval=shots).items}
    few = lm.load("t_choice_random", lm_eval=shots, items_per_subject=4)
    assert all(item.context == everything[item.key].context for item in few.items)


def test_groups_have_their_tasks_as_subjects(lm):
    group = lm.load("t_group")
    assert {item.subject for item in group.items} == {"t_choice", "t_choice_random"}
    part = lm.load("t_group", subjects=["t_choice"])
    assert {item.subject for item in part.items} == {"t_choice"}
    with pytest.raises(UsageError, match="no subject 't_choise'; did you mean 't_choice'"):
        lm.load("t_group", subjects=["t_choise"])


def test_how_text_is_generated(lm):
    benchmark = lm.load("t_text", kind="text", metric="exact_match,loose")
    decoding = benchmark.decoding(benchmark.items[0])
    assert (decoding.max_tokens, decoding.temperature, decoding.stop) == (9, 0.0, ("\n",))


@pytest.mark.parametrize(
    ("text", "invalid"), [("", "empty"), ("who knows", "unparsable"), ("yes it is so " * 60, "degenerate")]
)
def test_unreadable_text_is_wrong_and_says_why(lm, text, invalid):
    benchmark = lm.load("t_text", kind="text", metric="exact_match,strict")
    turn = Turn(text=text, finish="length", prompt_tokens=1, completion_tokens=9)
    marking = benchmark.mark(benchmark.items[0], TextReply(turns=(turn,)))
    assert (marking.marks["exact_match,strict"], marking.invalid) == (0.0, invalid)


def test_a_task_without_a_file_takes_lm_eval_s_own_settings(lm):
    own = lm.definition("t_text").model_copy(update={"name": "lm_eval:t_text"})
    benchmark = LmEvalBenchmark(own, rows=None, dataset={}, include=lm.folder)
    task = benchmark.task_run
    assert (task.kind, task.shots, task.metric, task.protocol) == ("text", 0, "exact_match,strict", "lm-eval-0shot")


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("t_rolling", {}, "loglikelihood_rolling"),
        ("t_choice", {"metric": "acc_nrm"}, "no metric 'acc_nrm'; did you mean 'acc_norm'"),
        ("t_choice", {"kind": "text"}, "has choice items"),
        ("t_choice_zero", {"lm_eval": {"task": "t_choice_zero", "shots": 2}}, "fixes 0 shots"),
    ],
)
def test_what_cannot_be_run_honestly_is_refused(lm, name, changes, words):
    with pytest.raises(UsageError, match=words):
        lm.load(name, **changes)


def test_a_metric_without_a_value_for_one_item_is_refused(lm):
    benchmark = lm.load("t_f1", metric="f1")
    with pytest.raises(UsageError, match="'f1' has no value for a single item"):
        benchmark.mark(benchmark.items[0], reply_of(benchmark, benchmark.items[0], lm.number))


def test_data_that_cannot_be_loaded_are_named(lm, tmp_path):
    text = (lm.folder / "t_choice.yaml").read_text().replace("choice_test.jsonl", "gone.jsonl")
    (tmp_path / "t_choice.yaml").write_text(text)
    with pytest.raises(AssetError, match="'t_choice'"):
        LmEvalBenchmark(lm.definition("t_choice"), rows=None, dataset={}, include=tmp_path)


def rows(count=4, subject="anatomy"):
    return [
        {"question": f"Q {n}?", "subject": subject, "choices": ["w", "x", "y", f"z{n}"], "answer": n % 4}
        for n in range(count)
    ]


def test_given_rows_replace_the_hub_and_keep_lm_eval_s_hash(lm):
    given = {"anatomy": {"test": rows(), "dev": rows(5)}, "virology": {"test": rows(3, "virology"), "dev": rows(5)}}
    wanted = lm.definition("mmlu", lm_eval={"task": "mmlu", "shots": 5}, dataset="mmlu")
    benchmark = LmEvalBenchmark(wanted, rows=given, dataset={"asset": "mmlu"})
    assert {item.subject for item in benchmark.items} == {"anatomy", "virology"}
    assert benchmark.task_run.planned == 7
    assert benchmark.task_run.dataset == {"asset": "mmlu"}
    item = next(item for item in benchmark.items if item.details["doc_id"] == 2 and item.subject == "anatomy")
    assert item.details["lm_eval_task"] == "mmlu_anatomy"
    assert item.context.count("Answer:") == 6
    text = json.dumps(rows()[2], indent=2, ensure_ascii=False)
    assert item.details["doc_hash"] == hashlib.sha256(text.encode()).hexdigest()


def test_rows_without_worked_examples_serve_tasks_without_shots(lm):
    wanted = lm.definition("mmlu_continuation", dataset="mmlu", metric="acc_norm", subjects=["anatomy"])
    benchmark = LmEvalBenchmark(wanted, rows={"anatomy": {"test": rows()}}, dataset={})
    assert benchmark.items[0].continuations[:3] == (" w", " x", " y")
    assert benchmark.items[0].details["lengths"] == [1, 1, 1, 2]


def test_repeated_rows_are_numbered(lm):
    wanted = lm.definition("mmlu", dataset="mmlu")
    benchmark = LmEvalBenchmark(wanted, rows={"anatomy": {"test": [*rows(2), *rows(2)]}}, dataset={})
    assert sorted(item.occurrence for item in benchmark.items) == [0, 0, 1, 1]
    assert len({item.key for item in benchmark.items}) == 4


def test_nothing_is_written_to_the_terminal_and_loggers_are_given_back(lm, capfd):
    level = logging.getLogger("lm_eval").level
    lm.load("t_choice")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == level


@pytest.mark.parametrize(
    "error", [KeyError("x"), ZeroDivisionError("division by zero"), RecursionError("deep"), SystemExit(3)]
)
def test_a_metric_that_raises_is_that_item_s_failure_with_its_name(lm, monkeypatch, error):
    benchmark = lm.load("t_choice")
    poisoned, healthy = benchmark.items[:2]
    task = benchmark._sources[poisoned.key].task
    real = task.process_results

    def process_results(doc, results):
        if doc["question"] == poisoned.doc["question"]:
            raise error
        return real(doc, results)

    monkeypatch.setattr(task, "process_results", process_results)
    with pytest.raises(
        DataError, match=rf"metric for row {poisoned.details['doc_id']} .* raised {type(error).__name__}: "
    ):
        benchmark.mark(poisoned, reply_of(benchmark, poisoned, lm.number))
    assert benchmark.mark(healthy, reply_of(benchmark, healthy, lm.number)).marks


@pytest.mark.parametrize("values", [{}, {"other": 1.0}, None, {"acc": float("nan")}])
def test_a_metric_that_gives_one_item_no_number_concerns_that_item(lm, monkeypatch, values):
    benchmark = lm.load("t_choice")
    item = benchmark.items[0]
    monkeypatch.setattr(benchmark._sources[item.key].task, "process_results", lambda doc, results: values)
    with pytest.raises(DataError, match="metric for row"):
        benchmark.mark(item, reply_of(benchmark, item, lm.number))


def test_a_template_that_raises_for_one_row_is_one_failed_item_and_the_others_are_asked(lm, monkeypatch):
    whole = lm.load("t_choice")
    real = type(whole._sources[whole.items[0].key].task).doc_to_text

    def doc_to_text(self, doc, *more, **options):
        if doc["question"].endswith(" 7? "):
            raise IndexError("no such column")
        return real(self, doc, *more, **options)

    monkeypatch.setattr(type(whole._sources[whole.items[0].key].task), "doc_to_text", doc_to_text)
    benchmark = lm.load("t_choice")
    unmade = [item for item in benchmark.items if UNMADE in item.details]
    assert [item.doc["question"] for item in unmade] == [" What colour has thing 7? "]
    assert {item.key for item in benchmark.items} == {item.key for item in whole.items}
    assert benchmark.task_run.prompts_sha256 != whole.task_run.prompts_sha256
    asked = []

    class Engine:
        def score(self, requests):
            asked.extend(requests)
            return (
                (at, ScoreReply(logprobs=(-1.0,) * 4, greedy=(False,) * 4, tokens=(1,) * 4))
                for at in range(len(requests))
            )

    outcomes = {
        item.key: outcome for item, _, outcome in ask(Engine(), benchmark, [(one, 0) for one in benchmark.items])
    }
    assert len(outcomes) == 12
    assert len(asked) == 11
    assert outcomes[unmade[0].key] == "prompt: row 7 of 't_choice' raised IndexError: no such column"
