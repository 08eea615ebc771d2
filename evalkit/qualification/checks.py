"""Does a judge reach the bars?

In: what was estimated, and a policy's bars. Out: one check for each bar, in plain words.
May not know: what follows for a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.policy.judging import JudgeBars
from evalkit.qualification.estimates import Estimates, Share
from evalkit.signed import signed


@dataclass(frozen=True, kw_only=True)
class QualificationCheck:
    """One bar.

    Attributes:
        check: "questions", "ranking", "resistance", "noise", "position" or "agreement".
        passed: whether the judge reaches it; what could not be measured is not reached.
        message: what was seen and what is wanted.
    """

    check: str
    passed: bool
    message: str


def check_qualification(
    found: Estimates, bars: JudgeBars, agreement: Mapping[str, Any] | None = None
) -> tuple[QualificationCheck, ...]:
    """Return every check; the judge is qualified if all passed.

    Args:
        found: the estimates.
        bars: what is wanted.
        agreement: an `Agreement` with people as plain data; None if no votes were at hand.
    """
    checks = [
        QualificationCheck(
            check="questions",
            passed=found.questions >= bars.questions_min,
            message=f"tried on {found.questions} questions; {bars.questions_min} at least are wanted",
        ),
        _share("ranking", "puts an answer above its corrupted twin", found.ranking[0], bars.ranking_lower_min),
        _share(
            "resistance", "is not moved by a planted verdict or order", found.resistance[0], bars.resistance_lower_min
        ),
        _noise(found, bars),
    ]
    if found.position is not None:
        checks.append(_position(found, bars))
    if bars.agreement_lower_min is not None:
        checks.append(_agreement(agreement, bars.agreement_lower_min))
    return tuple(checks)


def _share(check: str, what: str, share: Share, least: float) -> QualificationCheck:
    if share.rate is None or share.interval is None:
        return QualificationCheck(check=check, passed=False, message=f"how often it {what} could not be measured")
    unread = f", {share.unread} without a verdict" if share.unread else ""
    message = (
        f"{what} {share.successes} of {share.n} times{unread}; lower 95 % limit {share.interval.lower:.1%} by "
        f"question, above {least:.0%} is wanted"
    )
    return QualificationCheck(check=check, passed=share.interval.lower > least, message=message)


def _noise(found: Estimates, bars: JudgeBars) -> QualificationCheck:
    noise = found.noise
    if noise.sd is None:
        return QualificationCheck(check="noise", passed=False, message="the same question twice gave no two verdicts")
    message = (
        f"the same question twice: {noise.equal} of {noise.n} verdicts equal, standard deviation of one "
        f"{noise.sd:.2f}; {bars.noise_sd_max:g} at most is wanted"
    )
    return QualificationCheck(check="noise", passed=noise.sd <= bars.noise_sd_max, message=message)


def _position(found: Estimates, bars: JudgeBars) -> QualificationCheck:
    position = found.position
    if position is None or position.bias is None:
        return QualificationCheck(check="position", passed=False, message="no game has a verdict")
    limits = (
        "" if position.interval is None else f" [{signed(position.interval.lower)}, {signed(position.interval.upper)}]"
    )
    message = (
        f"favours the answer shown first by {signed(position.bias)}{limits} on a scale of -1 to 1; within "
        f"{bars.position_bias_max:g} is wanted"
    )
    return QualificationCheck(check="position", passed=abs(position.bias) <= bars.position_bias_max, message=message)


def _agreement(agreement: Mapping[str, Any] | None, least: float) -> QualificationCheck:
    interval = (agreement or {}).get("interval_without_ties")
    if agreement is None or interval is None:
        return QualificationCheck(
            check="agreement", passed=False, message="its agreement with people could not be measured"
        )
    message = (
        f"agrees with people {agreement['rate_without_ties']:.1%} of the times without a tie (n = "
        f"{agreement['n_without_ties']}); lower 95 % limit {interval['lower']:.1%}, above {least:.0%} is wanted"
    )
    return QualificationCheck(check="agreement", passed=interval["lower"] > least, message=message)
