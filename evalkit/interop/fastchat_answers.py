"""FastChat's answers as items and records.

In: question and answer files. Out: items, records, and what a reader must know.
May not know: judgments.

FastChat keeps no reason why an answer ended and no token counts: answers count as ended by themselves, and their length
is counted in characters. Texts that FastChat wrote in place of an answer are failures, and so is an answer that lacks a
turn.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.degeneration import degeneration
from evalkit.errors import DataError, UsageError
from evalkit.interop.fastchat_rows import STEP, FastChatFiles, Row, one_of, read_rows, texts, whole, words
from evalkit.records import Item, Record, TextReply, Turn, content_digest, digest

FAILED: Mapping[str, str] = {
    "$ERROR$": "transport: FastChat wrote $ERROR$ in place of an answer",
    "ERROR": "engine: FastChat wrote ERROR in place of an answer",
}
"""Text in place of an answer to what it means."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Answers of one model.

    Attributes:
        model: name: the file's stem, as FastChat takes it.
        items: question number to item.
        records: one for each question with an answer: the first choice, the only one that FastChat judges.
        notes: what a reader must know.
    """

    model: str
    items: Mapping[int, Item]
    records: tuple[Record, ...]
    notes: tuple[str, ...]


def read_items(files: FastChatFiles, task: str) -> dict[int, Item]:
    """Return question number to item, made as evalkit makes its own.

    Raises:
        UsageError: there is no file of questions.
        DataError: a row is no question, or a number stands twice.
    """
    if files.questions is None:
        raise UsageError(f"{files.root}: no question.jsonl; next step: name one with --questions")
    references = {name: _references(file) for name, file in files.references.items()}
    items: dict[int, Item] = {}
    seen: dict[tuple[str, str], int] = {}
    for row in read_rows(files.questions):
        number, category = whole(row, "question_id"), words(row, "category")
        if number in items:
            raise DataError(f"{row.place}: question {number} stands twice; {STEP}")
        turns = texts(row, row.data.get("turns"), "turns")
        sha256 = content_digest({"turns": list(turns)})
        occurrence = seen.get((category, sha256), 0)
        seen[category, sha256] = occurrence + 1
        given = {name: list(answers[number]) for name, answers in references.items() if number in answers}
        items[number] = Item(
            task=task,
            subject=category,
            item_sha256=sha256,
            occurrence=occurrence,
            prompt_sha256=digest(list(turns)),
            target_sha256=digest(None),
            doc={"question_id": number, "category": category, "turns": list(turns)},
            turns=turns,
            details={"category": category, "question_id": number, "references": given},
        )
    return items


def _references(file: Path) -> dict[int, tuple[str, ...]]:
    found = {whole(row, "question_id"): _choices(row) for row in read_rows(file)}
    return {number: tuple(text or "" for text in choices[0]) for number, choices in found.items() if choices}


def read_answers(files: FastChatFiles, model: str | None, items: Mapping[int, Item], duplicates: str | None) -> Answers:
    """Read one model's answers.

    Raises:
        UsageError: no such model, or several.
        DataError: rows contradict each other, or an answer belongs to no question.
    """
    name, file = files.answers_of(model)
    notes: list[str] = []
    by_question: dict[int, list[Row]] = defaultdict(list)
    stated: dict[str, int] = defaultdict(int)
    for row in read_rows(file):
        by_question[whole(row, "question_id")].append(row)
        stated[str(row.data.get("model_id", name))] += 1
    if set(stated) - {name}:
        shown = ", ".join(f"{count} rows of '{who}'" for who, count in sorted(stated.items()))
        notes.append(f"{file}: the rows name their model otherwise than the file: {shown}")
    records: list[Record] = []
    further = 0
    for number, rows in sorted(by_question.items()):
        if number not in items:
            raise DataError(f"{rows[0].place}: question {number} is not among the questions; {STEP}")
        same = len({tuple(_choices(row)) for row in rows}) == 1
        row = one_of(rows, f"answers to question {number}", same, duplicates, notes)
        choices = _choices(row)
        further += max(0, len(choices) - 1)
        records.append(_record(items[number], choices[0] if choices else (), row))
    failed = Counter((record.failure or "").split(":")[0] for record in records if record.failure)
    own = failed.total() - failed["no-answer"]
    if own:
        notes.append(f"{file}: {own} answer(s) are an error that FastChat wrote in place of one; they are failures")
    if failed["no-answer"]:
        first = next(record.failure for record in records if (record.failure or "").startswith("no-answer"))
        notes.append(f"{file}: {failed['no-answer']} answer(s) lack a turn and are failures, the first with: {first}")
    missing = len(items) - len(by_question)
    if missing:
        notes.append(f"{file}: {missing} of {len(items)} questions have no answer")
    if further:
        notes.append(
            f"{file}: {further} further answer(s) to the same questions are left out: FastChat never judges them"
        )
    return Answers(model=name, items=items, records=tuple(records), notes=tuple(notes))


def _choices(row: Row) -> list[tuple[str | None, ...]]:
    """Return the turns of each choice, None for one without a text; nothing where the row holds no choice."""
    choices = row.data.get("choices")
    if choices is not None and not isinstance(choices, list):
        raise DataError(f"{row.place}: 'choices' is not a list; {STEP}")
    found = []
    for choice in choices or ():
        turns = choice.get("turns") if isinstance(choice, Mapping) else None
        if turns is not None and not isinstance(turns, list):
            raise DataError(f"{row.place}: 'choices.turns' is not a list of texts; {STEP}")
        wrong = [text for text in turns or () if text is not None and not isinstance(text, str)]
        if wrong:
            raise DataError(f"{row.place}: 'choices.turns' holds {wrong[0]!r:.80}, not a text; {STEP}")
        found.append(tuple(turns or ()))
    if choices is None:
        raise DataError(f"{row.place}: no 'choices'; {STEP}")
    return found


def _record(item: Item, answers: Sequence[str | None], row: Row) -> Record:
    if len(answers) > len(item.turns):
        raise DataError(f"{row.place}: {len(answers)} answers to {len(item.turns)} turns; {STEP}")
    texts_given = [text for text in answers if text is not None]
    failure = next((FAILED[text.strip()] for text in texts_given if text.strip() in FAILED), None)
    if failure is None and len(texts_given) < len(item.turns):
        failure = f"no-answer: {Path(row.place).name} has {len(texts_given)} answers to {len(item.turns)} turns"
    turns = tuple(Turn(text=text, finish="stop", prompt_tokens=0, completion_tokens=0) for text in texts_given)
    reasons = [reason for reason in map(degeneration, turns) if reason] if failure is None else []
    return Record(
        task=item.task,
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=item.occurrence,
        prompt_sha256=item.prompt_sha256,
        target_sha256=item.target_sha256,
        status="ok" if failure is None else "failed",
        failure=failure,
        reply=TextReply(turns=turns) if failure is None else None,
        invalid=reasons[0] if reasons else None,
    )
