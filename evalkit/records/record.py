"""What one engine did with one item: the product of every run.

In: plain values, or one line of `records/<task>.jsonl`. Out: a frozen `Record`.
May not know: which run is the baseline, where it is stored.

A failure (transport, crash, non-finite number) is neither right nor wrong: `status` is "failed" and `marks` is empty.
No record holds a clock reading, so equal runs are equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evalkit.errors import DataError
from evalkit.records.canonical import canonical_json
from evalkit.records.parsing import build, flat, parse_object
from evalkit.records.replies import ChoiceReply, TextReply, reply_of

Status = Literal["ok", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """What one engine did with one item.

    Attributes:
        task, subject, item_sha256, occurrence, prompt_sha256, target_sha256: as in `Item`.
        sample: 0-based index of the generation; always 0 for a scored item.
        status: "ok", or "failed": no usable reply after all retries.
        failure: `kind: what was seen` of a failed record, else None.
        reply: the reply; None exactly when failed.
        marks: metric name to value (proportions in [0, 1]); empty when failed or where a judge decides.
        invalid: why a reply that arrived cannot be read ("unparsable", "empty", "truncated", "degenerate"), else None.
    """

    task: str
    subject: str
    item_sha256: str
    occurrence: int
    prompt_sha256: str
    target_sha256: str
    sample: int = 0
    status: Status
    failure: str | None = None
    reply: ChoiceReply | TextReply | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    invalid: str | None = None

    def __post_init__(self) -> None:
        if self.status not in ("ok", "failed"):
            raise DataError(f"{self.key}: unknown status {self.status!r}; allowed: ok, failed")
        if (self.status == "failed") != (self.reply is None) or (self.status == "failed") != (self.failure is not None):
            raise DataError(f"{self.key}: a failed record has a failure and no reply; an ok record the reverse")
        bad = {name: value for name, value in self.marks.items() if not math.isfinite(value)}
        if bad:
            raise DataError(f"{self.key}: non-finite mark {bad}")

    @property
    def key(self) -> str:
        """Pair key: `Item.key` and the index of the generation."""
        return f"{self.task}/{self.subject}/{self.item_sha256}/{self.occurrence}/{self.sample}"

    def to_json(self) -> str:
        """Return the record's one line in `records/<task>.jsonl`, without a line feed."""
        row = flat(self)
        if isinstance(self.reply, TextReply):
            row["reply"] = {"turns": [flat(turn) for turn in self.reply.turns]}
        elif self.reply is not None:
            row["reply"] = flat(self.reply)
        return canonical_json(row)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, an unknown or missing field, or a value that breaks an invariant.
        """
        row = parse_object(line, "a record")
        reply = row.get("reply")
        if reply is not None:
            row["reply"] = reply_of(reply)
        return build(cls, row)
