"""Generated answers: unreadable ones, their length, and whether two runs are one and the same.

In: aligned records. Out: `AnswerComparison`, and whether all raw outputs are identical.
Must not depend on: ratings, marks, verdicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evalkit.comparison.means import Attempts
from evalkit.degeneration.gates import GATES, NEEDS_QUESTION, tripped
from evalkit.records.canonical import NOT_JSON
from evalkit.records.record import ChoiceReply, Item, Record, TextReply, Turn
from evalkit.statistics.checks import Interval
from evalkit.statistics.paired_means import paired_t
from evalkit.statistics.proportions import mcnemar
from evalkit.statistics.tango import PairedTable, tango_interval

# Deterministic gates beside the judge: how many questions trip them on either side, compared pair by pair.
#
# A gate is tripped for a question if any of its answers trips it. Gates see changes that a judge is too coarse to see,
# and cost nothing.


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
    """All gates, and lengths.

    Attributes:
        gates: one row for each deterministic gate.
        length: lengths of the answers.
    """

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
    return GateComparison(gates=tuple(rows), length=_length_row(keys, tokens))


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


def _length_row(keys: Sequence[_Question], tokens: tuple[dict[_Question, int], dict[_Question, int]]) -> LengthRow:
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


LengthUnit = Literal["tokens", "characters"]

SHORT = 16
"""Tokens: a limit of no more is the form of the answer (one letter), and whoever reaches it was not cut off."""


@dataclass(frozen=True, kw_only=True)
class WorstAnswers:
    """What guards look at: the same numbers if every answer that is missing were as bad as it could be.

    A candidate that fails instead of answering badly hides nothing that way. Where no answer is missing these are the
    numbers of what was seen.

    Attributes:
        missing: answers missing on either side.
        candidate_invalid_items: items with a candidate answer that is unreadable or missing.
        invalid_increase: Tango's 95 % interval of the increase in unreadable answers; a missing candidate answer is
            unreadable, a missing baseline answer readable; None below two pairs.
        length_ratios: lowest and highest length ratio; a missing answer is empty or as long as the longest one; None
            if the baseline wrote nothing.
    """

    missing: int
    candidate_invalid_items: int
    invalid_increase: Interval | None
    length_ratios: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class AnswerComparison:
    """What can be said of generated answers without reading them.

    Attributes:
        n: answers present on both sides.
        identical: of those, equal to the letter.
        baseline_invalid, candidate_invalid: unreadable answers of each side, by reason; "truncated" stopped at the
            token limit, and where answers are marked was not right either.
        baseline_invalid_items, candidate_invalid_items: items with at least one unreadable answer.
        invalid_table: pairs of answers by whose answer is unreadable (n01: the candidate's alone); None below two.
        invalid_increase: Tango's 95 % interval of the increase in unreadable answers, as a proportion.
        length_unit: "tokens", or "characters" where some answer came without a count of its tokens.
        baseline_length, candidate_length: length of all paired answers, in that unit.
        length_ratio: candidate over baseline; None if the baseline wrote nothing.
        worst: the same with every missing answer against the candidate; for guards.
    """

    n: int
    identical: int
    baseline_invalid: Mapping[str, int]
    candidate_invalid: Mapping[str, int]
    baseline_invalid_items: int
    candidate_invalid_items: int
    invalid_table: PairedTable | None
    invalid_increase: Interval | None
    length_unit: LengthUnit
    baseline_length: int
    candidate_length: int
    length_ratio: float | None
    worst: WorstAnswers = field(repr=False, compare=False, metadata=NOT_JSON)


def compare_answers(
    baseline: Sequence[Record | None],
    candidate: Sequence[Record | None],
    *,
    metric: str | None,
    unseen: int = 0,
    samples: int = 1,
) -> AnswerComparison | None:
    """Compare the generated answers of aligned records; None if there are none on both sides.

    Args:
        baseline: records.
        candidate: records.
        metric: the mark that says whether an answer is right; None for conversations. An answer that stopped at the
            token limit is unreadable, unless its mark says that what was wanted came before.
        unseen: planned answers of which neither side has a record.
        samples: answers to each item.
    """
    pairs = [
        (left, left.reply, right, right.reply)
        for left, right in zip(baseline, candidate, strict=True)
        if left is not None
        and right is not None
        and isinstance(left.reply, TextReply)
        and isinstance(right.reply, TextReply)
    ]
    if not pairs:
        return None
    why_b = [_reason(record, reply, metric) for record, reply, _, _ in pairs]
    why_c = [_reason(record, reply, metric) for _, _, record, reply in pairs]
    table = PairedTable.from_outcomes([why is not None for why in why_b], [why is not None for why in why_c])
    unit = _unit([reply for _, left, _, right in pairs for reply in (left, right)])
    length_b = sum(_length(reply, unit) for _, reply, _, _ in pairs)
    length_c = sum(_length(reply, unit) for *_, reply in pairs)
    return AnswerComparison(
        n=len(pairs),
        identical=sum(_texts(a) == _texts(b) for _, a, _, b in pairs),
        baseline_invalid=_counts(why_b),
        candidate_invalid=_counts(why_c),
        baseline_invalid_items=_items(why_b, [record for record, *_ in pairs]),
        candidate_invalid_items=_items(why_c, [record for _, _, record, _ in pairs]),
        invalid_table=table if table.n >= 2 else None,
        invalid_increase=tango_interval(table) if table.n >= 2 else None,
        length_unit=unit,
        baseline_length=length_b,
        candidate_length=length_c,
        length_ratio=length_c / length_b if length_b else None,
        worst=_worst(baseline, candidate, unseen, samples, metric, unit),
    )


def _worst(
    baseline: Sequence[Record | None],
    candidate: Sequence[Record | None],
    unseen: int,
    samples: int,
    metric: str | None,
    unit: LengthUnit,
) -> WorstAnswers:
    reasons: tuple[list[bool], list[bool]] = ([False] * unseen, [True] * unseen)
    lengths: tuple[list[int], list[int]] = ([], [])
    items: set[tuple[str, str, int]] = set()
    for pair in zip(baseline, candidate, strict=True):
        for side, record in enumerate(pair):
            reply = record.reply if record is not None else None
            if record is None or not isinstance(reply, TextReply):
                reasons[side].append(side == 1)
                continue
            reasons[side].append(_reason(record, reply, metric) is not None)
            lengths[side].append(_length(reply, unit))
        known = pair[0] or pair[1]
        if known is not None and reasons[1][-1]:
            items.add((known.subject, known.item_sha256, known.occurrence))
    table = PairedTable.from_outcomes(*reasons)
    missing = [len(reasons[side]) - len(lengths[side]) for side in (0, 1)]
    longest = max((*lengths[0], *lengths[1]), default=0)
    sums = [sum(lengths[side]) for side in (0, 1)]
    return WorstAnswers(
        missing=sum(missing),
        candidate_invalid_items=len(items) + -(-unseen // samples),
        invalid_increase=tango_interval(table) if table.n >= 2 else None,
        length_ratios=(sums[1] / (sums[0] + longest * missing[0]), (sums[1] + longest * missing[1]) / sums[0])
        if sums[0]
        else None,
    )


def _reason(record: Record, reply: TextReply, metric: str | None) -> str | None:
    if record.invalid is not None:
        return record.invalid
    marked = metric is not None
    cut = any(turn.finish == "length" and (turn.completion_tokens > SHORT or not marked) for turn in reply.turns)
    right = metric is not None and record.marks.get(metric, 0.0) > 0.0
    return "truncated" if cut and not right else None


def _counts(reasons: Sequence[str | None]) -> dict[str, int]:
    return dict(sorted(Counter(reason for reason in reasons if reason is not None).items()))


def _items(reasons: Sequence[str | None], records: Sequence[Record]) -> int:
    bad = zip(reasons, records, strict=True)
    return len({(r.subject, r.item_sha256, r.occurrence) for reason, r in bad if reason is not None})


def _unit(replies: Sequence[TextReply]) -> LengthUnit:
    """Return tokens if every answer came with its count; other tools' files have none, and words are no unit.

    White space parts no words in Japanese, Chinese or Thai; characters are counted alike on both sides.
    """
    counted = all(turn.completion_tokens > 0 or not turn.text for reply in replies for turn in reply.turns)
    return "tokens" if counted else "characters"


def _length(reply: TextReply, unit: LengthUnit) -> int:
    return sum(turn.completion_tokens if unit == "tokens" else len(turn.text) for turn in reply.turns)


def _texts(reply: TextReply) -> tuple[str, ...]:
    return tuple(turn.text for turn in reply.turns)


def all_identical(baseline: Sequence[Record | None], candidate: Sequence[Record | None]) -> bool:
    """Say whether every pair of replies is the same: log-probabilities to the last bit, or texts to the letter.

    False without any pair. A candidate that answers exactly like the baseline was not quantized, or shared its cache.
    """
    some = False
    for left, right in zip(baseline, candidate, strict=True):
        if left is None or right is None or left.reply is None or right.reply is None:
            continue
        some = True
        if not _same(left.reply, right.reply):
            return False
    return some


def _same(left: ChoiceReply | TextReply, right: ChoiceReply | TextReply) -> bool:
    if isinstance(left, ChoiceReply) and isinstance(right, ChoiceReply):
        return left.logprobs == right.logprobs
    if isinstance(left, TextReply) and isinstance(right, TextReply):
        return _texts(left) == _texts(right)
    return False
