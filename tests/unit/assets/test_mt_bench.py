from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evalkit.assets import AssetStore, FetchedAsset, read_mt_bench
from evalkit.definitions import find_definitions
from evalkit.errors import AssetError

QUESTIONS = [
    {"question_id": 2, "category": "math", "turns": ["two?", "and\u2028two?"], "reference": ["x", "y"]},
    {"question_id": 1, "category": "writing", "turns": ["one?", "and one?"]},
]
PROMPTS = [
    {
        "name": "single-v1",
        "type": "single",
        "system_prompt": "s",
        "prompt_template": "{question} {answer}",
        "category": "c",
    }
]


def reference(*turns: str, number: int = 2) -> dict[str, Any]:
    return {"question_id": number, "choices": [{"index": 0, "turns": list(turns)}], "model_id": "m"}


def put(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


def flat(root: Path) -> FetchedAsset:
    put(root / "question.jsonl", QUESTIONS)
    put(root / "judge_prompts.jsonl", PROMPTS)
    put(root / "gpt-4.jsonl", [reference("four", "five")])
    put(root / "gpt-4-0125-preview.jsonl", [reference("4", "5")])
    return fetched(root)


def fetched(path: Path) -> FetchedAsset:
    return FetchedAsset(
        name="mt-bench", kind="mt-bench", path=path, source="test source", revision="", sha256="", licence="Apache-2.0"
    )


def test_questions_prompts_and_references_are_read(tmp_path: Path) -> None:
    bench = read_mt_bench(flat(tmp_path))
    assert [(row.question_id, row.category) for row in bench.questions] == [(1, "writing"), (2, "math")]
    assert bench.questions[1].turns == ("two?", "and\u2028two?")
    assert bench.judge_prompts["single-v1"].prompt_template == "{question} {answer}"
    assert bench.reference_set("original") == {2: ("four", "five")}
    assert bench.reference_set("cor1") == {2: ("4", "5")}
    assert bench.references_sha256("cor1") != bench.references_sha256("original")


def test_fastchats_own_folder_is_recognised_and_a_missing_set_is_said(tmp_path: Path) -> None:
    put(tmp_path / "mt_bench" / "question.jsonl", QUESTIONS)
    put(tmp_path / "judge_prompts.jsonl", PROMPTS)
    put(tmp_path / "mt_bench" / "reference_answer" / "gpt-4.jsonl", [reference("four", "five")])
    bench = read_mt_bench(fetched(tmp_path))
    assert bench.reference_set("original") == {2: ("four", "five")}
    with pytest.raises(AssetError, match=r"test source has no 'cor1' reference answers \(gpt-4-0125.*it has: original"):
        bench.reference_set("cor1")


@pytest.mark.parametrize(
    ("file", "rows", "fault"),
    [
        ("question.jsonl", [*QUESTIONS, QUESTIONS[0]], "question 2 occurs more than once"),
        ("question.jsonl", [{"category": "c", "turns": ["a"]}], "line 1: no 'question_id'"),
        (
            "question.jsonl",
            [{"question_id": 1, "category": "c", "turns": "a"}],
            "line 1: 'turns' is not a list of texts",
        ),
        (
            "question.jsonl",
            [{"question_id": 1, "category": "c", "turns": [1]}],
            "line 1: 'turns' is not a list of texts",
        ),
        ("question.jsonl", [[1]], "line 1 must be a JSON object"),
        (
            "judge_prompts.jsonl",
            [{"name": "x", "type": "single"}],
            "line 1: no text for system_prompt, prompt_template",
        ),
        ("judge_prompts.jsonl", [*PROMPTS, *PROMPTS], "judge prompt 'single-v1' occurs more than once"),
        ("gpt-4.jsonl", [reference("a"), reference("b")], "line 2: question 2 has two references"),
        ("gpt-4.jsonl", [{"question_id": 1, "choices": []}], "line 1: not a reference"),
    ],
)
def test_rows_that_are_not_what_they_should_be(tmp_path: Path, file: str, rows: list[Any], fault: str) -> None:
    asset = flat(tmp_path)
    put(tmp_path / file, rows)
    with pytest.raises(AssetError, match=fault):
        read_mt_bench(asset)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    asset = flat(tmp_path)
    (tmp_path / "judge_prompts.jsonl").unlink()
    with pytest.raises(AssetError, match="has neither"):
        read_mt_bench(asset)


@pytest.mark.system
def test_the_published_benchmark_reads_whole() -> None:
    definitions = find_definitions()
    try:
        asset = AssetStore(definitions.root).fetch("mt-bench")
    except AssetError as error:
        pytest.skip(str(error))
    bench = read_mt_bench(asset)
    assert [row.question_id for row in bench.questions] == list(range(81, 161))
    assert set(Counter(row.category for row in bench.questions).values()) == {10}
    assert {len(row.turns) for row in bench.questions} == {2}
    for name in ("original", "cor1"):
        assert sorted(bench.reference_set(name)) == list(range(101, 131))
    prompts = definitions.judge("fastchat-v1").prompts
    named = {prompts.turn_1, prompts.turn_2, prompts.turn_1_with_reference, prompts.turn_2_with_reference}
    assert named <= set(bench.judge_prompts)
    assert {bench.judge_prompts[name].type for name in named} == {"single"}
