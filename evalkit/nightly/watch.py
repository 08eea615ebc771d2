"""How far a night's evidence has come.

In: the order of items, what is known of both sides, the rules. Out: `Watch`: OK, ALARM, CAP, or still OPEN.
Must not depend on: engines, files. The same records give the same watch, whatever the blocks in which they were asked.

An item without an answer enters twice (section 4 of the protocol): against "the loss is small" with the lowest value it
may have, and for "the loss is large" with the highest. So an outage can never raise an alarm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from evalkit.comparison.pairing import NON_FINITE, failure_kind
from evalkit.errors import DataError, ExitCode
from evalkit.records import Record, digest, text_digest
from evalkit.signed import signed
from evalkit.statistics.checks import Floats, Interval
from evalkit.statistics.sequential import SequentialRules, betting_interval, log_e_path

# What a night may end with, and why.


class NightOutcome(str, Enum):
    """What may be said after a night; there is no default one."""

    OK = "OK"
    ALARM = "ALARM"
    UNDECIDED = "UNDECIDED"
    INVALID = "INVALID"


EXIT_CODES: Mapping[NightOutcome, ExitCode] = {
    NightOutcome.OK: ExitCode.CERTIFIED,
    NightOutcome.ALARM: ExitCode.REJECTED,
    NightOutcome.UNDECIDED: ExitCode.INCONCLUSIVE,
    NightOutcome.INVALID: ExitCode.INVALID,
}
"""Outcome to exit code: 0, 1, 3, 4, the numbers of `certify`. OK is no certificate: 0 only says that CI may go on."""


REASONS: Mapping[str, str] = {
    # OK
    "clear": "a loss of the margin is refuted",
    "clear-in-full": "the night reached its cap, and the full comparison passes",
    # ALARM
    "loss": "a loss beyond the margin is shown",
    "loss-in-full": "the full comparison shows a loss beyond the margin",
    # UNDECIDED
    "cap": "the cap was reached, and no full comparison was made",
    "full-open": "the cap was reached, and the full comparison does not decide either",
    "not-borne-out": "an alarm that the items asked afterwards do not bear out",
    # INVALID
    "engine": "the engine could not be loaded, or broke",
    "probe": "the engine does not answer the first items",
    "self-disagreement": "the engine, asked the same items twice, answers differently",
    "coverage": "too many of the night's items have no answer",
    "non-finite": "a number that is not finite, or an option without a token",
    "not-comparable": "the engine and the stored baseline differ in something that must agree",
    "data": "a file is damaged, or a mark cannot be watched",
    "same-model": "the candidate's replies are the baseline's",
    "baseline": "the stored baseline may not be used",
    "assay": "a check of the evaluation itself fails",
    "full-invalid": "the full comparison is INVALID",
}
"""Every reason code with its meaning."""

_ORDER = (NightOutcome.ALARM, NightOutcome.INVALID, NightOutcome.UNDECIDED, NightOutcome.OK)


@dataclass(frozen=True, kw_only=True)
class NightReason:
    """Why a night ended as it did.

    Attributes:
        code: a key of `REASONS`.
        message: the case at hand.
        endpoint: the endpoint concerned; None for all.
    """

    code: str
    message: str
    endpoint: str | None = None

    def __post_init__(self) -> None:
        if self.code not in REASONS:
            raise ValueError(f"{self.code!r} is no reason code of a night")


def worst(outcomes: Iterable[NightOutcome]) -> NightOutcome:
    """Return the outcome of a whole night; a night in which nothing was watched is INVALID.

    ALARM comes first: another recipe's broken server must not hide a regression that was found.

    >>> worst([NightOutcome.OK, NightOutcome.INVALID, NightOutcome.ALARM]).value
    'ALARM'
    """
    found = set(outcomes)
    return next((outcome for outcome in _ORDER if outcome in found), NightOutcome.INVALID)


def night_exit_code(outcomes: Iterable[NightOutcome]) -> ExitCode:
    """Return the exit code of a whole night.

    >>> night_exit_code([NightOutcome.OK, NightOutcome.UNDECIDED]).value
    3
    """
    return EXIT_CODES[worst(outcomes)]


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


# From watch, confirming run and full comparison to the outcome of one endpoint.
#
# watch    confirming run   full comparison   outcome
#     OK       -                -                 OK
#     CAP      -                PASS              OK
#     CAP      -                FAIL              ALARM
#     CAP      -                OPEN, none        UNDECIDED
#     ALARM    any              FAIL              ALARM
#     ALARM    not OK           OPEN, none        ALARM
#     ALARM    OK               OPEN, none        UNDECIDED
#     ALARM    any              PASS              UNDECIDED
#     any      any              INVALID           INVALID
#
# The confirming run asks items that the alarm did not rest on, so it cannot repeat the alarm's chance. Even an alarm
# that nothing bears out is never OK: it was evidence, and somebody should look.


@dataclass(frozen=True, kw_only=True)
class Full:
    """What the full comparison shows on one endpoint.

    Attributes:
        state: "PASS", "FAIL", "OPEN" or "INVALID".
        n, n11, n10, n01, n00: pairs with a mark on both sides; 0 where INVALID.
        difference: candidate minus baseline, proportion; None where INVALID.
        interval: 95 % Tango limits with level and method; None where INVALID.
        reasons: of an INVALID comparison.
    """

    state: str
    n: int = 0
    n11: int = 0
    n10: int = 0
    n01: int = 0
    n00: int = 0
    difference: float | None = None
    interval: Mapping[str, Any] | None = None
    reasons: tuple[str, ...] = ()


def conclude(
    endpoint: str, margin_points: float, seen: Watch, confirm: Watch | None, full: Full | None
) -> tuple[NightOutcome, tuple[NightReason, ...]]:
    """Return the outcome of one endpoint and why.

    Args:
        endpoint: name.
        margin_points: for the sentences.
        seen: the watch, no longer OPEN.
        confirm: the run on fresh items after an alarm; None without one.
        full: the comparison on all items; None without one.
    """
    state = full.state if full is not None else None
    outcome, code = _decided(seen.state, confirm.state if confirm is not None else None, state)
    if code == "full-invalid" and full is not None:
        message = "; ".join(full.reasons) or REASONS[code]
    else:
        parts = [_evidence(seen), _confirmed(confirm), _whole(full)]
        message = f"{_CLAIMS[code].format(margin=f'{margin_points:g}')}: {'; '.join(part for part in parts if part)}"
    return outcome, (NightReason(code=code, message=f"{endpoint}: {message}", endpoint=endpoint),)


_AFTER_CAP: Mapping[str | None, tuple[NightOutcome, str]] = {
    "PASS": (NightOutcome.OK, "clear-in-full"),
    "OPEN": (NightOutcome.UNDECIDED, "full-open"),
    None: (NightOutcome.UNDECIDED, "cap"),
}

_CLAIMS: Mapping[str, str] = {
    "clear": "a loss of {margin} points is refuted",
    "clear-in-full": "a loss of {margin} points is refuted by the full comparison",
    "loss": "a loss of more than {margin} points is shown",
    "loss-in-full": "a loss of more than {margin} points is shown by the full comparison",
    "cap": "neither a loss of more than {margin} points nor its absence is shown",
    "full-open": "neither a loss of more than {margin} points nor its absence is shown",
    "not-borne-out": "an alarm of a loss of more than {margin} points that is not borne out",
}


def _decided(watch: State, confirm: State | None, full: str | None) -> tuple[NightOutcome, str]:
    """Return outcome and reason code; the table above."""
    if full == "INVALID":
        return NightOutcome.INVALID, "full-invalid"
    if watch is State.OK:
        return NightOutcome.OK, "clear"
    if full == "FAIL":
        return NightOutcome.ALARM, "loss" if watch is State.ALARM else "loss-in-full"
    if watch is State.CAP:
        return _AFTER_CAP[full]
    doubted = full == "PASS" or confirm is State.OK
    return (NightOutcome.UNDECIDED, "not-borne-out") if doubted else (NightOutcome.ALARM, "loss")


def _evidence(seen: Watch) -> str:
    counts = f"{seen.used:,} items (-{seen.n10} +{seen.n01}"
    return f"{counts}, e = {plain_e(seen.log_e)}, e' = {plain_e(seen.log_e_loss)})"


def _confirmed(confirm: Watch | None) -> str:
    if confirm is None:
        return ""
    word = {State.OK: "refute it", State.ALARM: "confirm it"}.get(confirm.state, "do not decide")
    return f"{confirm.used:,} fresh items {word} (-{confirm.n10} +{confirm.n01})"


def _whole(full: Full | None) -> str:
    if full is None or full.difference is None:
        return ""
    limits = ""
    if full.interval is not None:
        limits = f" [{signed(100.0 * full.interval['lower'])}, {signed(100.0 * full.interval['upper'])}]"
    return f"all {full.n:,} items: {signed(100.0 * full.difference)} points{limits}, {full.state}"


def plain_e(log_e: float) -> str:
    """Write evidence as people read it.

    >>> plain_e(0.0), plain_e(4.7), plain_e(-3.0), plain_e(700.0)
    ('1', '110', '0.05', 'over 1e+06')
    """
    if log_e > 13.8:
        return "over 1e+06"
    value = math.exp(log_e)
    return f"{value:.0f}" if value >= 10.0 else f"{value:.2g}" if value >= 0.01 else "below 0.01"


# What records say of each item, by item key.


def item_key(record: Record) -> str:
    """Return the key of the item that a record answers."""
    return f"{record.task}/{record.subject}/{record.item_sha256}/{record.occurrence}"


def designated(records: Iterable[Record]) -> dict[str, Record]:
    """Return item key to the one record that counts: the first sample."""
    return {item_key(record): record for record in records if record.sample == 0}


def marks_of(records: Iterable[Record], metric: str) -> Marks:
    """Return item key to 1, 0 or None.

    Raises:
        DataError: a mark is neither 0 nor 1, so a night cannot watch it.
    """
    found: dict[str, float | None] = {}
    for key, record in designated(records).items():
        mark = record.marks.get(metric) if record.status == "ok" else None
        if mark not in (None, 0.0, 1.0):
            raise DataError(
                f"{key}: the mark '{metric}' is {mark!r}; a night watches marks that are 0 or 1; next step: leave the "
                "endpoint to full runs"
            )
        found[key] = None if mark is None else float(mark)
    return found


def broken(records: Iterable[Record]) -> Record | None:
    """Return a record that shows a broken engine (a number that is not finite, a missing token), or None."""
    found = [record for record in records if record.status == "failed" and failure_kind(record) in NON_FINITE]
    return min(found, key=lambda record: record.key) if found else None


# The order in which a night asks its items.
#
# Drawn from digests, so that every machine, Python and NumPy draws the same one, before anything is asked. Another
# night is another permutation of all items: with one order for all nights the first items would be the only ones ever
# watched.


def night_order(seed: int, night: str, keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys in the order of one night.

    >>> night_order(3, "2026-03-12", "abcd"), night_order(3, "2026-03-13", "abcd")
    (('a', 'c', 'b', 'd'), ('b', 'a', 'd', 'c'))
    """
    return tuple(sorted(keys, key=lambda key: text_digest(f"nightly:{seed}:{night}:{key}")))


def order_sha256(order: Sequence[str]) -> str:
    """Return the digest of an order: written down before the first item is asked."""
    return digest(list(order))
