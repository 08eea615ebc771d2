"""Pairs of answers that people voted on, put to a judge.

In: pairs with their texts, the words of a profile. Out: probes with the questions that put them.
May not know: the votes, engines, runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.errors import UsageError
from evalkit.judging.plan import Material
from evalkit.judging.probing import Asked, question_of
from evalkit.probes import Probe, VotedPair
from evalkit.records import Item


def vote_questions(material: Material, items: Sequence[Item], pairs: Sequence[VotedPair]) -> list[Asked]:
    """Return both orders of each pair for a judge that compares, both answers of it for one that rates.

    For a rating, order 0 is the rating of the first answer and order 1 that of the second.

    Raises:
        UsageError: a pair's question is not among the items.
    """
    by_number = {item.details.get("question_id"): item for item in items}
    asked = []
    for pair in pairs:
        item = by_number.get(pair.question_id)
        if item is None:
            raise UsageError(f"the votes name question {pair.question_id}, which the task does not ask")
        asked += [_asked(material, item, pair, order) for order in (0, 1)]
    return asked


def _asked(material: Material, item: Item, pair: VotedPair, order: int) -> Asked:
    given = material.references_of(item, pair.turn)
    questions = item.turns[: pair.turn]
    probe = Probe(question=item.key, turn=pair.turn, kind="vote", name=pair.name, order=order)
    if material.words.profile.mode == "pairwise":
        shown = (pair.answers_a, pair.answers_b) if order == 0 else (pair.answers_b, pair.answers_a)
        words = material.words.fill_pair(questions, shown[0], shown[1], given)
        answers, first = [*shown[0], *shown[1]], order == 0
        made = question_of(material, words, answers, 0, reference=given is not None, judged_first=first)
    else:
        answers = list(pair.answers_a if order == 0 else pair.answers_b)
        words = material.words.fill(questions, answers, given)
        made = question_of(material, words, answers, 0, reference=given is not None)
    return Asked(probe=probe, question=made)
