"""One question of a task.

In: plain values, or one line of `items/<task>.jsonl`. Out: a frozen `Item`.
May not know: who is asked, and what came back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evalkit.records.canonical import canonical_json
from evalkit.records.parsing import build, flat, parse_object, tuple_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question of a task, with everything an engine is asked.

    Attributes:
        task: name of the task definition.
        subject: stratum within the task (MMLU subject, MT-Bench category, lm-eval sub-task).
        item_sha256: digest of the content (question, options, key), white space folded; never of a position.
        occurrence: 0 for the first item with this digest in this subject, 1 for the next, ...
        prompt_sha256: digest of what is sent to the engine (context and continuations, or user turns).
        target_sha256: digest of what counts as right.
        doc: the source row, for exports and for people.
        context: text before the continuations; None for a conversation.
        continuations: texts to be scored after the context, shape (k,); empty for a conversation.
        target: index of the right continuation; None where there is none.
        turns: user messages in order; empty for a scored item.
        details: what the benchmark needs to mark the reply (categories, reference keys, lm-eval hashes).
    """

    task: str
    subject: str
    item_sha256: str
    occurrence: int
    prompt_sha256: str
    target_sha256: str
    doc: Mapping[str, Any]
    context: str | None = None
    continuations: tuple[str, ...] = ()
    target: int | None = None
    turns: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Pair key: task, subject, content and occurrence; never a row number."""
        return f"{self.task}/{self.subject}/{self.item_sha256}/{self.occurrence}"

    def to_json(self) -> str:
        """Return the item's one line in `items/<task>.jsonl`, without a line feed."""
        return canonical_json(flat(self))

    @classmethod
    def from_json(cls, line: str) -> Item:
        """Read one line; the inverse of `to_json`.

        Raises:
            DataError: not JSON, or an unknown or missing field.
        """
        row = parse_object(line, "an item")
        for name in ("continuations", "turns"):
            row[name] = tuple_of(row, name)
        return build(cls, row)
