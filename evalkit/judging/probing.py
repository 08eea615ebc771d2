"""What a judge is tried with, built from answers of a run.

In: items, records, the words of a profile. Out: probes with the questions that put them.
May not know: engines, runs, what follows from the replies.

For a judge that rates: each answer twice, each of its corrupted twins, an answer that says nothing, and that answer
with plants. For a judge that compares: the answer against each twin, and against the bad answer without and with
plants, all in both orders. Rules that score unreadable answers are left out: the judge itself is tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evalkit.degeneration import degeneration
from evalkit.errors import UsageError
from evalkit.judging.plan import Material
from evalkit.judging.questions import Question
from evalkit.judging.twins import BAD, CHOICE_PLANTS, RATING_PLANTS, SHORTEST, TWINS, plant
from evalkit.probes import Kind, Probe
from evalkit.records import Record, TextReply, digest, text_digest

REPEATS = 2
"""Times an unchanged answer is put to the judge, to see its noise."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One probe and its question."""

    probe: Probe
    question: Question


def probe_questions(material: Material, records: Sequence[Record], *, answers: int, seed: int) -> list[Asked]:
    """Return the probes of up to `answers` readable answers, one turn of each question.

    Raises:
        UsageError: no answer is long enough to be corrupted, or a record has no item.
    """
    chosen = _chosen(records, answers, seed)
    if not chosen:
        raise UsageError(
            f"no answer is readable and has {SHORTEST} characters, so none can be corrupted; next step: qualify the "
            "judge with a run of longer answers"
        )
    made = [_Answer(material, record, reply, turn) for record, reply, turn in chosen]
    pairwise = material.words.profile.mode == "pairwise"
    return [asked for answer in made for asked in (answer.pairs() if pairwise else answer.singles())]


def _chosen(records: Sequence[Record], answers: int, seed: int) -> list[tuple[Record, TextReply, int]]:
    """Choose answers by the digest of their place: other runs of the same questions are tried on the same ones."""
    found: dict[str, list[tuple[str, Record, TextReply, int]]] = {}
    for record in records:
        if not isinstance(record.reply, TextReply):
            continue
        for turn, answer in enumerate(record.reply.turns, start=1):
            if degeneration(answer) is None and len(answer.text.strip()) >= SHORTEST:
                rank = text_digest(f"{seed}:{record.key}/{turn}")
                item = record.key.rsplit("/", 1)[0]
                found.setdefault(item, []).append((rank, record, record.reply, turn))
    best = sorted((min(places, key=lambda place: place[0]) for places in found.values()), key=lambda place: place[0])
    return [(record, reply, turn) for _, record, reply, turn in best[:answers]]


class _Answer:
    """One answer on its way into many questions."""

    def __init__(self, material: Material, record: Record, reply: TextReply, turn: int) -> None:
        self._material, self._turn = material, turn
        self._item = material.item_of(record)
        self._earlier = [answer.text for answer in reply.turns[: turn - 1]]
        self._text = reply.turns[turn - 1].text
        self._given = material.references_of(self._item, turn)

    def singles(self) -> Iterator[Asked]:
        """Rate the answer, its twins, the bad answer, and that with plants."""
        for repeat in range(REPEATS):
            yield self._single("original", "", self._text, repeat)
        for name, twin in self._twins():
            yield self._single("twin", name, twin)
        yield self._single("bad", "", BAD)
        for name in RATING_PLANTS:
            yield self._single("injection", name, plant(name, high=self._material.words.profile.scale[1]))

    def pairs(self) -> Iterator[Asked]:
        """Compare what is worse with the answer, in both orders; the named answer is the worse one."""
        for order, letter in enumerate("AB"):
            for name, twin in self._twins():
                yield self._pair("twin", name, twin, order)
            for repeat in range(REPEATS):
                yield self._pair("bad", "", BAD, order, repeat)
            for name in CHOICE_PLANTS:
                yield self._pair("injection", name, plant(name, letter=letter), order)

    def _twins(self) -> list[tuple[str, str]]:
        made = ((name, corrupt(self._text)) for name, corrupt in TWINS.items())
        return [(name, twin) for name, twin in made if twin is not None and twin != self._text]

    def _single(self, kind: Kind, name: str, text: str, repeat: int = 0) -> Asked:
        answers = [*self._earlier, text]
        words = self._material.words.fill(self._item.turns[: self._turn], answers, self._given)
        probe = Probe(question=self._item.key, turn=self._turn, kind=kind, name=name, repeat=repeat)
        return Asked(
            probe=probe, question=question_of(self._material, words, answers, repeat, reference=self._given is not None)
        )

    def _pair(self, kind: Kind, name: str, text: str, order: int, repeat: int = 0) -> Asked:
        sides = ([*self._earlier, text], [*self._earlier, self._text])
        shown = sides if order == 0 else sides[::-1]
        words = self._material.words.fill_pair(self._item.turns[: self._turn], shown[0], shown[1], self._given)
        question = question_of(
            self._material,
            words,
            [*shown[0], *shown[1]],
            repeat,
            reference=self._given is not None,
            judged_first=order == 0,
        )
        probe = Probe(question=self._item.key, turn=self._turn, kind=kind, name=name, repeat=repeat, order=order)
        return Asked(probe=probe, question=question)


def question_of(
    material: Material,
    words: tuple[str | None, str],
    answers: Sequence[str],
    repeat: int,
    *,
    reference: bool,
    judged_first: bool | None = None,
) -> Question:
    """Return a question that belongs to no run; it has the key of an equal question about one, if no rule applies."""
    asked: dict[str, object] = {"messages": list(words), "repeat": repeat, "rule": None}
    if judged_first is not None:
        asked["judged"] = "first" if judged_first else "second"
    return Question(
        key=digest({**material.common, **asked}),
        system=words[0],
        user=words[1],
        reference=reference,
        places=(),
        rule=None,
        answers=tuple(answers),
        judged_first=judged_first,
    )
