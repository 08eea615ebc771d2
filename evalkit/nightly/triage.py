"""Where a night's flips sit, and which answers lost most: what to look at first after an alarm.

In: records of both sides, items. Out: `Triage`.
May not know: whether there was an alarm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evalkit.records import ChoiceReply, Item, Record, TextReply
from evalkit.statistics.distributions import log_probability_correct

LARGEST = 10
"""Items shown."""

_QUESTION_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class SubjectFlips:
    """Flips of one subject: items asked, only the baseline right, only the candidate right."""

    subject: str
    items: int
    losses: int
    gains: int


@dataclass(frozen=True, kw_only=True)
class LogLoss:
    """One item whose right choice lost probability.

    Attributes:
        key, subject: the item.
        question: how it begins; "" where it is not known.
        baseline, candidate: log p(right choice), natural logarithm, after normalising over the choices.
        change: candidate minus baseline; below 0.
        flipped: the mark went from right to wrong.
    """

    key: str
    subject: str
    question: str
    baseline: float
    candidate: float
    change: float
    flipped: bool


@dataclass(frozen=True, kw_only=True)
class Triage:
    """What to look at.

    Attributes:
        largest: items that lost most log-probability of the right choice, the largest loss first.
        subjects: subjects with flips, the largest net loss first.
        mean_change: mean change of log p(right choice) over the items with choices; None without any.
        unreadable: share of the candidate's generated answers that cannot be read; None without any.
    """

    largest: tuple[LogLoss, ...]
    subjects: tuple[SubjectFlips, ...]
    mean_change: float | None
    unreadable: float | None


def triage(
    baseline: Mapping[str, Record], candidate: Mapping[str, Record], metric: str, questions: Mapping[str, Item]
) -> Triage:
    """Compare the answered items of both sides.

    Args:
        baseline: item key to record.
        candidate: item key to record; only those asked.
        metric: name of the mark.
        questions: item key to item, as far as known.
    """
    pairs = [
        (key, baseline[key], record)
        for key, record in sorted(candidate.items())
        if record.status == "ok" and key in baseline and baseline[key].status == "ok"
    ]
    changes = _changes(pairs)
    order = sorted((change, key) for key, (_, _, change) in changes.items() if change < 0.0)
    records = {key: (left, right) for key, left, right in pairs}
    largest = []
    for change, key in order[:LARGEST]:
        before, after, _ = changes[key]
        left, right = records[key]
        largest.append(
            LogLoss(
                key=key,
                subject=right.subject,
                question=_question(questions.get(key)),
                baseline=before,
                candidate=after,
                change=change,
                flipped=left.marks.get(metric) == 1.0 and right.marks.get(metric) == 0.0,
            )
        )
    values = [change for _, _, change in changes.values()]
    return Triage(
        largest=tuple(largest),
        subjects=_subjects(pairs, metric),
        mean_change=float(np.mean(values)) if values else None,
        unreadable=_unreadable([right for _, _, right in pairs]),
    )


def _changes(pairs: list[tuple[str, Record, Record]]) -> dict[str, tuple[float, float, float]]:
    """Return item key to log p(right) before and after, and its change; only items with choices on both sides."""
    groups: dict[int, list[tuple[str, ChoiceReply, ChoiceReply]]] = {}
    for key, left, right in pairs:
        a, b = left.reply, right.reply
        if not (isinstance(a, ChoiceReply) and isinstance(b, ChoiceReply)) or a.target is None:
            continue
        if len(a.logprobs) == len(b.logprobs) > 1:
            groups.setdefault(len(a.logprobs), []).append((key, a, b))
    found = {}
    for group in groups.values():
        targets = [a.target or 0 for _, a, _ in group]
        before = log_probability_correct([a.logprobs for _, a, _ in group], targets)
        after = log_probability_correct([b.logprobs for _, _, b in group], targets)
        for (key, _, _), left, right in zip(group, before.tolist(), after.tolist(), strict=True):
            found[key] = (left, right, right - left)
    return found


def _subjects(pairs: list[tuple[str, Record, Record]], metric: str) -> tuple[SubjectFlips, ...]:
    items: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    gains: Counter[str] = Counter()
    for _, left, right in pairs:
        before, after = left.marks.get(metric), right.marks.get(metric)
        if before is None or after is None:
            continue
        items[right.subject] += 1
        losses[right.subject] += before > after
        gains[right.subject] += after > before
    rows = [
        SubjectFlips(subject=name, items=items[name], losses=losses[name], gains=gains[name])
        for name in items
        if losses[name] or gains[name]
    ]
    return tuple(sorted(rows, key=lambda row: (row.gains - row.losses, -row.losses, row.subject)))


def _unreadable(records: list[Record]) -> float | None:
    written = [record for record in records if isinstance(record.reply, TextReply)]
    return sum(record.invalid is not None for record in written) / len(written) if written else None


def _question(item: Item | None) -> str:
    if item is None:
        return ""
    text = item.doc.get("question") or (item.turns[0] if item.turns else item.context or "")
    folded = " ".join(str(text).split())
    return folded if len(folded) <= _QUESTION_CHARACTERS else f"{folded[:_QUESTION_CHARACTERS]}..."
