"""Votes on pairs of answers: who was better, by whom.

In: rows as LMSYS published them. Out: votes in one order of names.
May not know: how agreement is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import DataError, UsageError
from evalkit.records import parse_object
from evalkit.store.lines import read_lines

Winner = Literal["a", "b", "tie"]
HUMAN, GPT4 = "human.jsonl", "gpt4_pair.jsonl"

EXPERT = "expert"
"""Beginning of the names of people who count; the benchmark's authors are another class and do not."""


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One vote.

    Attributes:
        question_id: number of the question.
        turn: 1-based turn.
        first, second: names of the two models, sorted.
        winner: "a" for the first, "b" for the second, or "tie".
        judge: who voted.
    """

    question_id: int
    turn: int
    first: str
    second: str
    winner: Winner
    judge: str

    @property
    def key(self) -> tuple[int, int, str, str]:
        """What was voted on."""
        return (self.question_id, self.turn, self.first, self.second)

    @property
    def by_expert(self) -> bool:
        """Whether an expert voted."""
        return self.judge.startswith(EXPERT)


def read_votes(path: Path) -> list[Vote]:
    """Read a file of votes, one JSON object a line, in the order of the file.

    Raises:
        UsageError: there is no such file.
        DataError: a row is no vote; names file and line.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file of votes")
    return [_vote(parse_object(line, f"{path}:{number}"), f"{path}:{number}") for number, line in read_lines(path)]


def _vote(row: Mapping[str, Any], place: str) -> Vote:
    a, b, winner = (row.get(name) for name in ("model_a", "model_b", "winner"))
    question, turn, judge = row.get("question_id"), row.get("turn"), row.get("judge", "")
    named = isinstance(a, str) and isinstance(b, str) and isinstance(winner, str)
    if not named or not isinstance(question, int) or not isinstance(turn, int):
        raise DataError(f"{place}: not a vote with question_id, turn, model_a, model_b and winner")
    return make_vote(question, turn, (str(a), str(b)), str(winner), str(judge), place)


def make_vote(question: int, turn: int, models: tuple[str, str], winner: str, judge: str, place: str) -> Vote:
    """Return a vote with its models sorted, and the winner turned round with them.

    Any winner with "tie" in it is a tie: published votes call a disagreement of two orders `tie (inconsistent)`.

    Raises:
        DataError: the winner is neither `model_a`, `model_b` nor a tie.
    """
    sides: dict[str, Winner] = {"model_a": "a", "model_b": "b"}
    found: Winner | None = "tie" if "tie" in winner else sides.get(winner)
    if found is None:
        raise DataError(f"{place}: winner {winner!r} is neither model_a, model_b nor a tie")
    first, second = models
    if first > second:
        first, second = second, first
        found = {"a": "b", "b": "a", "tie": "tie"}[found]  # type: ignore[assignment]
    return Vote(question_id=question, turn=turn, first=first, second=second, winner=found, judge=judge)
