"""What a judge is to be asked about some runs, each different question once.

In: items and records of several runs. Out: questions in one mixed order, and where each verdict belongs.
May not know: who judges, which run is the baseline, what is on the disk.

The judge is blind: a question holds no name of a run or an engine, and the questions of all runs are mixed. Answers
that are equal to the letter are one question: an exact tie that costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalkit.degeneration import degeneration
from evalkit.errors import UsageError
from evalkit.judging.words import JudgeWords
from evalkit.records import EngineIdentity, Item, Judgment, JudgmentStatus, Record, TextReply, digest, text_digest


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a verdict belongs: a run, a record, a turn, a repeat."""

    run: int
    record: Record
    turn: int
    repeat: int
    answer_sha256: str

    @property
    def name(self) -> str:
        """What the judgment is about, within its run."""
        return f"{self.record.key}/{self.turn}/{self.repeat}"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to the judge.

    Attributes:
        key: digest of everything the judge sees and is; see `Judgment.key`.
        system: system message; None for none.
        user: user message.
        reference: whether a reference answer is part of it.
        places: where the verdict belongs.
        rule: why the answer is scored without asking ("empty", "degenerate"), else None.
    """

    key: str
    system: str | None
    user: str
    reference: bool
    places: tuple[Place, ...]
    rule: str | None

    @property
    def seed(self) -> int:
        """Sampling seed, a whole number below 2**31."""
        return int(self.key[:8], 16) >> 1


@dataclass(frozen=True, kw_only=True)
class JudgingPlan:
    """All questions about some runs.

    Attributes:
        questions: in a random order that mixes the runs; rule-scored ones included.
        references_sha256: digest of the reference answers used; None without any.
        planned: judgments of a complete run.
    """

    questions: tuple[Question, ...]
    references_sha256: str | None
    planned: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a question: the parts of a judgment that do not depend on its place."""

    status: JudgmentStatus
    score: float | None
    text: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def at(self, place: Place, key: str) -> Judgment:
        """Return the judgment of one place."""
        record = place.record
        return Judgment(
            key=key,
            task=record.task,
            subject=record.subject,
            item_sha256=record.item_sha256,
            occurrence=record.occurrence,
            sample=record.sample,
            turn=place.turn,
            repeat=place.repeat,
            answer_sha256=place.answer_sha256,
            status=self.status,
            score=self.score,
            text=self.text,
            details=self.details,
        )


def plan_judging(
    items: Sequence[Item],
    runs: Sequence[Sequence[Record]],
    words: JudgeWords,
    judge: EngineIdentity,
    *,
    references: str | None,
    samples: int,
    repeats: int,
    seed: int,
) -> JudgingPlan:
    """Plan every judgment of the given runs of one task.

    Args:
        items: the task's items.
        runs: records of each run; failed ones have nothing to judge.
        words: how the judge is asked.
        judge: who judges; part of every key.
        references: name of the set of reference answers; None to judge without any.
        samples: answers to each item in a complete run.
        repeats: judgments of each answer.
        seed: of the order of questions.

    Raises:
        UsageError: an item lacks the reference answer its category needs, or a record has no item.
    """
    used = {item.key: _references(item, words, references) for item in items}
    named = {key: value for key, value in used.items() if value is not None}
    planner = _Planner(
        words=words,
        items={item.key: item for item in items},
        references=used,
        common={
            "judge": judge.sha256,
            "profile": words.sha256,
            "references": digest(named) if named else None,
            "sampling": [words.profile.temperature, words.profile.max_tokens],
        },
    )
    for run, records in enumerate(runs):
        for record in records:
            if isinstance(record.reply, TextReply):
                planner.add(run, record, record.reply, repeats)
    ordered = sorted(planner.found, key=lambda key: text_digest(f"{seed}:{key}"))
    return JudgingPlan(
        questions=tuple(_question(planner, key) for key in ordered),
        references_sha256=digest(named) if named else None,
        planned=sum(len(item.turns) for item in items) * samples * repeats,
    )


@dataclass(kw_only=True)
class _Planner:
    words: JudgeWords
    items: Mapping[str, Item]
    references: Mapping[str, Sequence[str] | None]
    common: Mapping[str, Any]
    found: dict[str, tuple[str | None, str, bool, str | None]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, run: int, record: Record, reply: TextReply, repeats: int) -> None:
        item = self.items.get(record.key.rsplit("/", 1)[0])
        if item is None:
            raise UsageError(f"record {record.key} belongs to no item of its run; next step: collect the run again")
        for turn in range(1, len(reply.turns) + 1):
            answers = [answer.text for answer in reply.turns[:turn]]
            references = self.references[item.key]
            given = None if references is None else references[:turn]
            system, user = self.words.fill(item.turns[:turn], answers, given)
            rule = degeneration(reply.turns[turn - 1])
            for repeat in range(repeats):
                key = digest({**self.common, "messages": [system, user], "repeat": repeat, "rule": rule})
                self.found[key] = (system, user, given is not None, rule)
                place = Place(run=run, record=record, turn=turn, repeat=repeat, answer_sha256=digest(answers))
                self.places.setdefault(key, []).append(place)


def _question(planner: _Planner, key: str) -> Question:
    system, user, reference, rule = planner.found[key]
    return Question(
        key=key, system=system, user=user, reference=reference, places=tuple(planner.places[key]), rule=rule
    )


def _references(item: Item, words: JudgeWords, name: str | None) -> list[str] | None:
    if name is None or item.subject not in words.profile.needs_reference:
        return None
    found = item.details.get("references", {}).get(name)
    if not isinstance(found, list) or len(found) < len(item.turns):
        raise UsageError(
            f"item {item.key} of category '{item.subject}' has no '{name}' reference answer, which judge "
            f"'{words.profile.name}' needs; next step: another reference set, or leave the category out of "
            "'needs_reference'"
        )
    return found
