"""Two runs are paired by content, whatever the order of work was; what has no partner is named."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.records import digest, text_digest

BASELINE = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 1.0])
CANDIDATE = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 1.0])


@pytest.fixture
def runs(made: ModuleType) -> tuple[Any, Any]:
    return made.make_run("baseline", marks=BASELINE, seed=1), made.make_run("candidate", marks=CANDIDATE, seed=2)


def with_records(run: Any, records: Any, task: str = "mmlu") -> Any:
    return replace(run, records={**run.records, task: tuple(records)})


def with_task(run: Any, **changes: Any) -> Any:
    task = replace(run.manifest.tasks["mmlu"], **changes)
    return replace(run, manifest=replace(run.manifest, tasks={**run.manifest.tasks, "mmlu": task}))


def codes(comparison: Any) -> list[str]:
    return [fault.code for fault in comparison.faults]


def test_pairs_are_found_by_content_and_counted_by_hand(runs: tuple[Any, Any]) -> None:
    baseline, candidate = runs
    backwards = with_records(candidate, reversed(candidate.records["mmlu"]))
    table = compare(baseline, backwards, "mmlu").proportion.observed
    assert (table.n11, table.n10, table.n01, table.n00) == (3, 1, 1, 1)


def test_shuffled_records_give_the_same_comparison(made: ModuleType) -> None:
    marks = made.outcomes(300, rho=0.1, difference=-0.02, seed=3)
    scores = made.chat_scores(12, shift=-0.2, seed=4, repeats=2)
    left = made.make_run("baseline", marks=marks[0], scores=scores[0], seed=1)
    right = made.make_run("candidate", marks=marks[1], scores=scores[1], seed=2)
    rng = np.random.default_rng(5)
    shuffled = replace(
        right,
        records={task: tuple(rng.permutation(np.array(found, dtype=object))) for task, found in right.records.items()},
        judgments={
            task: tuple(rng.permutation(np.array(found, dtype=object))) for task, found in right.judgments.items()
        },
    )
    assert shuffled.records["mmlu"] != right.records["mmlu"]
    for task in ("mmlu", "mt-bench"):
        ordered = compare(left, right, task)
        assert ordered.faults == ()
        assert compare(left, shuffled, task).to_dict() == ordered.to_dict()


def test_items_that_repeat_inside_a_subject_are_pairs_of_their_own(runs: tuple[Any, Any]) -> None:
    def twins(run: Any, marks: tuple[float, float]) -> Any:
        first, second = run.records["mmlu"][:2]
        pair = [
            replace(first, marks={"acc": marks[0]}),
            replace(
                second,
                subject=first.subject,
                item_sha256=first.item_sha256,
                occurrence=1,
                prompt_sha256=first.prompt_sha256,
                target_sha256=first.target_sha256,
                marks={"acc": marks[1]},
            ),
        ]
        keys = sorted(record.key.rsplit("/", 1)[0] for record in pair)
        return with_task(with_records(run, pair), planned=2, item_set_sha256=digest(keys))

    comparison = compare(twins(runs[0], (1.0, 0.0)), twins(runs[1], (0.0, 0.0)), "mmlu")
    assert comparison.faults == ()
    table = comparison.proportion.observed
    assert (table.n11, table.n10, table.n01, table.n00) == (0, 1, 0, 1)


def test_a_duplicate_key_is_a_fault_that_names_side_and_key(runs: tuple[Any, Any]) -> None:
    baseline, candidate = runs
    first = candidate.records["mmlu"][0]
    comparison = compare(baseline, with_records(candidate, (*candidate.records["mmlu"], first)), "mmlu")
    assert "pairing" in codes(comparison)
    (message,) = [fault.message for fault in comparison.faults if "duplicate" in fault.message]
    assert message.startswith("candidate: 1 duplicate")
    assert first.key in message


def test_a_record_of_another_task_is_a_fault_even_if_its_content_is_there_already(runs: tuple[Any, Any]) -> None:
    baseline, candidate = runs
    stranger = replace(candidate.records["mmlu"][0], task="arc")
    comparison = compare(baseline, with_records(candidate, (*candidate.records["mmlu"], stranger)), "mmlu")
    assert "pairing" in codes(comparison)
    assert any(stranger.key in fault.message for fault in comparison.faults)


def test_an_item_without_a_partner_is_a_fault(runs: tuple[Any, Any]) -> None:
    baseline, candidate = runs
    other = replace(candidate.records["mmlu"][0], item_sha256=text_digest("an item of another set"))
    comparison = compare(baseline, with_records(candidate, (other, *candidate.records["mmlu"][1:])), "mmlu")
    messages = [fault.message for fault in comparison.faults if fault.code == "pairing"]
    assert any("7 different pair keys where 6 are planned" in message for message in messages)
    assert any(message.startswith("candidate: the records are not those of the item set") for message in messages)
    assert not any(message.startswith("baseline: the records are not") for message in messages)


@pytest.mark.parametrize(
    ("field", "word"), [("prompt_sha256", "prompts"), ("target_sha256", "targets")], ids=["prompt", "target"]
)
def test_another_prompt_or_target_of_one_item_is_not_comparable(runs: tuple[Any, Any], field: str, word: str) -> None:
    baseline, candidate = runs
    changed = replace(candidate.records["mmlu"][2], **{field: text_digest("other")})
    rest = [record for record in candidate.records["mmlu"] if record.key != changed.key]
    comparison = compare(baseline, with_records(candidate, (*rest, changed)), "mmlu")
    (fault,) = comparison.faults
    assert fault.code == "not-comparable"
    assert fault.message.startswith(f"1 pair(s) have different {word}")
    assert changed.item_sha256 in fault.message


def test_a_second_pass_over_a_marked_item_is_left_out_and_counted(runs: tuple[Any, Any]) -> None:
    def twice(run: Any) -> Any:
        again = [replace(record, sample=1, marks={"acc": 0.0}) for record in run.records["mmlu"]]
        twice = with_records(run, (*run.records["mmlu"], *again))
        return with_task(twice, planned=12, settings={"generations": 2})

    comparison = compare(twice(runs[0]), twice(runs[1]), "mmlu")
    assert comparison.faults == ()
    assert comparison.planned == 6
    assert comparison.coverage.excluded == {"other-pass": 12}
    assert comparison.proportion.observed == compare(*runs, "mmlu").proportion.observed


def test_a_task_one_run_lacks_is_a_coverage_fault_that_names_the_side(made: ModuleType, runs: tuple[Any, Any]) -> None:
    chat = made.make_run("candidate", scores=np.full((2, 2, 1), 5.0))
    comparison = compare(runs[0], chat, "mmlu")
    assert codes(comparison) == ["coverage"]
    assert "the run of the candidate;" in comparison.faults[0].message
    assert comparison.proportion is None
    both = compare(runs[0], chat, "gsm8k")
    assert "the run of the baseline and the candidate;" in both.faults[0].message
