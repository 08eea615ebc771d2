"""FastChat's folder of MT-Bench: where its files are, and their rows.

In: a folder that FastChat or NVIDIA's evaluator wrote. Out: rows with their places.
May not know: records, what is done with a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError, UsageError, suggestion
from evalkit.interop import foreign_files
from evalkit.interop.lm_eval_files import file_sha256

ANSWERS = ("model_answer", "responses")
JUDGMENTS = ("model_judgment", "judgements", "judgments")
REFERENCES: Mapping[str, str] = {"gpt-4.jsonl": "original", "gpt-4-0125-preview.jsonl": "cor1"}
"""Reference file to the name of its set."""

QUESTIONS = "question.jsonl"
STEP = "next step: give the file as FastChat wrote it, or take this row out"
"""What helps where a row is not FastChat's."""

SINGLE, PAIR = "_single.jsonl", "_pair.jsonl"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line.

    Attributes:
        place: file and line, for messages.
        data: its object.
    """

    place: str
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FastChatFiles:
    """What a folder holds.

    Attributes:
        root: the folder.
        questions: file of questions; None without.
        answers: model name (the file's stem) to file.
        single, pair: judgment files of each mode.
        references: reference set to file.
    """

    root: Path
    questions: Path | None
    answers: Mapping[str, Path]
    single: tuple[Path, ...]
    pair: tuple[Path, ...]
    references: Mapping[str, Path]

    def answers_of(self, model: str | None) -> tuple[str, Path]:
        """Return the name and file of one model; the only one if none is named.

        Raises:
            UsageError: no such model, or several and none is named.
        """
        if model is None and len(self.answers) == 1:
            return next(iter(self.answers.items()))
        if model is None:
            raise UsageError(f"{self.root} has answers of {', '.join(self.answers)}; next step: name one with --model")
        if model not in self.answers:
            raise UsageError(f"{self.root}: no answers of model '{model}'{suggestion(model, list(self.answers))}")
        return model, self.answers[model]

    def digests(self, *files: Path) -> dict[str, str]:
        """Return the sha256 of files by their place in the folder."""
        return {str(file.relative_to(self.root)): file_sha256(file) for file in files}


def is_fastchat(where: Path) -> bool:
    """Say whether a folder holds answers as FastChat or NVIDIA's evaluator writes them."""
    return _root(where) is not None


def find_fastchat(where: Path, questions: Path | None = None) -> FastChatFiles:
    """Find the files of a folder: `data/mt_bench` of FastChat, or a folder above it.

    Raises:
        UsageError: there are no answers in it.
    """
    root = _root(where)
    if root is None:
        raise UsageError(f"{where}: no folder {' or '.join(ANSWERS)} in it; next step: name FastChat's data/mt_bench")
    judgments = sorted(file for name in JUDGMENTS for file in (root / name).glob("*.jsonl"))
    own = root / QUESTIONS
    return FastChatFiles(
        root=root,
        questions=questions or (own if own.is_file() else None),
        answers={file.stem: file for name in ANSWERS for file in sorted((root / name).glob("*.jsonl"))},
        single=tuple(file for file in judgments if file.name.endswith(SINGLE)),
        pair=tuple(file for file in judgments if file.name.endswith(PAIR)),
        references={
            name: root / "reference_answer" / file
            for file, name in REFERENCES.items()
            if (root / "reference_answer" / file).is_file()
        },
    )


def _root(where: Path) -> Path | None:
    places = (where, where / "mt_bench", where / "data" / "mt_bench")
    return next((place for place in places if any((place / name).is_dir() for name in ANSWERS)), None)


def read_rows(file: Path) -> list[Row]:
    """Read a file of JSON objects, one a line; blank lines, on which FastChat stops, are passed over.

    Raises:
        DataError: a line is not a JSON object; names file and line.
        StoreError: the file cannot be read.
    """
    return [Row(place=place, data=row) for place, row in foreign_files.read_rows(file)]


def whole(row: Row, name: str) -> int:
    """Return a whole number of a row.

    Raises:
        DataError: it is missing or something else.
    """
    value = row.data.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{row.place}: {name!r} is {value!r:.80}, not a whole number; {STEP}")
    return value


def words(row: Row, name: str) -> str:
    """Return a text of a row; raises as `whole`."""
    value = row.data.get(name)
    if not isinstance(value, str):
        raise DataError(f"{row.place}: {name!r} is {value!r:.80}, not a text; {STEP}")
    return value


def texts(row: Row, value: Any, name: str) -> tuple[str, ...]:
    """Return a list of texts; raises as `whole`."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise DataError(f"{row.place}: {name!r} is not a list of texts; {STEP}")
    return tuple(value)


def one_of(kept: Sequence[Row], what: str, same: bool, duplicates: str | None, notes: list[str]) -> Row:
    """Choose among rows with one and the same key.

    Args:
        kept: the rows, in the order of the file.
        what: the key, for messages.
        same: whether they say the same.
        duplicates: "first" or "last" where they do not; None refuses.
        notes: takes a sentence about what was done.

    Raises:
        DataError: the rows contradict each other and nobody said which one counts.
    """
    if len(kept) == 1:
        return kept[0]
    if same:
        notes.append(f"{what}: {len(kept)} equal rows, taken once ({kept[0].place} and later)")
        return kept[0]
    if duplicates is None:
        raise DataError(
            f"{what}: {len(kept)} rows that contradict each other, at {', '.join(row.place for row in kept)}; nothing "
            "is averaged; next step: remove all but one, or choose with --duplicates first or --duplicates last"
        )
    notes.append(f"{what}: {len(kept)} rows that contradict each other; the {duplicates} one was taken, as asked for")
    return kept[0] if duplicates == "first" else kept[-1]
