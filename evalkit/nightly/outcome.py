"""What a night may end with, and why.

In: nothing. Out: the words, and the exit code of each.
May not know: how an outcome is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from evalkit.errors import ExitCode


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
