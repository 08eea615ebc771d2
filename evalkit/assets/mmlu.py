"""MMLU as rows, from any of the three layouts it is spread in.

In: a fetched asset. Out: `Mmlu`: rows by subject, in the source's order.
Must not depend on: prompts, shots, or which rows a task uses.

Layouts: a folder with `test/<subject>_test.csv` and `dev/<subject>_dev.csv` (no header: question, A, B, C, D, key); a
folder with `test-*.parquet` and `dev-*.parquet` of the hub's `all` configuration; one JSON Lines file with the columns
question, answer_a..answer_d, correct_answer, topic.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from evalkit.assets.store import FetchedAsset
from evalkit.errors import AssetError, DataError, MissingExtraError
from evalkit.records.canonical import digest, fold, parse_object

LETTERS = "ABCD"

Rows = Mapping[str, tuple["MmluRow", ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class MmluRow:
    """One question.

    Attributes:
        subject: one of the 57 canonical names, such as `abstract_algebra`.
        question: text as the source has it.
        choices: four answers as the source has them; "None" is an answer like any other.
        answer: index of the right one, 0 to 3.
    """

    subject: str
    question: str
    choices: tuple[str, str, str, str]
    answer: int

    @property
    def item_sha256(self) -> str:
        """Digest of the content with white space folded: the same item has the same digest in every layout."""
        return digest(
            {
                "subject": self.subject,
                "question": fold(self.question),
                "choices": [fold(choice) for choice in self.choices],
                "answer": self.answer,
            }
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Mmlu:
    """All rows of one source.

    Attributes:
        source: the source, for messages.
        test: subject to rows, subjects sorted.
        dev: the same for the worked examples; None if the source has none.
    """

    source: str
    test: Rows
    dev: Rows | None

    def examples(self, subject: str, shots: int) -> tuple[MmluRow, ...]:
        """Return the first `shots` worked examples of a subject.

        Raises:
            AssetError: the source has too few, or no `dev` split at all.
        """
        if shots == 0:
            return ()
        if self.dev is None:
            raise AssetError(
                f"{self.source} has no 'dev' split, so there are no worked examples for {shots} shots; next step: "
                "name a folder with test/ and dev/ in the suite: assets: {mmlu: [{local: FOLDER}]}"
            )
        rows = self.dev.get(subject, ())
        if len(rows) < shots:
            raise AssetError(f"{self.source}: subject '{subject}' has {len(rows)} worked examples, not {shots}")
        return rows[:shots]


def read_mmlu(fetched: FetchedAsset) -> Mmlu:
    """Read MMLU, recognising the layout.

    Raises:
        AssetError: no layout is recognised, or a row is not a question with four answers and a key.
        MissingExtraError: the hub's layout needs pyarrow, which is not installed.
    """
    path = fetched.path
    if path.is_file() and path.suffix == ".jsonl":
        return Mmlu(source=fetched.source, test=_grouped(_json_rows(path)), dev=None)
    if (path / "test").is_dir():
        return Mmlu(source=fetched.source, test=_csv_split(path, "test"), dev=_csv_split(path, "dev") or None)
    for folder in (path, path / "all"):
        if any(folder.glob("test-*.parquet")):
            dev = _parquet_split(folder, "dev")
            return Mmlu(source=fetched.source, test=_parquet_split(folder, "test"), dev=dev or None)
    raise AssetError(
        f"{path} is no known layout of MMLU; allowed: a folder with test/<subject>_test.csv and dev/<subject>_dev.csv, "
        "a folder with test-*.parquet and dev-*.parquet, or a .jsonl file"
    )


def _grouped(rows: Iterable[MmluRow]) -> Rows:
    found: dict[str, list[MmluRow]] = {}
    for row in rows:
        found.setdefault(row.subject, []).append(row)
    return {subject: tuple(found[subject]) for subject in sorted(found)}


def _row(place: str, subject: Any, question: Any, choices: Iterable[Any], answer: Any) -> MmluRow:
    texts = tuple(choices)
    if len(texts) != 4 or not all(isinstance(text, str) for text in (subject, question, *texts)):
        raise AssetError(f"{place}: not a question with four answers")
    if not isinstance(answer, int) or not 0 <= answer < 4:
        raise AssetError(f"{place}: the key {answer!r} is none of the four answers")
    return MmluRow(subject=subject, question=question, choices=cast("tuple[str, str, str, str]", texts), answer=answer)


def _letter(key: Any) -> Any:
    return LETTERS.index(key) if isinstance(key, str) and len(key) == 1 and key in LETTERS else key


def _csv_split(path: Path, split: str) -> Rows:
    return _grouped(row for file in sorted((path / split).glob(f"*_{split}.csv")) for row in _csv_rows(file, split))


def _csv_rows(path: Path, split: str) -> Iterator[MmluRow]:
    subject = path.stem.removesuffix(f"_{split}")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise AssetError(f"{path} is not a CSV file in UTF-8: {error}") from error
    for number, cells in enumerate(rows, start=1):
        if len(cells) != 6:
            raise AssetError(f"{path}, row {number}: {len(cells)} cells, not 6 (question, A, B, C, D, key)")
        yield _row(f"{path}, row {number}", subject, cells[0], cells[1:5], _letter(cells[5]))


def _json_rows(path: Path) -> Iterator[MmluRow]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}, line {number}"
            try:
                data = parse_object(line, place)
            except DataError as error:
                raise AssetError(str(error)) from error
            if (data.get("question"), data.get("correct_answer")) == ("question", "answer"):
                continue  # the published file repeats its header as a row, twice
            choices = [data.get(f"answer_{letter}") for letter in "abcd"]
            subject = str(data.get("topic", "")).replace(" ", "_")
            yield _row(place, subject, data.get("question"), choices, _letter(data.get("correct_answer")))


def _parquet_split(folder: Path, split: str) -> Rows:
    try:
        parquet = import_module("pyarrow.parquet")  # optional, and slow to import
    except ImportError as error:
        raise MissingExtraError("reading MMLU from the hub", "pyarrow", "hf") from error
    rows = []
    for path in sorted(folder.glob(f"{split}-*.parquet")):
        for number, data in enumerate(parquet.read_table(path).to_pylist(), start=1):
            place = f"{path}, row {number}"
            rows.append(
                _row(place, data.get("subject"), data.get("question"), data.get("choices") or (), data.get("answer"))
            )
    return _grouped(rows)
