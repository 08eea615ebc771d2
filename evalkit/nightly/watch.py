"""How far a night's evidence has come.

In: the order of items, what is known of both sides, the rules. Out: `Watch`: OK, ALARM, CAP, or still OPEN.
May not know: engines, files. The same records give the same watch, whatever the blocks in which they were asked.

An item without an answer enters twice (section 4 of the protocol): against "the loss is small" with the lowest value it
may have, and for "the loss is large" with the highest. So an outage can never raise an alarm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from evalkit.statistics.checks import Floats
from evalkit.statistics.interval import Interval
from evalkit.statistics.sequential import log_e_path
from evalkit.statistics.sequential_interval import betting_interval
from evalkit.statistics.sequential_outlook import SequentialRules

Marks = Mapping[str, float | None]
"""Item key to 1 (right), 0 (wrong) or None (no usable answer); an item that was not asked is absent."""

LARGEST = 700.0
"""Logarithms of evidence are cut here: JSON has no infinity, and no decision needs more."""


class State(str, Enum):
    """Where the evidence stands."""

    OPEN = "OPEN"
    OK = "OK"
    ALARM = "ALARM"
    CAP = "CAP"


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The evidence after some items.

    Attributes:
        state: OPEN while more items are to be asked.
        used: items the state rests on; more may have been asked, in the block of the stop and after it.
        missing_baseline, missing_candidate: of the used ones, without a usable answer.
        log_e: evidence against a loss of the margin or more, natural logarithm, after the used items.
        log_e_loss: evidence against any smaller loss.
        n11, n10, n01, n00: of the used items, answered by both sides.
        interval: of the difference over all N items, valid at any stop, at the level at which OK leaves the margin
            outside; None while OPEN.
    """

    state: State
    used: int
    missing_baseline: int
    missing_candidate: int
    log_e: float
    log_e_loss: float
    n11: int
    n10: int
    n01: int
    n00: int
    interval: Interval | None = None

    @property
    def n(self) -> int:
        """Used items answered by both sides."""
        return self.n11 + self.n10 + self.n01 + self.n00

    @property
    def difference(self) -> float | None:
        """Candidate minus baseline on the used items, a proportion; biased upward by an early OK. None without any."""
        return (self.n01 - self.n10) / self.n if self.n else None


def watch(order: Sequence[str], baseline: Marks, candidate: Marks, rules: SequentialRules) -> Watch:
    """Read the evidence of the items asked so far, in the night's order.

    Args:
        order: all items that may be asked; `rules.population` of them.
        baseline: marks of at least those items.
        candidate: marks of the items asked.
        rules: when to stop.
    """
    keys = []
    for key in order[: rules.items]:
        if key not in candidate:
            break
        keys.append(key)
    low, high = bounds(keys, baseline, candidate)
    paths = [_path(values, rules, null_mean) for values, null_mean in ((low, -rules.margin), (-high, rules.margin))]
    stops = [_first(path, threshold) for path, threshold in zip(paths, (rules.ok, rules.alarm), strict=True)]
    state, used = _state(stops, len(keys), rules)
    left, right = [baseline.get(key) for key in keys[:used]], [candidate[key] for key in keys[:used]]
    n11, n10, n01, n00 = _counts(left, right)
    found = Watch(
        state=state,
        used=used,
        missing_baseline=left.count(None),
        missing_candidate=right.count(None),
        log_e=_at(paths[0], used),
        log_e_loss=_at(paths[1], used),
        n11=n11,
        n10=n10,
        n01=n01,
        n00=n00,
    )
    if state is State.OPEN or not used:
        return found
    interval = betting_interval(
        low[:used], high[:used], population=rules.population, level=level_of(rules), grid=rules.grid
    )
    return replace(found, interval=interval)


def level_of(rules: SequentialRules) -> float:
    """Return the two-sided level whose limits agree with OK: 0.90 for evidence of 20, one chance in 20 on each side.

    >>> level_of(SequentialRules(population=10, margin=0.1, ok=20.0, alarm=100.0, cap=10))
    0.9
    """
    return min(0.9999, max(0.5, 1.0 - 2.0 / rules.ok))


def bounds(keys: Sequence[str], baseline: Marks, candidate: Marks) -> tuple[Floats, Floats]:
    """Return the lowest and the highest difference each item may have, two arrays of shape (n,)."""
    left = [baseline.get(key) for key in keys]
    right = [candidate[key] for key in keys]
    low = [(0.0 if c is None else c) - (1.0 if b is None else b) for b, c in zip(left, right, strict=True)]
    high = [(1.0 if c is None else c) - (0.0 if b is None else b) for b, c in zip(left, right, strict=True)]
    return np.array(low, dtype=np.float64), np.array(high, dtype=np.float64)


def _path(values: Floats, rules: SequentialRules, null_mean: float) -> Floats:
    if not values.size:
        return np.zeros(0)
    path = log_e_path(values, population=rules.population, null_mean=null_mean, grid=rules.grid)
    return np.clip(path, -LARGEST, LARGEST)


def _first(path: Floats, threshold: float) -> int | None:
    reached = np.flatnonzero(path >= math.log(threshold))
    return int(reached[0]) + 1 if reached.size else None


def _state(stops: Sequence[int | None], asked: int, rules: SequentialRules) -> tuple[State, int]:
    ok, alarm = (stop if stop is not None else rules.items + 1 for stop in stops)
    if min(ok, alarm) <= rules.items:
        return (State.OK, ok) if ok < alarm else (State.ALARM, alarm)
    return (State.CAP, asked) if asked == rules.items else (State.OPEN, asked)


def _at(path: Floats, used: int) -> float:
    return float(path[used - 1]) if used else 0.0


def _counts(left: Sequence[float | None], right: Sequence[float | None]) -> tuple[int, int, int, int]:
    """Return n11, n10, n01 and n00 of the items that both sides answered."""
    pairs = Counter(zip(left, right, strict=True))
    return pairs[1.0, 1.0], pairs[1.0, 0.0], pairs[0.0, 1.0], pairs[0.0, 0.0]
