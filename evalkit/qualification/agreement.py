"""How often two voters agree, as the paper behind MT-Bench counts it, with an interval it does not give.

In: votes. Out: `Agreement`.
May not know: where votes come from.

Definition (FastChat's `compute_agreement`): each verdict of a judge is compared with every vote of an expert on the
same question, turn and pair, one comparison for each vote; people are compared with one another in all pairs of votes
on the same thing. "Without ties" leaves out comparisons in which either side is a tie. Comparisons on one question are
not independent, so the interval is over questions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from evalkit.errors import EstimateError
from evalkit.qualification.votes import Vote, Winner
from evalkit.statistics.clusters import clustered_mean
from evalkit.statistics.interval import Interval

_Compared = tuple[int, Winner, Winner]
"""Question, one side, the other."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How often two sides say the same.

    Attributes:
        agreed, n: comparisons that agree, of how many.
        rate: agreed / n; None without any.
        interval: 95 %, clustered by question; None below ten questions or without variation.
        agreed_without_ties, n_without_ties, rate_without_ties, interval_without_ties: the same where neither side is a
            tie.
    """

    agreed: int
    n: int
    rate: float | None
    interval: Interval | None
    agreed_without_ties: int
    n_without_ties: int
    rate_without_ties: float | None
    interval_without_ties: Interval | None


def agreement(verdicts: Iterable[Vote], people: Iterable[Vote]) -> Agreement:
    """Compare each verdict of a judge with every expert's vote on the same thing."""
    votes = _by_key(people)
    return _counted([(v.question_id, v.winner, vote.winner) for v in verdicts for vote in votes.get(v.key, ())])


def between_people(people: Iterable[Vote]) -> Agreement:
    """Compare experts with one another: all pairs of votes on the same thing."""
    pairs = ((key[0], pair) for key, votes in _by_key(people).items() for pair in combinations(votes, 2))
    return _counted([(question, left.winner, right.winner) for question, (left, right) in pairs])


def _by_key(people: Iterable[Vote]) -> dict[tuple[int, int, str, str], list[Vote]]:
    found = defaultdict(list)
    for vote in people:
        if vote.by_expert:
            found[vote.key].append(vote)
    return found


def _counted(compared: Sequence[_Compared]) -> Agreement:
    decided = [row for row in compared if "tie" not in row[1:]]
    (agreed, rate, interval), (sure, sure_rate, sure_interval) = _rate(compared), _rate(decided)
    return Agreement(
        agreed=agreed,
        n=len(compared),
        rate=rate,
        interval=interval,
        agreed_without_ties=sure,
        n_without_ties=len(decided),
        rate_without_ties=sure_rate,
        interval_without_ties=sure_interval,
    )


def _rate(compared: Sequence[_Compared]) -> tuple[int, float | None, Interval | None]:
    same = [float(left == right) for _, left, right in compared]
    if not same:
        return 0, None, None
    try:
        interval = clustered_mean(same, [question for question, *_ in compared]).interval(0.95)
    except EstimateError:
        interval = None
    return int(sum(same)), sum(same) / len(same), interval
