from __future__ import annotations

import pytest

from evalkit.definitions import JudgeProfile
from evalkit.judging import Place, Question
from evalkit.judging.reading import estimate
from evalkit.records import Record

TEXTS = {"turn_1": "{question_1}{answer_1}", "turn_2": "{question_1}{question_2}{answer_1}{answer_2}"}
PROMPTS = {
    "source": "inline",
    **TEXTS,
    "turn_1_with_reference": TEXTS["turn_1"] + "{reference_1}",
    "turn_2_with_reference": TEXTS["turn_2"] + "{reference_1}{reference_2}",
}
RECORD = Record(
    task="t",
    subject="s",
    item_sha256="i",
    occurrence=0,
    prompt_sha256="p",
    target_sha256="t",
    status="failed",
    failure="x: y",
)


def profile(**changes):
    return JudgeProfile(**{"name": "judge", "answer": "rating_text", "prompts": PROMPTS, "max_tokens": 500, **changes})


def question(characters, places=1, rule=None):
    spots = tuple(Place(run=n, record=RECORD, turn=1, repeat=0, answer_sha256="") for n in range(places))
    return Question(
        key=f"{characters:064x}", system=None, user="x" * characters, reference=False, places=spots, rule=rule
    )


def test_what_is_asked_and_what_is_free():
    found = estimate(profile(), [question(4000), question(401, places=3), question(9, rule="empty")])
    assert (found.calls, found.free, found.prompt_tokens) == (2, 3, 1101)
    assert (found.completion_tokens, found.most_completion_tokens, found.most_calls) == (400, 1000, 2)
    assert found.cost(2.5, 10.0) == pytest.approx((1101 * 2.5 + 400 * 10) / 1e6)
    assert "2 questions to the judge, 3 judgments free of charge" in found.text


def test_a_second_question_doubles_the_most():
    found = estimate(profile(reask=True), [question(4000)])
    assert (found.most_calls, found.most_completion_tokens) == (2, 1000)


def test_a_judge_that_writes_nothing_costs_no_written_tokens():
    found = estimate(profile(answer="rating_logprob"), [question(4000)])
    assert (found.completion_tokens, found.most_completion_tokens) == (0, 0)
    assert "written" not in found.text


def test_probes_belong_to_no_run_and_are_never_negative():
    assert estimate(profile(), [question(40, places=0)]).free == 0
