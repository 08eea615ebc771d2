"""Deterministic gates beside the judge: how many questions trip them on either side, compared pair by pair.

In: aligned records, the questions. Out: `GateComparison`.
May not know: ratings, margins, verdicts.

A gate is tripped for a question if any of its answers trips it. Gates see changes that a judge is too coarse to see,
and cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from evalkit.comparison.attempts import Attempts
from evalkit.comparison.plain import NOT_JSON
from evalkit.degeneration import GATES, NEEDS_QUESTION, tripped
from evalkit.records import Item, Record, TextReply, Turn
from evalkit.statistics.interval import Interval
from evalkit.statistics.mcnemar import mcnemar
from evalkit.statistics.paired_means import paired_t
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.tango import tango_interval

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One gate on both sides.

    Attributes:
        gate: name.
        meaning: what trips it.
        n: questions with answers on both sides.
        baseline, candidate: questions that trip it.
        gained, lost: questions only the candidate trips, only the baseline.
        increase: share of questions that trip it, candidate minus baseline.
        interval: Tango's 95 % interval of the increase; None below two questions.
        p: two-sided mid-p McNemar value.
        available: False where the gate needs the questions and they are not at hand.
        worst: the interval if every missing candidate answer tripped the gate and no missing baseline answer did.
    """

    gate: str
    meaning: str
    n: int
    baseline: int
    candidate: int
    gained: int
    lost: int
    increase: float
    interval: Interval | None
    p: float
    available: bool
    worst: Interval | None = field(default=None, repr=False, compare=False, metadata=NOT_JSON)


@dataclass(frozen=True, kw_only=True)
class LengthRow:
    """Length of the answers to a question, candidate over baseline.

    Attributes:
        n: questions in which both sides wrote something.
        ratio: geometric mean of the ratios; None without any.
        interval: 95 %, from the logarithms by question; None where it cannot be made.
    """

    n: int
    ratio: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class GateComparison:
    """All gates, and lengths."""

    gates: tuple[GateRow, ...]
    length: LengthRow


_Question = tuple[str, str, int]


def compare_gates(
    baseline: Sequence[Record | None],
    candidate: Sequence[Record | None],
    items: Mapping[_Question, Item],
    *,
    unseen: int = 0,
) -> GateComparison | None:
    """Compare the answers of aligned records; None if no question has answers on both sides.

    Args:
        baseline: records.
        candidate: records.
        items: (subject, digest, occurrence) to item, where items are at hand.
        unseen: planned questions of which neither side has a record.
    """
    sides: tuple[dict[_Question, set[str]], dict[_Question, set[str]]] = ({}, {})
    tokens: tuple[dict[_Question, int], dict[_Question, int]] = ({}, {})
    for left, right in zip(baseline, candidate, strict=True):
        replies = [record.reply if record is not None else None for record in (left, right)]
        if left is None or not all(isinstance(reply, TextReply) for reply in replies):
            continue
        key = (left.subject, left.item_sha256, left.occurrence)
        for side, reply in enumerate(replies):
            turns = reply.turns if isinstance(reply, TextReply) else ()
            sides[side].setdefault(key, set()).update(_tripped(turns, items.get(key)))
            tokens[side][key] = tokens[side].get(key, 0) + sum(turn.completion_tokens for turn in turns)
    if not sides[0]:
        return None
    keys = sorted(sides[0])
    asked = all(key in items for key in keys)
    worst = _with_missing(baseline, candidate, items)
    rows = [_row(gate, keys, sides, (worst, unseen), available=asked or gate not in NEEDS_QUESTION) for gate in GATES]
    return GateComparison(gates=tuple(rows), length=_length(keys, tokens))


def _with_missing(
    baseline: Sequence[Record | None], candidate: Sequence[Record | None], items: Mapping[_Question, Item]
) -> dict[_Question, tuple[set[str], set[str]]]:
    """Return the gates tripped on either side, with a missing candidate answer tripping all of them."""
    found: dict[_Question, tuple[set[str], set[str]]] = {}
    for pair in zip(baseline, candidate, strict=True):
        known = pair[0] or pair[1]
        if known is None:
            continue
        key = (known.subject, known.item_sha256, known.occurrence)
        flags = found.setdefault(key, (set(), set()))
        for side, record in enumerate(pair):
            reply = record.reply if record is not None else None
            missing = set(GATES) if side == 1 else set()
            flags[side].update(_tripped(reply.turns, items.get(key)) if isinstance(reply, TextReply) else missing)
    return found


def _tripped(turns: Sequence[Turn], item: Item | None) -> set[str]:
    found: set[str] = set()
    for place, turn in enumerate(turns):
        question = item.turns[place] if item is not None and place < len(item.turns) else None
        found |= tripped(turn, question)
    return found


def _row(
    gate: str,
    keys: Sequence[_Question],
    sides: tuple[dict[_Question, set[str]], dict[_Question, set[str]]],
    filled: tuple[dict[_Question, tuple[set[str], set[str]]], int],
    *,
    available: bool,
) -> GateRow:
    flags = [[gate in side[key] for key in keys] for side in sides]
    table = PairedTable.from_outcomes(flags[0], flags[1])
    worst, unseen = filled
    bad = [[gate in found[side] for found in worst.values()] + [side == 1] * unseen for side in (0, 1)]
    all_of_them = PairedTable.from_outcomes(bad[0], bad[1])
    return GateRow(
        gate=gate,
        meaning=GATES[gate],
        n=table.n,
        baseline=sum(flags[0]),
        candidate=sum(flags[1]),
        gained=table.n01,
        lost=table.n10,
        increase=table.difference,
        interval=tango_interval(table, LEVEL) if table.n >= 2 else None,
        p=mcnemar(table.n10, table.n01).midp_p,
        available=available,
        worst=tango_interval(all_of_them, LEVEL) if all_of_them.n >= 2 else None,
    )


def _length(keys: Sequence[_Question], tokens: tuple[dict[_Question, int], dict[_Question, int]]) -> LengthRow:
    logs = [math.log(tokens[1][key] / tokens[0][key]) for key in keys if tokens[0][key] > 0 and tokens[1][key] > 0]
    found = Attempts().make("length", lambda: paired_t(logs).interval(LEVEL))
    return LengthRow(
        n=len(logs),
        ratio=math.exp(math.fsum(logs) / len(logs)) if logs else None,
        interval=None
        if found is None
        else Interval(
            lower=math.exp(found.lower), upper=math.exp(found.upper), level=LEVEL, method="paired-t of logarithms"
        ),
    )
