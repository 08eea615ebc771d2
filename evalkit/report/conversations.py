"""Judged conversations of several runs, question by question.

In: runs and the items of a judged task. Out: `Conversations`.
May not know: files, verdicts, how anything is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evalkit.records import Item, JudgeRun, Judgment, TextReply, judged_task
from evalkit.store import Run


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a judge said of one turn.

    Attributes:
        by: the judge, its profile, and of a comparison with the baseline's answer which one was shown first.
        turn: 1-based.
        repeat: 0-based.
        status: as in `Judgment`.
        score: None without a rating.
        text: the judge's words.
        details: what else the judge or the rule left.
    """

    by: str
    turn: int
    repeat: int
    status: str
    score: float | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One run's answers to one question, first generation.

    Attributes:
        turns: answer of each turn; empty where the run failed.
        invalid: why it cannot be read; None for a sound one.
        said: every judgment of it.
        generations: how many generations the run holds.
    """

    turns: tuple[str, ...]
    invalid: str | None
    said: tuple[Said, ...]
    generations: int


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question.

    Attributes:
        category, item_sha256, occurrence: which.
        turns: what the user says.
        answers: run name to answers, baseline first; a run without a record is left out.
    """

    category: str
    item_sha256: str
    occurrence: int
    turns: tuple[str, ...]
    answers: Mapping[str, Answered]


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """A judged task.

    Attributes:
        task: name.
        runs: names, baseline first.
        questions: by category, then content.
    """

    task: str
    runs: tuple[str, ...]
    questions: tuple[Question, ...]


def conversations_of(task: str, runs: Mapping[str, Run], items: Mapping[str, Item]) -> Conversations:
    """Put the answers of several runs side by side.

    Args:
        task: name of the judged task.
        runs: name to run, baseline first.
        items: item key to item, of the baseline.
    """
    answers: dict[tuple[str, str, int], dict[str, Answered]] = {}
    for name, run in runs.items():
        for place, answered in _answers(task, run).items():
            answers.setdefault(place, {})[name] = answered
    questions = tuple(
        Question(
            category=place[0],
            item_sha256=place[1],
            occurrence=place[2],
            turns=_turns(items.get(f"{task}/{place[0]}/{place[1]}/{place[2]}")),
            answers=found,
        )
        for place, found in sorted(answers.items())
    )
    return Conversations(task=task, runs=tuple(runs), questions=questions)


def _turns(item: Item | None) -> tuple[str, ...]:
    return item.turns if item is not None else ()


def _answers(task: str, run: Run) -> dict[tuple[str, str, int], Answered]:
    said: dict[tuple[str, str, int, int], list[Said]] = {}
    for judging, judge in run.manifest.judges.items():
        for judgment in run.judgments.get(judging, ()) if judged_task(judging) == task else ():
            place = (judgment.subject, judgment.item_sha256, judgment.occurrence, judgment.sample)
            said.setdefault(place, []).append(_said(judgment, judging, judge))
    records = run.records.get(task, ())
    counts: dict[tuple[str, str, int], int] = {}
    for record in records:
        place3 = (record.subject, record.item_sha256, record.occurrence)
        counts[place3] = counts.get(place3, 0) + 1
    return {
        (record.subject, record.item_sha256, record.occurrence): Answered(
            turns=tuple(turn.text for turn in record.reply.turns) if isinstance(record.reply, TextReply) else (),
            invalid=record.failure or record.invalid,
            said=tuple(said.get((record.subject, record.item_sha256, record.occurrence, 0), ())),
            generations=counts[record.subject, record.item_sha256, record.occurrence],
        )
        for record in records
        if record.sample == 0
    }


def _said(judgment: Judgment, judging: str, judge: JudgeRun) -> Said:
    pairwise = judge.mode == "pairwise"
    asked = f", this answer shown {('first', 'second')[judgment.repeat % 2]}" if pairwise else ""
    return Said(
        by=f"{judge.identity.model}, {judge.profile}{asked}" + (f" ({judging})" if "@" in judging else ""),
        turn=judgment.turn,
        repeat=judgment.repeat // 2 if pairwise else judgment.repeat,
        status=judgment.status,
        score=judgment.score,
        text=judgment.text,
        details=judgment.details,
    )
