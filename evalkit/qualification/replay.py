"""A judge's own votes on pairs that people voted on, and its agreement with them.

In: rows of kind "vote", the votes of people, of GPT-4 where there are some. Out: agreement as plain data.
May not know: how the pairs were put to the judge.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.comparison.plain import to_plain
from evalkit.probes import ProbeRow, VotedPair
from evalkit.qualification.agreement import agreement, between_people
from evalkit.qualification.votes import Vote, Winner
from evalkit.records import text_digest

Key = tuple[int, int, str, str]
"""Question, turn, first model, second model."""

TIE = 0.1
"""Difference of two ratings up to which they are a tie, as FastChat takes it."""

JUDGE = "judge"


@dataclass(frozen=True, kw_only=True)
class Votes:
    """Pairs that people voted on, with their texts.

    Attributes:
        keys: what was voted on.
        pairs: the same with the answers, in the same order.
        people, gpt4: votes; the latter may be empty.
    """

    keys: Sequence[Key]
    pairs: Sequence[VotedPair]
    people: Sequence[Vote]
    gpt4: Sequence[Vote] = ()


def pair_name(key: Key) -> str:
    """Return the name of a pair in rows.

    >>> pair_name((81, 1, "alpha", "beta"))
    '81/1/alpha/beta'
    """
    return "/".join(map(str, key))


def chosen_pairs(people: Sequence[Vote], models: Sequence[str], count: int, seed: int) -> list[Key]:
    """Return up to `count` pairs with an expert's vote and answers of both models, in an order drawn by digest."""
    known = set(models)
    keys = {vote.key for vote in people if vote.by_expert and {vote.first, vote.second} <= known}
    return sorted(keys, key=lambda key: text_digest(f"{seed}:{pair_name(key)}"))[:count]


def judge_votes(rows: Sequence[ProbeRow], keys: Sequence[Key], *, pairwise: bool) -> list[Vote]:
    """Return the judge's vote on each pair for which both verdicts are there.

    A judge that compares must name the same answer in both orders, else it is a tie; of one that rates the ratings are
    compared.
    """
    found: dict[str, dict[int | None, float]] = defaultdict(dict)
    for row in rows:
        if row.probe.kind == "vote" and row.score is not None:
            found[row.probe.name][row.probe.order] = row.score
    votes = []
    for key in keys:
        scores = found.get(pair_name(key), {})
        if len(scores) == 2:
            winner = _compared(scores[0], scores[1]) if pairwise else _rated(scores[0], scores[1])
            votes.append(Vote(question_id=key[0], turn=key[1], first=key[2], second=key[3], winner=winner, judge=JUDGE))
    return votes


def _compared(first: float, second: float) -> Winner:
    return "tie" if first != second or first == 0 else "a" if first > 0 else "b"


def _rated(a: float, b: float) -> Winner:
    return "tie" if abs(a - b) <= TIE else "a" if a > b else "b"


def replayed_agreement(
    rows: Sequence[ProbeRow], keys: Sequence[Key], people: Sequence[Vote], gpt4: Sequence[Vote], *, pairwise: bool
) -> Mapping[str, Any]:
    """Return the agreement of the judge, of GPT-4 and of people with people, all on the same pairs."""
    asked = set(keys)
    judged = judge_votes(rows, keys, pairwise=pairwise)
    votes = [vote for vote in people if vote.key in asked]
    plain: Mapping[str, Any] = to_plain(
        {
            "pairs": len(keys),
            "without_verdict": len(keys) - len(judged),
            "judge": agreement(judged, votes),
            "gpt4": agreement([vote for vote in gpt4 if vote.key in asked], votes) if gpt4 else None,
            "people": between_people(votes),
        }
    )
    return plain
