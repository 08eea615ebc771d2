"""Questions to a judge, the places their verdicts belong to, and verdicts.

In: nothing. Out: the types that planning, asking and writing share.
May not know: how a question is worded, who judges, what is on the disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evalkit.records import Judgment, JudgmentStatus, Record


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a verdict belongs: a run, a record, a turn, a repeat.

    For a pairwise judgment the run is that of the judged answer, and repeats count games: the even ones show the judged
    answer first, the odd ones second.
    """

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
        rule: why the answer is scored without asking ("empty", "garbled", "degenerate", for pairs also "identical"),
            else None.
        rule_score: the score then, else None.
        answers: the judged texts that are part of it; what they hold is never a verdict.
        judged_first: of a pair, whether the judged answer is shown first; None for a single answer.
    """

    key: str
    system: str | None
    user: str
    reference: bool
    places: tuple[Place, ...]
    rule: str | None
    rule_score: float | None = None
    answers: tuple[str, ...] = ()
    judged_first: bool | None = None

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
