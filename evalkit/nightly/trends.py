"""What nights show over time: series of each recipe, the nights where they change, and what changed in the environment.

In: rows of the history. Out: `Trend` for each recipe and endpoint.
Must not depend on: databases, how a trend is shown.

The unit is the night. Nights draw their items anew from one and the same list, so their errors are independent but many
nights say no more of the list than the list itself, and nothing of further items: nights are never pooled into one
estimate, and a change is only looked for between nights. INVALID nights are shown and are part of no series.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from evalkit.errors import EstimateError
from evalkit.history import NightRow
from evalkit.records import ChoiceReply, Item, Record, TextReply
from evalkit.statistics.changepoints import segments, snapped
from evalkit.statistics.distributions import log_probability_correct

# Where a night's flips sit, and which answers lost most: what to look at first after an alarm.


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


MEASURES = ("difference", "flips", "accuracy", "log_probability", "unreadable", "rate")

TESTED = ("difference", "flips")
"""Measures with a known sampling variance; only they are searched for changes."""

ALPHA = 0.01
"""Chance that a series without a change is cut."""

_FEWEST = 3
_NEAR = 2

_ALWAYS = ("commit",)
"""Parts of the environment that normally change every night: named as a cause, no event of their own."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A measure that changed.

    Attributes:
        measure: of `TESTED`.
        night: first night after the change.
        before, after: means of the segments on both sides, proportions.
        causes: what changed in the environment with that night, or else within two nights of it, with the night's
            label before it; empty where nothing is known to have changed.
        last_before: last night before it.
    """

    measure: str
    night: str
    before: float
    after: float
    causes: tuple[str, ...]
    last_before: str


@dataclass(frozen=True, kw_only=True)
class Event:
    """A night whose engine or environment is not that of the night before; `what` names each part."""

    night: str
    what: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One recipe on one endpoint.

    Attributes:
        suite, site, recipe, endpoint: whose.
        nights: every night, INVALID ones included, in order of time.
        series: measure to one value for each night; None where the night has none.
        changes: where a measure changed, in order of time.
        events: nights with another environment than the one before.
    """

    suite: str
    site: str
    recipe: str
    endpoint: str
    nights: tuple[NightRow, ...]
    series: Mapping[str, tuple[float | None, ...]]
    changes: tuple[Change, ...]
    events: tuple[Event, ...]


def trends(rows: Sequence[NightRow]) -> list[Trend]:
    """Group nights by suite, site, recipe and endpoint."""
    groups: dict[tuple[str, str, str, str], list[NightRow]] = {}
    for row in rows:
        groups.setdefault((row.suite, row.site, row.recipe, row.endpoint), []).append(row)
    return [_trend(key, nights) for key, nights in sorted(groups.items())]


def _trend(key: tuple[str, str, str, str], nights: Sequence[NightRow]) -> Trend:
    series = {measure: tuple(_value(row, measure) for row in nights) for measure in MEASURES}
    suite, site, recipe, endpoint = key
    return Trend(
        suite=suite,
        site=site,
        recipe=recipe,
        endpoint=endpoint,
        nights=tuple(nights),
        series=series,
        changes=tuple(find_changes(nights)),
        events=tuple(_events(nights)),
    )


def sound(row: NightRow) -> bool:
    """Say whether a night is part of a series: it was judged, and something was compared."""
    return row.outcome != "INVALID" and row.best is not None


def _value(row: NightRow, measure: str) -> float | None:
    best = row.best
    if not sound(row) or best is None:
        return None
    return {
        "difference": best.difference,
        "flips": best.flips,
        "accuracy": best.candidate_value,
        "log_probability": best.log_probability_change,
        "unreadable": best.invalid_share,
        "rate": row.rate,
    }[measure]


def find_changes(nights: Sequence[NightRow], *, alpha: float = ALPHA) -> list[Change]:
    """Return where a measure changed, in order of time; fewer than three sound nights show nothing.

    Which night was the first is less certain than that there was a change: a night nearby with another environment is
    preferred, if the values agree with it about as well.

    The variance of a night's difference is taken as its share of flips (or that of all nights, whichever is larger)
    over its items: never smaller than sampling makes it, so that a quiet night does not become a landmark.
    """
    rows = [row for row in nights if sound(row)]
    found: list[tuple[int, Change]] = []
    for measure in TESTED:
        usable = [row for row in rows if row.best is not None and row.best.flips is not None and row.best.n]
        if len(usable) < _FEWEST:
            continue
        values = [_value(row, measure) or 0.0 for row in usable]
        try:
            variances = _variances(usable, measure)
            parts = segments(values, variances, alpha=alpha)
            parts = snapped(values, variances, parts, _turns(usable), within=_NEAR)
        except EstimateError:
            continue
        for left, right in pairwise(parts):
            first, last = usable[right.start], usable[right.start - 1]
            change = Change(
                measure=measure,
                night=first.night,
                before=left.mean,
                after=right.mean,
                causes=differences(last, first) or _nearby(rows, first),
                last_before=last.night,
            )
            found.append((rows.index(first), change))
    return [change for _, change in sorted(found, key=lambda pair: pair[0])]


def _turns(rows: Sequence[NightRow]) -> list[int]:
    """Return the places of nights that ran in another environment than the one before."""
    return [at for at in range(1, len(rows)) if _eventful(differences(rows[at - 1], rows[at]))]


def _eventful(what: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in what if part.split(":", 1)[0] not in _ALWAYS)


def _nearby(rows: Sequence[NightRow], first: NightRow) -> tuple[str, ...]:
    """Return what changed within `_NEAR` nights of a change: a small one may be seen a night early or late."""
    at = rows.index(first)
    around = rows[max(0, at - _NEAR - 1) : at + _NEAR + 1]
    return tuple(
        f"night {after.night}: {what}"
        for before, after in pairwise(around)
        for what in differences(before, after)
        if after.night != first.night
    )


def _variances(rows: Sequence[NightRow], measure: str) -> list[float]:
    bests = [row.best for row in rows if row.best is not None]
    items, flips = sum(best.n for best in bests), sum((best.flips or 0.0) * best.n for best in bests)
    pooled = flips / items
    found = []
    for best in bests:
        share = max(best.flips or 0.0, pooled, 1.0 / best.n)
        found.append((share if measure == "difference" else share * (1.0 - min(share, 0.5))) / best.n)
    return found


def _events(nights: Sequence[NightRow]) -> list[Event]:
    """Compare every night whose engine is known with the one before it."""
    known = [row for row in nights if row.identity is not None]
    found = []
    for before, row in pairwise(known):
        what = _eventful(differences(before, row))
        if what:
            found.append(Event(night=row.night, what=what))
    return found


def differences(before: NightRow, after: NightRow) -> tuple[str, ...]:
    """Name everything known that differs between two nights: engine, then environment."""
    found = []
    for left, right in ((before.identity or {}, after.identity or {}), (before.environment, after.environment)):
        a, b = dict(_leaves("", left)), dict(_leaves("", right))
        for place in sorted(set(a) | set(b)):
            if a.get(place) != b.get(place):
                found.append(f"{place}: {_short(a.get(place))} -> {_short(b.get(place))}")
    return tuple(dict.fromkeys(found))


def _leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}" if name else str(key), inner)]
    return [(name, value)] if name else []


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    digits = len(text) == 64 and all(char in "0123456789abcdef" for char in text)
    return text[:12] if digits else text
