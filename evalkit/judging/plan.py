"""What a judge is to be asked about some runs, each different question once.

In: items and records of several runs. Out: questions in one mixed order, and where each verdict belongs.
May not know: who judges, which run is the baseline, what is on the disk.

The judge is blind: a question holds no name of a run or an engine, and the questions of all runs are mixed. Answers
that are equal to the letter are one question: an exact tie that costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalkit.degeneration import degeneration
from evalkit.errors import UsageError
from evalkit.judging.questions import JudgingPlan, Place, Question, Verdict
from evalkit.judging.words import JudgeWords
from evalkit.records import EngineIdentity, Item, Record, TextReply, digest, text_digest

__all__ = ["JudgingPlan", "Place", "Question", "Verdict", "plan_judging"]


def plan_judging(
    items: Sequence[Item],
    runs: Sequence[Sequence[Record]],
    words: JudgeWords,
    judge: EngineIdentity | None,
    *,
    references: str | None,
    samples: int,
    repeats: int,
    seed: int,
) -> JudgingPlan:
    """Plan every judgment of the given runs of one task.

    Args:
        items: the task's items.
        runs: records of each run; failed ones have nothing to judge.
        words: how the judge is asked.
        judge: who judges; part of every key. None to count questions only.
        references: name of the set of reference answers; None to judge without any.
        samples: answers to each item in a complete run.
        repeats: judgments of each answer.
        seed: of the order of questions.

    Raises:
        UsageError: an item lacks the reference answer its category needs, or a record has no item.
    """
    material = Material.of(items, words, judge, references)
    planner = _Planner(material=material, lowest=float(words.profile.scale[0]))
    for run, records in enumerate(runs):
        for record in records:
            if isinstance(record.reply, TextReply):
                planner.add(run, record, record.reply, repeats)
    planned = sum(len(item.turns) for item in items) * samples * repeats
    return material.plan(planner.found, planner.places, seed, planned)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What every question of a task is made of.

    Attributes:
        words: how the judge is asked.
        items: item key to item.
        references: item key to the reference answers the judge gets; None for none.
        common: the part of every key that is the same for all questions.
    """

    words: JudgeWords
    items: Mapping[str, Item]
    references: Mapping[str, Sequence[str] | None]
    common: Mapping[str, Any]

    @classmethod
    def of(
        cls, items: Sequence[Item], words: JudgeWords, judge: EngineIdentity | None, references: str | None
    ) -> Material:
        """Gather it; without a judge the keys serve to count different questions only."""
        used = {item.key: _references(item, words, references) for item in items}
        named = {key: value for key, value in used.items() if value is not None}
        common = {
            "judge": judge.sha256 if judge is not None else None,
            "profile": words.sha256,
            "references": digest(named) if named else None,
            "sampling": [words.profile.temperature, words.profile.max_tokens],
        }
        return cls(words=words, items={item.key: item for item in items}, references=used, common=common)

    def item_of(self, record: Record) -> Item:
        """Return a record's item.

        Raises:
            UsageError: there is none.
        """
        item = self.items.get(record.key.rsplit("/", 1)[0])
        if item is None:
            raise UsageError(f"record {record.key} belongs to no item of its run; next step: collect the run again")
        return item

    def references_of(self, item: Item, turn: int) -> Sequence[str] | None:
        """Return the reference answers up to a turn, or None."""
        references = self.references[item.key]
        return None if references is None else references[:turn]

    def plan(
        self, found: Mapping[str, Mapping[str, Any]], places: Mapping[str, Sequence[Place]], seed: int, planned: int
    ) -> JudgingPlan:
        """Put questions (key to their fields) in one random order."""
        ordered = sorted(found, key=lambda key: text_digest(f"{seed}:{key}"))
        questions = tuple(Question(key=key, places=tuple(places[key]), **found[key]) for key in ordered)
        return JudgingPlan(questions=questions, references_sha256=self.common["references"], planned=planned)


@dataclass(kw_only=True)
class _Planner:
    material: Material
    lowest: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)

    def add(self, run: int, record: Record, reply: TextReply, repeats: int) -> None:
        material, item = self.material, self.material.item_of(record)
        for turn in range(1, len(reply.turns) + 1):
            answers = [answer.text for answer in reply.turns[:turn]]
            given = material.references_of(item, turn)
            system, user = material.words.fill(item.turns[:turn], answers, given)
            rule = degeneration(reply.turns[turn - 1])
            for repeat in range(repeats):
                key = digest({**material.common, "messages": [system, user], "repeat": repeat, "rule": rule})
                self.found[key] = {
                    "system": system,
                    "user": user,
                    "reference": given is not None,
                    "rule": rule,
                    "rule_score": self.lowest if rule is not None else None,
                    "answers": tuple(answers),
                }
                place = Place(run=run, record=record, turn=turn, repeat=repeat, answer_sha256=digest(answers))
                self.places.setdefault(key, []).append(place)


def _references(item: Item, words: JudgeWords, name: str | None) -> list[str] | None:
    if name is None or item.subject not in words.profile.needs_reference:
        return None
    found = item.details.get("references", {}).get(name)
    if not isinstance(found, list) or len(found) < len(item.turns):
        raise UsageError(
            f"item {item.key} of category '{item.subject}' has no '{name}' reference answer, which judge "
            f"'{words.profile.name}' needs; next step: another reference set, or leave the category out of "
            "'needs_reference'"
        )
    return found
