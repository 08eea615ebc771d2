"""Generated answers: unreadable ones, their length, and whether two runs are one and the same.

In: aligned records. Out: `AnswerComparison`, and whether all raw outputs are identical.
May not know: ratings, marks, verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from evalkit.comparison.plain import NOT_JSON
from evalkit.records import ChoiceReply, Record, TextReply
from evalkit.statistics.interval import Interval
from evalkit.statistics.paired_table import PairedTable
from evalkit.statistics.tango import tango_interval

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
