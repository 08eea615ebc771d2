"""From watch, confirming run and full comparison to the outcome of one endpoint.

In: what each of them showed. Out: an outcome and its reasons.
May not know: records, engines. Pure.

    watch    confirming run   full comparison   outcome
    OK       -                -                 OK
    CAP      -                PASS              OK
    CAP      -                FAIL              ALARM
    CAP      -                OPEN, none        UNDECIDED
    ALARM    any              FAIL              ALARM
    ALARM    not OK           OPEN, none        ALARM
    ALARM    OK               OPEN, none        UNDECIDED
    ALARM    any              PASS              UNDECIDED
    any      any              INVALID           INVALID

The confirming run asks items that the alarm did not rest on, so it cannot repeat the alarm's chance. Even an alarm that
nothing bears out is never OK: it was evidence, and somebody should look.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.nightly.outcome import REASONS, NightOutcome, NightReason
from evalkit.nightly.watch import State, Watch
from evalkit.signed import signed


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
