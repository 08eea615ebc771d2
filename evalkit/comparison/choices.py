"""How far two engines' probabilities over the choices lie apart, and soft accuracy.

In: aligned records with choice replies. Out: `DistributionShift`, and a `MeanComparison` of soft accuracy.
May not know: marks, margins. Tripwires and planning input; a verdict rests on soft accuracy only if a policy says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from evalkit.comparison.means import MeanComparison, fill, mean_comparison
from evalkit.comparison.runs import Fault
from evalkit.comparison.units import UnitCodes
from evalkit.records import ChoiceReply, Record
from evalkit.statistics.checks import Floats
from evalkit.statistics.distributions import ChoiceShift, choice_shift, soft_accuracy


@dataclass(frozen=True, kw_only=True)
class DistributionShift:
    """Means over items of the distance between two engines on the choices.

    Attributes:
        n: items with choice replies on both sides and a known right choice.
        log_probability_change: of the right choice, candidate minus baseline, in nats.
        divergence: KL(baseline || candidate), in nats.
        top1_agreement: share of items on which both prefer the same choice.
        baseline_soft_accuracy, candidate_soft_accuracy: mean probability of the right choice.
    """

    n: int
    log_probability_change: float
    divergence: float
    top1_agreement: float
    baseline_soft_accuracy: float
    candidate_soft_accuracy: float


def unequal_choices(baseline: Sequence[Record | None], candidate: Sequence[Record | None]) -> list[Fault]:
    """Return a fault if a pair was scored on different choices."""
    wrong = [
        left.key
        for left, right, a, b in _replies(baseline, candidate)
        if len(a.logprobs) != len(b.logprobs) or a.target != b.target
    ]
    if not wrong:
        return []
    message = f"{len(wrong)} pair(s) were scored on different choices, the first {min(wrong)}; next step: run both anew"
    return [Fault(code="not-comparable", message=message)]


def _replies(
    baseline: Sequence[Record | None], candidate: Sequence[Record | None]
) -> list[tuple[Record, Record, ChoiceReply, ChoiceReply]]:
    return [
        (left, right, _asked(left, left.reply), _asked(right, right.reply))
        for left, right in zip(baseline, candidate, strict=True)
        if left is not None
        and right is not None
        and isinstance(left.reply, ChoiceReply)
        and isinstance(right.reply, ChoiceReply)
    ]


def _asked(record: Record, reply: ChoiceReply) -> ChoiceReply:
    """Return the options after their question: for mutual information lm-eval scores each one alone too, after them."""
    half = len(reply.logprobs) // 2
    if len(reply.logprobs) % 2 or not any(name.partition(",")[0] == "acc_mutual_info" for name in record.marks):
        return reply
    return replace(reply, logprobs=reply.logprobs[:half], greedy=reply.greedy[:half], lengths=reply.lengths[:half])


def distribution_shift(
    baseline: Sequence[Record | None], candidate: Sequence[Record | None]
) -> DistributionShift | None:
    """Summarise all pairs with at least two choices and a right one; None without any."""
    groups: dict[int, list[tuple[ChoiceReply, ChoiceReply]]] = defaultdict(list)
    for _, _, a, b in _replies(baseline, candidate):
        if a.target is not None and len(a.logprobs) >= 2 and len(a.logprobs) == len(b.logprobs):
            groups[len(a.logprobs)].append((a, b))
    shifts = [_group_shift(groups[size]) for size in sorted(groups)]
    if not shifts:
        return None
    weights = np.array([shift.n for shift in shifts], dtype=np.float64)

    def mean(name: str) -> float:
        return float(np.average([getattr(shift, name) for shift in shifts], weights=weights))

    return DistributionShift(
        n=int(weights.sum()),
        log_probability_change=mean("log_probability_change"),
        divergence=mean("divergence"),
        top1_agreement=mean("top1_agreement"),
        baseline_soft_accuracy=mean("baseline_soft_accuracy"),
        candidate_soft_accuracy=mean("candidate_soft_accuracy"),
    )


def _group_shift(pairs: Sequence[tuple[ChoiceReply, ChoiceReply]]) -> ChoiceShift:
    left = np.array([a.logprobs for a, _ in pairs])
    right = np.array([b.logprobs for _, b in pairs])
    return choice_shift(left, right, np.array([a.target for a, _ in pairs], dtype=np.int64))


def compare_soft_accuracy(
    baseline: Sequence[Record | None],
    candidate: Sequence[Record | None],
    unseen: int,
    *,
    level: float,
    codes: UnitCodes | None = None,
) -> MeanComparison | None:
    """Compare the probability of the right choice, missing ones filled with 0 and 1; None without choice replies."""
    left, right = _soft(baseline), _soft(candidate)
    if np.isnan(left).all() or np.isnan(right).all():
        return None
    scale = (0.0, 1.0)
    differences = fill(left, right, unseen, scale)
    return mean_comparison("soft accuracy", left, right, differences, scale=scale, level=level, codes=codes)


def _soft(records: Sequence[Record | None]) -> Floats:
    values = np.full(len(records), np.nan)
    groups: dict[int, dict[int, ChoiceReply]] = defaultdict(dict)
    for at, record in enumerate(records):
        if record is None or not isinstance(record.reply, ChoiceReply):
            continue
        reply = _asked(record, record.reply)
        if reply.target is not None and len(reply.logprobs) >= 2:
            groups[len(reply.logprobs)][at] = reply
    for group in groups.values():
        places, replies = list(group), list(group.values())
        targets = np.array([reply.target for reply in replies], dtype=np.int64)
        values[places] = soft_accuracy(np.array([reply.logprobs for reply in replies]), targets)
    return values
