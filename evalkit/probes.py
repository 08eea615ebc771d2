"""What a judge is tried with before its word counts, and what it said: the rows of a qualification.

In: plain values. Out: frozen rows with one JSON form.
May not know: how a probe is made, how it is asked, what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from evalkit.records import JudgmentStatus, build

Kind = Literal["original", "twin", "bad", "injection", "vote"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing put to a judge.

    Attributes:
        question: key of the item it is made from: probes of one question are not independent.
        turn: 1-based turn that is judged.
        kind: "original" (an answer as it was given), "twin" (the same answer, corrupted), "bad" (an answer that says
            nothing), "injection" (the bad answer with a planted verdict or order) or "vote" (a pair people voted on).
        name: which corruption, which plant, or which pair; "" otherwise.
        repeat: 0-based repeat of the same question.
        order: of a pairwise probe, 0 if the named answer is shown first, 1 if second; None for a single answer.
    """

    question: str
    turn: int
    kind: Kind
    name: str = ""
    repeat: int = 0
    order: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRow:
    """A probe and what came of it.

    Attributes:
        probe: what was asked.
        key: digest of the whole question; see `Judgment.key`.
        status: as of a judgment.
        score: rating, or 1, 0, -1 for the named answer of a pair; None unless "ok".
    """

    probe: Probe
    key: str
    status: JudgmentStatus
    score: float | None

    def to_plain(self) -> dict[str, Any]:
        """Return the row as JSON data."""
        return asdict(self)

    @classmethod
    def from_plain(cls, row: Mapping[str, Any]) -> ProbeRow:
        """Read a row; the inverse of `to_plain`.

        Raises:
            DataError: an unknown or missing field.
        """
        return build(cls, {**row, "probe": build(Probe, row.get("probe", {}))})


@dataclass(frozen=True, kw_only=True, slots=True)
class VotedPair:
    """Two conversations about one question.

    Attributes:
        name: name of the pair, the same as in the votes.
        question_id: number of the question.
        turn: 1-based turn that was voted on.
        answers_a, answers_b: answers up to that turn.
    """

    name: str
    question_id: int
    turn: int
    answers_a: tuple[str, ...]
    answers_b: tuple[str, ...]
