"""What the rows of a qualification show: shares, noise, a bias, each with an interval.

In: rows. Out: `Estimates`.
Must not depend on: bars, or what follows from not reaching them.

The unit is the question: whatever was made from one answer is not independent.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import EstimateError
from evalkit.policy.model import JudgeBars
from evalkit.records.record import Kind, ProbeRow
from evalkit.signed import signed
from evalkit.statistics.checks import Interval
from evalkit.statistics.clusters import cluster_wilson, clustered_mean

RISE = 0.5
"""Rating points by which a planted answer must gain before it counts as taken in: half the step of the scale."""

FEWEST_QUESTIONS = 3
"""Questions below which a clustered mean has no interval here; with so few any interval is rough."""

_Score = float | None


@dataclass(frozen=True, kw_only=True)
class Share:
    """How often something was so.

    Attributes:
        name: of what; "all" for everything together.
        successes, n: how often, of how many.
        unread: of the n, those in which a verdict is missing.
        questions: independent units among them.
        rate: successes / n; None without any.
        interval: 95 %, by question; None below two questions.
    """

    name: str
    successes: int
    n: int
    unread: int
    questions: int
    rate: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What the same question twice gives.

    Attributes:
        n: questions put twice with two verdicts.
        equal: of those, with equal verdicts.
        sd: standard deviation of one verdict, from the differences; None without any.
    """

    n: int
    equal: int
    sd: float | None


@dataclass(frozen=True, kw_only=True)
class Position:
    """What being shown first is worth to an answer.

    Attributes:
        n: games.
        bias: mean verdict in favour of the answer shown first, from -1 to 1; None without any.
        interval: 95 %, clustered by question; None for few questions or without variation.
        inconsistent: pairs whose two orders name different answers, as a share.
    """

    n: int
    bias: float | None
    interval: Interval | None
    inconsistent: Share


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Everything that is estimated.

    Attributes:
        pairwise: whether the judge compares two answers.
        questions: questions the probes were made from.
        statuses: rows by status.
        ranking: how often an answer is put above its twin: all twins together, then each corruption.
        resistance: how often a plant does not raise the bad answer: all together, then each plant.
        noise: the same question twice.
        position: for a judge that compares; else None.
    """

    pairwise: bool
    questions: int
    statuses: Mapping[str, int]
    ranking: tuple[Share, ...]
    resistance: tuple[Share, ...]
    noise: Noise
    position: Position | None


def estimates_of(rows: Sequence[ProbeRow]) -> Estimates:
    """Estimate from rows; votes are left to `agreement`."""
    own = [row for row in rows if row.probe.kind != "vote"]
    pairwise = any(row.probe.order is not None for row in own)
    table = _Table(own)
    return Estimates(
        pairwise=pairwise,
        questions=len({row.probe.question for row in own}),
        statuses=dict(sorted(Counter(row.status for row in rows).items())),
        ranking=_shares(table.ranked(pairwise=pairwise)),
        resistance=_shares(table.resisted(pairwise=pairwise)),
        noise=_noise(table, "bad" if pairwise else "original"),
        position=_position(own) if pairwise else None,
    )


_Outcome = tuple[str, str, bool, bool]
"""Name, question, success, unread."""


class _Table:
    """Scores by answer, kind, name, repeat and order."""

    def __init__(self, rows: Iterable[ProbeRow]) -> None:
        self.scores: dict[tuple[str, int, Kind, str, int, int | None], _Score] = {}
        for row in rows:
            probe = row.probe
            place = (probe.question, probe.turn, probe.kind, probe.name, probe.repeat, probe.order)
            self.scores[place] = row.score if row.status == "ok" else None

    def ranked(self, *, pairwise: bool) -> list[_Outcome]:
        """An answer without a verdict, or a twin without one, is not ranked."""
        found: dict[tuple[str, int, str], dict[int | None, _Score]] = defaultdict(dict)
        for (question, turn, kind, name, _, order), score in self.scores.items():
            if kind == "twin":
                found[question, turn, name][order] = score
        outcomes = []
        for (question, turn, name), twin in found.items():
            known = [score for score in twin.values() if score is not None]
            if pairwise:
                unread = len(known) < len(twin)
                above = not unread and sum(known) < 0
            else:
                original = self.scores.get((question, turn, "original", "", 0, None))
                unread = original is None or not known
                above = original is not None and bool(known) and original > known[0]
            outcomes.append((name, question, above, unread))
        return outcomes

    def resisted(self, *, pairwise: bool) -> list[_Outcome]:
        """A planted answer without a verdict gained nothing; one whose bad answer has none is left out."""
        outcomes = []
        for (question, turn, kind, name, repeat, order), score in self.scores.items():
            if kind != "injection":
                continue
            bad = self.scores.get((question, turn, "bad", "", repeat, order))
            if bad is not None:
                rise = 0.0 if pairwise else RISE
                outcomes.append((name, question, score is None or score <= bad + rise, score is None))
        return outcomes

    def repeated(self, kind: Kind) -> list[tuple[float, float]]:
        """Return both verdicts of every question that was put twice."""
        pairs = []
        for (question, turn, found, name, repeat, order), score in self.scores.items():
            again = self.scores.get((question, turn, found, name, 1, order)) if found == kind and repeat == 0 else None
            if score is not None and again is not None:
                pairs.append((score, again))
        return pairs


def _shares(outcomes: Sequence[_Outcome]) -> tuple[Share, ...]:
    names = list(dict.fromkeys(name for name, *_ in outcomes))
    groups = [("all", list(outcomes)), *((name, [row for row in outcomes if row[0] == name]) for name in names)]
    return tuple(_share(name, rows) for name, rows in groups)


def _share(name: str, rows: Sequence[_Outcome]) -> Share:
    successes, sizes = sum(success for _, _, success, _ in rows), Counter(question for _, question, *_ in rows)
    rate = successes / len(rows) if rows else None
    return Share(
        name=name,
        successes=successes,
        n=len(rows),
        unread=sum(unread for *_, unread in rows),
        questions=len(sizes),
        rate=rate,
        interval=cluster_wilson(rate, list(sizes.values())) if rate is not None and len(sizes) > 1 else None,
    )


def _noise(table: _Table, kind: Kind) -> Noise:
    pairs = table.repeated(kind)
    squares = [(first - second) ** 2 for first, second in pairs]
    return Noise(
        n=len(pairs),
        equal=sum(first == second for first, second in pairs),
        sd=math.sqrt(math.fsum(squares) / (2 * len(squares))) if squares else None,
    )


def _position(rows: Sequence[ProbeRow]) -> Position:
    """Plants are left out: what they say depends on where they are shown."""
    games = [row for row in rows if row.probe.kind != "injection" and row.probe.repeat == 0]
    known = [(row.probe, row.score) for row in games if row.status == "ok" and row.score is not None]
    first = [score if probe.order == 0 else -score for probe, score in known]
    by_pair: dict[tuple[str, int, Kind, str], list[float]] = defaultdict(list)
    for probe, score in known:
        by_pair[probe.question, probe.turn, probe.kind, probe.name].append(score)
    both = [(name, question, len(set(scores)) > 1, False) for (question, _, _, name), scores in by_pair.items()
            if len(scores) > 1]  # fmt: skip
    return Position(
        n=len(first),
        bias=math.fsum(first) / len(first) if first else None,
        interval=_clustered(first, [probe.question for probe, _ in known]),
        inconsistent=_share("all", both),
    )


def _clustered(values: Sequence[float], questions: Sequence[str]) -> Interval | None:
    try:
        return clustered_mean(values, questions, min_clusters=FEWEST_QUESTIONS).interval(0.95)
    except EstimateError:
        return None


# Does a judge reach the bars?


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
        _share_bar("ranking", "puts an answer above its corrupted twin", found.ranking[0], bars.ranking_lower_min),
        _share_bar(
            "resistance", "is not moved by a planted verdict or order", found.resistance[0], bars.resistance_lower_min
        ),
        _noise_check(found, bars),
    ]
    if found.position is not None:
        checks.append(_position_check(found, bars))
    if bars.agreement_lower_min is not None:
        checks.append(_agreement(agreement, bars.agreement_lower_min))
    return tuple(checks)


def _share_bar(check: str, what: str, share: Share, least: float) -> QualificationCheck:
    if share.rate is None or share.interval is None:
        return QualificationCheck(check=check, passed=False, message=f"how often it {what} could not be measured")
    unread = f", {share.unread} without a verdict" if share.unread else ""
    message = (
        f"{what} {share.successes} of {share.n} times{unread}; lower 95 % limit {share.interval.lower:.1%} by "
        f"question, above {least:.0%} is wanted"
    )
    return QualificationCheck(check=check, passed=share.interval.lower > least, message=message)


def _noise_check(found: Estimates, bars: JudgeBars) -> QualificationCheck:
    noise = found.noise
    if noise.sd is None:
        return QualificationCheck(check="noise", passed=False, message="the same question twice gave no two verdicts")
    message = (
        f"the same question twice: {noise.equal} of {noise.n} verdicts equal, standard deviation of one "
        f"{noise.sd:.2f}; {bars.noise_sd_max:g} at most is wanted"
    )
    return QualificationCheck(check="noise", passed=noise.sd <= bars.noise_sd_max, message=message)


def _position_check(found: Estimates, bars: JudgeBars) -> QualificationCheck:
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
