"""What a judge said about one answer, and the names of judgings.

In: plain values, or one line of `judgments/<profile>.jsonl`. Out: a frozen `Judgment`.
May not know: how a question to a judge is worded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from evalkit.errors import DataError
from evalkit.records.canonical import canonical_json
from evalkit.records.parsing import build, flat, parse_object

JudgmentStatus = Literal["ok", "unparsed", "refused", "api_error", "truncated", "out_of_range", "rule"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgment:
    """What a judge said about one turn of one answer.

    Attributes:
        key: digest of judge identity, sampling parameters, profile, references, full messages and repeat index.
        task, subject, item_sha256, occurrence, sample: the judged record.
        turn: 1-based turn.
        repeat: 0-based repeat of the same question to the judge; of a pairwise judgment 2 repeat + order, where order
            0 showed the judged answer first and order 1 second.
        answer_sha256: digest of all answer text the judge saw.
        status: "ok", or why there is no rating of the judge's own ("rule": scored by policy without asking).
        score: rating on the profile's scale; of a pairwise judgment 1 (the judged answer is better), 0 or -1. None
            unless status is "ok" or "rule".
        text: the judge's own words ("" where it only gave log-probabilities).
        details: distribution over ratings, ambiguity flags, token counts.
    """

    key: str
    task: str
    subject: str
    item_sha256: str
    occurrence: int
    sample: int
    turn: int
    repeat: int
    answer_sha256: str
    status: JudgmentStatus
    score: float | None
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status not in get_args(JudgmentStatus):
            raise DataError(f"judgment {self.key}: unknown status {self.status!r}")
        if (self.score is not None) != (self.status in ("ok", "rule")):
            raise DataError(f"judgment {self.key}: status {self.status!r} with score {self.score!r}")
        if self.score is not None and not math.isfinite(self.score):
            raise DataError(f"judgment {self.key}: non-finite score")

    def to_json(self) -> str:
        """Return the judgment's one line in `judgments/<profile>.jsonl`, without a line feed."""
        return canonical_json(flat(self))

    @classmethod
    def from_json(cls, line: str) -> Judgment:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, an unknown or missing field, or a value that breaks an invariant.
        """
        return build(cls, parse_object(line, "a judgment"))


def judging_name(task: str, by: str | None = None) -> str:
    """Return the name of one judging of a task: the task's own for its judge, `task@by` for any other.

    >>> judging_name("mt-bench"), judging_name("mt-bench", "second")
    ('mt-bench', 'mt-bench@second')
    """
    return task if by is None else f"{task}@{by}"


def judged_task(judging: str) -> str:
    """Return the task of a judging; the inverse of `judging_name`.

    >>> judged_task("mt-bench@second")
    'mt-bench'
    """
    return judging.split("@", 1)[0]
