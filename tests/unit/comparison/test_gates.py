"""Deterministic gates: counted by question, compared pair by pair."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.comparison.answers import compare_gates
from evalkit.degeneration import GATES, tripped
from evalkit.records import Item, Record, TextReply, Turn
from evalkit.statistics.tango import PairedTable, tango_interval

QUESTION = "What should one know about the weather in the mountains before going there on foot, and is it safe for all?"
ANSWER = "It is wise to look at the forecast and to take warm clothes with you, as the weather in the hills can turn."
FOREIGN = "Es ist gut, vor dem Weg in die Berge auf das Wetter zu achten und warme Kleidung mit zu nehmen, denn es kann"


def turn(text: str, finish: Any = "stop", tokens: int = 20) -> Turn:
    return Turn(text=text, finish=finish, prompt_tokens=1, completion_tokens=tokens)


def item(number: int) -> Item:
    return Item(
        task="talk",
        subject="s",
        item_sha256=f"{number:03d}",
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        doc={},
        turns=(QUESTION, QUESTION),
    )


def record(number: int, *turns: Turn, sample: int = 0) -> Record:
    return Record(
        task="talk",
        subject="s",
        item_sha256=f"{number:03d}",
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        sample=sample,
        status="ok",
        reply=TextReply(turns=turns),
    )


@pytest.mark.parametrize(
    ("text", "finish", "gates"),
    [
        (ANSWER, "stop", set()),
        (ANSWER, "length", {"truncated"}),
        ("", "stop", {"empty"}),
        ("again and again " * 60, "length", {"repetition", "truncated"}),
        (FOREIGN, "stop", {"language"}),
        ("да " * 30, "stop", {"language"}),
        (f"{QUESTION} I do not know.", "stop", {"echo"}),
        ("Sure.<|im_end|> <|im_start|>user", "stop", {"special-tokens"}),
        ("[INST] Sure [/INST]", "stop", {"special-tokens"}),
        ("\ufffd" * 10 + "ab", "stop", {"garbled"}),
        ("a < b and <b>bold</b>", "stop", set()),
        ("Formula: α + β = γ", "stop", set()),
    ],
)
def test_each_gate(text: str, finish: Any, gates: set[str]) -> None:
    assert tripped(turn(text, finish), QUESTION) == gates


def test_without_its_question_an_answer_neither_echoes_nor_changes_language() -> None:
    assert tripped(turn(FOREIGN), None) == set()
    assert tripped(turn(QUESTION), None) == set()


def test_a_question_counts_once_however_many_answers_trip_it() -> None:
    baseline = [record(n, turn(ANSWER), turn(ANSWER)) for n in range(6)]
    bad = (turn(ANSWER, "length"), turn(ANSWER, "length"))
    candidate = [record(n, *(bad if n < 3 else (turn(ANSWER), turn(ANSWER)))) for n in range(6)]
    found = compare_gates(baseline, candidate, {("s", f"{n:03d}", 0): item(n) for n in range(6)})
    assert found is not None
    rows = {row.gate: row for row in found.gates}
    assert rows.keys() == GATES.keys()
    cut = rows["truncated"]
    assert (cut.n, cut.baseline, cut.candidate, cut.gained, cut.lost, cut.available) == (6, 0, 3, 3, 0, True)
    assert cut.interval == tango_interval(PairedTable(n11=0, n10=0, n01=3, n00=3), 0.95)
    assert cut.increase == pytest.approx(0.5)
    assert all(row.candidate == 0 for name, row in rows.items() if name != "truncated")


def test_gates_that_need_the_question_say_when_there_is_none() -> None:
    records = [record(0, turn(ANSWER)), record(1, turn(ANSWER))]
    found = compare_gates(records, records, {})
    assert found is not None
    assert {row.gate for row in found.gates if not row.available} == {"language", "echo"}


def test_length_is_a_ratio_with_an_interval_by_question() -> None:
    rng = np.random.default_rng(0)
    ratios = np.exp(rng.normal(0.2, 0.1, size=20))
    baseline = [record(n, turn(ANSWER, tokens=1000)) for n in range(20)]
    candidate = [record(n, turn(ANSWER, tokens=round(1000 * ratio))) for n, ratio in enumerate(ratios)]
    found = compare_gates(baseline, candidate, {})
    assert found is not None
    assert found.length.ratio == pytest.approx(np.exp(np.log(ratios).mean()), rel=1e-3)
    assert found.length.interval is not None
    assert found.length.interval.lower < np.exp(0.2) < found.length.interval.upper


def test_what_one_side_lacks_is_left_out_and_nothing_at_all_is_none() -> None:
    assert compare_gates([record(0, turn(ANSWER))], [None], {}) is None
    found = compare_gates([record(0, turn(ANSWER)), record(1, turn(""))], [record(0, turn("")), None], {})
    assert found is not None
    assert {row.n for row in found.gates} == {1}


def test_a_comparison_of_conversations_holds_them_and_one_of_marks_does_not(made: ModuleType) -> None:
    scores = np.random.default_rng(1).integers(3, 8, size=(12, 2, 1)).astype(float)
    marks = np.ones(400)
    runs = [
        made.make_run(name, scores=scores, marks=marks, seed=at) for at, name in enumerate(("baseline", "candidate"))
    ]
    assert compare(*runs, "mt-bench").gates is not None
    assert compare(*runs, "mmlu").gates is None
    cut = [
        replace(one, reply=TextReply(turns=tuple(replace(t, finish="length") for t in one.reply.turns)))
        for one in runs[1].records["mt-bench"]
    ]
    changed = replace(runs[1], records={**runs[1].records, "mt-bench": tuple(cut)})
    gates = compare(runs[0], changed, "mt-bench").gates
    assert gates is not None
    assert next(row for row in gates.gates if row.gate == "truncated").candidate == 12


@pytest.mark.parametrize(("gate", "text"), [("language", FOREIGN), ("language", "да " * 30), ("echo", QUESTION)])
def test_gates_that_need_the_question_are_compared_pair_by_pair_too(gate: str, text: str) -> None:
    baseline = [record(n, turn(ANSWER), turn(ANSWER)) for n in range(30)]
    candidate = [record(n, turn(ANSWER), turn(text if n < 12 else ANSWER)) for n in range(30)]
    found = compare_gates(baseline, candidate, {("s", f"{n:03d}", 0): item(n) for n in range(30)})
    assert found is not None
    rows = {row.gate: row for row in found.gates}
    assert (rows[gate].n, rows[gate].baseline, rows[gate].candidate, rows[gate].available) == (30, 0, 12, True)
    assert rows[gate].interval is not None
    assert rows[gate].interval.lower > 0
    assert [name for name, row in rows.items() if row.candidate] == [gate]
