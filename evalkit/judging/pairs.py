"""What a judge is to be asked about pairs of answers: every pair twice, once in each order.

In: items, records of several runs, records of one opponent. Out: questions in one mixed order, with their places.
May not know: who judges, which run is the baseline, what is on the disk.

Pairs whose texts are equal to the letter are an exact tie at no cost; a pair with one answer that nobody can read is
lost by it, with two it is a tie. The scores are those of the judged answer: 1 better, 0 a tie, -1 worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalkit.degeneration import degeneration
from evalkit.judging.plan import Material
from evalkit.judging.questions import JudgingPlan, Place
from evalkit.judging.words import JudgeWords
from evalkit.records import EngineIdentity, Item, Record, TextReply, digest

ORDERS = 2
"""Games of a pair: the judged answer first, then second."""

IDENTICAL = "identical"
"""Why a pair is a tie without asking: all text the judge would see is equal."""


def plan_pairs(  # noqa: PLR0913 (all but five are options with a name)
    items: Sequence[Item],
    runs: Sequence[Sequence[Record]],
    opponent: Sequence[Record],
    words: JudgeWords,
    judge: EngineIdentity | None,
    *,
    references: str | None,
    samples: int,
    repeats: int,
    seed: int,
) -> JudgingPlan:
    """Plan every game of the given runs against one opponent.

    Args:
        items: the task's items.
        runs: records of each judged run; failed ones, and those whose opponent failed, have nothing to judge.
        opponent: records of the run they are compared with.
        words: how the judge is asked.
        judge: who judges; part of every key. None to count questions only.
        references: name of the set of reference answers; None to judge without any.
        samples: answers to each item in a complete run; an answer meets the opponent's of the same number.
        repeats: judgments of each pair in each order.
        seed: of the order of questions.

    Raises:
        UsageError: an item lacks the reference answer its category needs, or a record has no item.
    """
    material = Material.of(items, words, judge, references)
    planner = _PairPlanner(material=material)
    others = {record.key: record.reply for record in opponent}
    for run, records in enumerate(runs):
        for record in records:
            other = others.get(record.key)
            if isinstance(record.reply, TextReply) and isinstance(other, TextReply):
                planner.add(run, record, record.reply, other, repeats)
    planned = sum(len(item.turns) for item in items) * samples * repeats * ORDERS
    return material.plan(planner.found, planner.places, seed, planned)


def pair_sha256(judged: Sequence[str], opponent: Sequence[str]) -> str:
    """Return the digest of all answer text of a pair, the judged answers first."""
    return digest([list(judged), list(opponent)])


@dataclass(kw_only=True)
class _PairPlanner:
    material: Material
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, run: int, record: Record, reply: TextReply, other: TextReply, repeats: int) -> None:
        item = self.material.item_of(record)
        for turn in range(1, min(len(reply.turns), len(other.turns)) + 1):
            sides = [[answer.text for answer in texts.turns[:turn]] for texts in (reply, other)]
            rule, score = _rule(reply, other, turn)
            for game in range(repeats * ORDERS):
                self._game(run, record, item, turn, game, sides, rule, score)

    def _game(
        self,
        run: int,
        record: Record,
        item: Item,
        turn: int,
        game: int,
        sides: Sequence[Sequence[str]],
        rule: str | None,
        score: float | None,
    ) -> None:
        first = game % ORDERS == 0
        shown = sides if first else sides[::-1]
        given = self.material.references_of(item, turn)
        system, user = self.material.words.fill_pair(item.turns[:turn], shown[0], shown[1], given)
        asked: Mapping[str, Any] = {
            "messages": [system, user],
            "judged": "first" if first else "second",
            "repeat": game // ORDERS,
            "rule": rule,
        }
        key = digest({**self.material.common, **asked})
        self.found[key] = {
            "system": system,
            "user": user,
            "reference": given is not None,
            "rule": rule,
            "rule_score": score,
            "answers": tuple(text for texts in shown for text in texts),
            "judged_first": first,
        }
        place = Place(run=run, record=record, turn=turn, repeat=game, answer_sha256=pair_sha256(*sides))
        self.places.setdefault(key, []).append(place)


def _rule(reply: TextReply, other: TextReply, turn: int) -> tuple[str | None, float | None]:
    if [answer.text for answer in reply.turns[:turn]] == [answer.text for answer in other.turns[:turn]]:
        return IDENTICAL, 0.0
    ours, theirs = degeneration(reply.turns[turn - 1]), degeneration(other.turns[turn - 1])
    if ours is None and theirs is None:
        return None, None
    return ours or theirs, float((theirs is not None) - (ours is not None))
