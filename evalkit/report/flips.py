"""Items whose mark changed between two runs.

In: records of both, and their items. Out: `Changes`, the largest change first.
May not know: files, verdicts, how anything is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evalkit.records import ChoiceReply, Item, Record, TextReply

ItemsByKey = Mapping[str, Item]


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One side's reply to an item.

    Attributes:
        mark: of the deciding metric.
        logprobs: of each choice, natural logarithm; empty for generated answers.
        chosen: index of the choice the metric counts as its answer; None where it has none.
        text: the generated answer; "" for choices.
        prompt: what this side was asked; None if it is the baseline's.
    """

    mark: float
    logprobs: tuple[float, ...] = ()
    chosen: int | None = None
    text: str = ""
    prompt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """One item that one run has right and the other wrong.

    Attributes:
        subject, item_sha256, occurrence, sample: the item.
        prompt: what the baseline was asked; "" where the folder holds no items.
        choices: texts of the choices, or what counts as right for a generated answer.
        target: index of the right choice; None where there is none.
        baseline, candidate: replies.
        shift: change of the right choice's share of the probability of all choices; 0 for generated answers.
    """

    subject: str
    item_sha256: str
    occurrence: int
    sample: int
    prompt: str
    choices: tuple[str, ...]
    target: int | None
    baseline: Reply
    candidate: Reply
    shift: float

    @property
    def gained(self) -> bool:
        """Only the candidate is right."""
        return self.candidate.mark > self.baseline.mark


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Every changed item of one run on one endpoint.

    Attributes:
        run, endpoint, task, metric: where.
        items: the largest change of probability first.
    """

    run: str
    endpoint: str
    task: str
    metric: str
    items: tuple[Change, ...]


def changes_of(
    run: str,
    endpoint: str,
    metric: str,
    records: tuple[Sequence[Record], Sequence[Record]],
    items: Callable[[], tuple[ItemsByKey, ItemsByKey | None]],
) -> Changes:
    """Find the items that both runs have a mark for, and not the same.

    Args:
        run: name of the candidate's run.
        endpoint: name.
        metric: name of the mark that decides.
        records: of baseline and candidate, one task.
        items: returns the baseline's items and the candidate's, None where both were asked the same; called once, and
            only if something changed.
    """
    left = {record.key: record for record in records[0] if metric in record.marks}
    pairs = [
        (left[record.key], record)
        for record in records[1]
        if record.key in left and metric in record.marks and left[record.key].marks[metric] != record.marks[metric]
    ]
    asked, other = items() if pairs else ({}, None)
    found = [_change(metric, a, b, asked, other) for a, b in pairs]
    found.sort(key=lambda change: (-abs(change.shift), change.subject, change.item_sha256, change.occurrence))
    task = records[0][0].task if records[0] else ""
    return Changes(run=run, endpoint=endpoint, task=task, metric=metric, items=tuple(found))


def _change(metric: str, left: Record, right: Record, asked: ItemsByKey, other: ItemsByKey | None) -> Change:
    item = asked.get(_item_key(left))
    target = left.reply.target if isinstance(left.reply, ChoiceReply) else None
    shares = [_share(record, target) for record in (left, right)]
    return Change(
        subject=left.subject,
        item_sha256=left.item_sha256,
        occurrence=left.occurrence,
        sample=left.sample,
        prompt=prompt_of(item),
        choices=item.continuations if item is not None else (),
        target=target,
        baseline=_reply(metric, left, None),
        candidate=_reply(metric, right, prompt_of((other or {}).get(_item_key(right))) if other is not None else None),
        shift=shares[1] - shares[0],
    )


def _item_key(record: Record) -> str:
    return f"{record.task}/{record.subject}/{record.item_sha256}/{record.occurrence}"


def prompt_of(item: Item | None) -> str:
    """Return what an engine was asked, as text; "" without an item."""
    if item is None:
        return ""
    return item.context if item.context is not None else "\n\n".join(item.turns)


def _reply(metric: str, record: Record, prompt: str | None) -> Reply:
    reply, mark = record.reply, record.marks[metric]
    if isinstance(reply, ChoiceReply):
        return Reply(mark=mark, logprobs=reply.logprobs, chosen=_chosen(metric, reply), prompt=prompt)
    text = "\n\n".join(turn.text for turn in reply.turns) if isinstance(reply, TextReply) else ""
    return Reply(mark=mark, text=text, prompt=prompt)


def _chosen(metric: str, reply: ChoiceReply) -> int | None:
    """Return the choice that lm-eval's metric takes for the answer; None for a metric of other meaning."""
    if metric not in ("acc", "acc_norm") or len(reply.logprobs) < 2:
        return None
    lengths = reply.lengths if metric == "acc_norm" else (1,) * len(reply.logprobs)
    scores = [value / (length or 1) for value, length in zip(reply.logprobs, lengths, strict=True)]
    return scores.index(max(scores))


def _share(record: Record, target: int | None) -> float:
    """Return the right choice's share of the probability of all choices."""
    if target is None or not isinstance(record.reply, ChoiceReply) or target >= len(record.reply.logprobs):
        return 0.0
    top = max(record.reply.logprobs)
    weights = [math.exp(value - top) for value in record.reply.logprobs]
    return weights[target] / sum(weights)
