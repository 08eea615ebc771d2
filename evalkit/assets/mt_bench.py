"""MT-Bench as rows: questions, judge prompts, reference answers.

In: a fetched asset. Out: `MtBench`.
Must not depend on: generation settings, judges' engines, or which prompt is used when.

Layout: `question.jsonl`, `judge_prompts.jsonl`, `gpt-4.jsonl` and `gpt-4-0125-preview.jsonl` in one folder, or where
FastChat keeps them below its `data` folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.assets.store import FetchedAsset
from evalkit.errors import AssetError, DataError
from evalkit.records.canonical import digest, parse_object

References = Mapping[int, tuple[str, ...]]
ReferenceSet = Literal["original", "cor1"]

_REFERENCE_FILES: Mapping[ReferenceSet, str] = {"original": "gpt-4.jsonl", "cor1": "gpt-4-0125-preview.jsonl"}


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBenchQuestion:
    """One question.

    Attributes:
        question_id: number in the benchmark (81 to 160 in the published set).
        category: "writing", "math", ...
        turns: user messages in order.
    """

    question_id: int
    category: str
    turns: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgePrompt:
    """One prompt of FastChat's.

    Attributes:
        name: "single-v1", "single-math-v1-multi-turn", ...
        type: "single" or "pairwise".
        system_prompt: system message.
        prompt_template: `str.format` template of the user message.
    """

    name: str
    type: str
    system_prompt: str
    prompt_template: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MtBench:
    """All of MT-Bench.

    Attributes:
        source: the source, for messages.
        questions: in the order of their numbers.
        judge_prompts: name to prompt.
        references: set name ("original", "cor1") to question number to one answer for each turn; a set the source
            does not have is absent.
    """

    source: str
    questions: tuple[MtBenchQuestion, ...]
    judge_prompts: Mapping[str, JudgePrompt]
    references: Mapping[ReferenceSet, References]

    def reference_set(self, name: ReferenceSet) -> References:
        """Return one set of reference answers.

        Raises:
            AssetError: the source does not have it.
        """
        if name not in self.references:
            raise AssetError(
                f"{self.source} has no '{name}' reference answers ({_REFERENCE_FILES[name]}); "
                f"it has: {', '.join(self.references) or 'none'}"
            )
        return self.references[name]

    def references_sha256(self, name: ReferenceSet) -> str:
        """Return the digest of one set of reference answers; raises as `reference_set` does."""
        return digest({str(number): list(turns) for number, turns in self.reference_set(name).items()})


def read_mt_bench(fetched: FetchedAsset) -> MtBench:
    """Read MT-Bench.

    Raises:
        AssetError: a file is missing, or a row is not what it should be.
    """
    questions = sorted(_questions(_find(fetched.path, "mt_bench/question.jsonl")), key=lambda row: row.question_id)
    prompts = [_prompt(place, row) for place, row in _lines(_find(fetched.path, "judge_prompts.jsonl"))]
    _refuse_repeats(fetched.source, "question", [row.question_id for row in questions])
    _refuse_repeats(fetched.source, "judge prompt", [row.name for row in prompts])
    references = {}
    for name, file in _REFERENCE_FILES.items():
        path = _look(fetched.path, f"mt_bench/reference_answer/{file}")
        if path is not None:
            references[name] = _references(path)
    return MtBench(
        source=fetched.source,
        questions=tuple(questions),
        judge_prompts={row.name: row for row in prompts},
        references=references,
    )


def _look(folder: Path, fastchat_path: str) -> Path | None:
    places = (folder / Path(fastchat_path).name, folder / fastchat_path)
    return next((place for place in places if place.is_file()), None)


def _find(folder: Path, fastchat_path: str) -> Path:
    found = _look(folder, fastchat_path)
    if found is None:
        raise AssetError(f"{folder} has neither {Path(fastchat_path).name} nor {fastchat_path}")
    return found


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (place for messages, row) for every line."""
    places = [
        (f"{path}, line {n}", line) for n, line in enumerate(path.read_text("utf-8").split("\n"), start=1) if line
    ]
    try:
        return [(place, parse_object(line, place)) for place, line in places]
    except DataError as error:
        raise AssetError(str(error)) from error


def _questions(path: Path) -> list[MtBenchQuestion]:
    rows = []
    for place, row in _lines(path):
        number, category = row.get("question_id"), row.get("category")
        if not isinstance(number, int) or not isinstance(category, str):
            raise AssetError(f"{place}: no 'question_id' (a number) or no 'category' (a text)")
        rows.append(MtBenchQuestion(question_id=number, category=category, turns=_texts(place, row.get("turns"))))
    return rows


def _prompt(place: str, row: Mapping[str, Any]) -> JudgePrompt:
    values = {key: row.get(key) for key in ("name", "type", "system_prompt", "prompt_template")}
    missing = [key for key, value in values.items() if not isinstance(value, str)]
    if missing:
        raise AssetError(f"{place}: no text for {', '.join(missing)}")
    return JudgePrompt(**{key: str(value) for key, value in values.items()})


def _references(path: Path) -> References:
    found: dict[int, tuple[str, ...]] = {}
    for place, row in _lines(path):
        number, choices = row.get("question_id"), row.get("choices")
        if not isinstance(number, int) or not isinstance(choices, list) or len(choices) != 1:
            raise AssetError(f"{place}: not a reference with a 'question_id' and one choice")
        if number in found:
            raise AssetError(f"{place}: question {number} has two references")
        found[number] = _texts(place, choices[0].get("turns") if isinstance(choices[0], dict) else None)
    return found


def _texts(place: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
        raise AssetError(f"{place}: 'turns' is not a list of texts")
    return tuple(value)


def _refuse_repeats(source: str, what: str, names: list[Any]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise AssetError(f"{source}: {what} {repeated[0]!r} occurs more than once")
