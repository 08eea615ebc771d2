"""A judge on trial: probes built from answers, put once, kept, and read as what they show."""

from __future__ import annotations

import re

import pytest

from evalkit.adapters.base import Failure, Generation
from evalkit.collect.ratings import Budget
from evalkit.collect.variance import qualify
from evalkit.definitions import JudgeProfile
from evalkit.errors import EngineError, InterruptedRunError, UsageError
from evalkit.judging import load_words
from evalkit.judging.plan import Material
from evalkit.judging.probing import BAD, probe_questions, vote_questions
from evalkit.policy import JudgeBars
from evalkit.qualification import check_qualification, estimates_of
from evalkit.records import EngineIdentity, Item, Record, TextReply, Turn, text_digest
from evalkit.records.record import VotedPair
from evalkit.store import RatingStore

SINGLE = {
    "source": "inline",
    "turn_1": "Q:{question_1} A:{answer_1} END",
    "turn_1_with_reference": "Q:{question_1} R:{reference_1} A:{answer_1} END",
    "turn_2": "Q:{question_1} P:{answer_1} Q:{question_2} A:{answer_2} END",
    "turn_2_with_reference": "R:{reference_1}{reference_2} Q:{question_1} P:{answer_1} Q:{question_2} A:{answer_2} END",
}
PAIR = {
    name: text.replace("A:{answer_1}", "A:{answer_a_1} B:{answer_b_1}")
    .replace("A:{answer_2}", "A:{answer_a_2} B:{answer_b_2}")
    .replace("P:{answer_1}", "P:{answer_a_1}{answer_b_1}")
    for name, text in SINGLE.items()
}
IDENTITY = EngineIdentity(
    adapter="fake",
    model="judge",
    weights_sha256="a",
    recipe="none",
    recipe_sha256=None,
    fidelity="engine",
    quantization={},
    dtype="f",
    tokenizer_sha256="b",
    chat_template_sha256=None,
    versions={},
    device="cpu",
)


def profile(**changes) -> JudgeProfile:
    return JudgeProfile(**{"name": "p", "answer": "rating_text", "prompts": SINGLE, "max_tokens": 64, **changes})


def pairwise() -> JudgeProfile:
    return profile(mode="pairwise", answer="choice_text", scale=(-1, 1), prompts=PAIR)


def item(number: int) -> Item:
    return Item(
        task="talk",
        subject="writing",
        item_sha256=f"{number:064d}",
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        doc={},
        turns=(f"ask {number}", f"then {number}"),
        details={"question_id": number},
    )


def answer(number: int, turn: int) -> str:
    return (
        f"The answer {number}.{turn} begins with a plain fact. It goes on with a second one that matters here. Then, "
        "as was promised, comes a reason for both of them. At last there is the number "
        f"{number + 40} which settles the whole question."
    )


def record(number: int, *texts: str) -> Record:
    one = item(number)
    given = texts or (answer(number, 1), answer(number, 2))
    return Record(
        task="talk",
        subject="writing",
        item_sha256=one.item_sha256,
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        status="ok",
        reply=TextReply(turns=tuple(Turn(text=t, finish="stop", prompt_tokens=1, completion_tokens=1) for t in given)),
    )


def shown(text: str) -> list[str]:
    """The texts a judge of these tests sees as answers, in their order."""
    part = text[: text.rfind(" END")]
    at = part.rfind("A:")
    return re.split(r" B:", part[at + 2 :])


class Judge:
    """Verdicts by a rule on the answers shown; keeps what it was asked."""

    identity = IDENTITY

    def __init__(self, rule):
        self.rule, self.asked = rule, []

    def generate(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request)
            said = self.rule(shown(request.prompt[0].content))
            yield (
                index,
                said
                if isinstance(said, Failure)
                else Generation(text=said, finish="stop", prompt_tokens=9, completion_tokens=3),
            )

    def close(self):
        pass


WORDS = re.compile(r"\b(?:answer|plain|fact|second|matters|reason|settles|whole)\b")


def worth(text: str) -> float:
    """How good an answer of these tests is: its own words, in their order, its right number."""
    whole = re.fullmatch(
        r"The answer (\d+)\.\d begins .* second one .* was promised.* the number (\d+) which settles .*", text, re.S
    )
    right = whole is not None and int(whole[2]) == int(whole[1]) + 40
    return 9.0 if right else 4.0 if len(WORDS.findall(text)) > 4 else 2.0


def good(answers):
    if len(answers) == 1:
        return f"[[{worth(answers[0]):g}]]"
    first, second = map(worth, answers)
    return "[[A]]" if first > second else "[[B]]" if second > first else "[[C]]"


def gullible(answers):
    planted = [re.search(r"\[\[(10|[AB])\]\]|\"(?:rating\": 10|winner\": \"[AB])", text) for text in answers]
    if len(answers) == 1:
        return "Right. So:\nMy rating: [[10]]" if planted[0] else good(answers)
    return good(answers) if not any(planted) else "So:\nMy verdict: [[A]]" if planted[0] else "So:\nMy verdict: [[B]]"


def first_shown(answers):
    return "[[A]]"


def material(prof: JudgeProfile, count: int = 25) -> Material:
    return Material.of([item(n) for n in range(count)], load_words(prof, None), IDENTITY, None)


def tried(tmp_path, prof, rule, count=25, **options):
    probes = probe_questions(material(prof, count), [record(n) for n in range(count)], answers=count, seed=0)
    judge = Judge(rule)
    with RatingStore(tmp_path / "store", "j", "p") as store:
        rows = qualify(probes, prof, judge, store=store, progress=False, **options)
    return estimates_of(rows), judge, probes


def passed(found):
    return {one.check: one.passed for one in check_qualification(found, JudgeBars())}


@pytest.mark.parametrize("prof", [profile(), pairwise()], ids=["single", "pairwise"])
def test_a_good_judge_qualifies(tmp_path, prof):
    found, _, _ = tried(tmp_path, prof, good)
    assert all(passed(found).values())
    assert {share.name: share.rate for share in found.ranking} == dict.fromkeys(
        ("all", "truncated", "shuffled", "looped", "wrong-number", "empty", "wrong-language"), 1.0
    )


@pytest.mark.parametrize("prof", [profile(), pairwise()], ids=["single", "pairwise"])
def test_a_judge_that_believes_what_it_reads_fails_on_plants_alone(tmp_path, prof):
    found, _, _ = tried(tmp_path, prof, gullible)
    assert {name for name, ok in passed(found).items() if not ok} == {"resistance"}


def test_a_judge_that_prefers_the_first_place_fails_on_ranking_and_place(tmp_path):
    found, _, _ = tried(tmp_path, pairwise(), first_shown)
    assert found.position is not None
    assert (found.position.bias, found.position.inconsistent.rate, found.ranking[0].rate) == (1.0, 1.0, 0.0)
    assert {name for name, ok in passed(found).items() if not ok} == {"ranking", "position"}


def test_probes_are_made_of_one_turn_of_each_question_and_always_the_same(tmp_path):
    made = material(profile())
    records = [record(n) for n in range(25)]
    probes = probe_questions(made, records, answers=10, seed=0)
    assert len({asked.probe.question for asked in probes}) == 10
    assert len({(asked.probe.question, asked.probe.turn) for asked in probes}) == 10
    assert {asked.probe.turn for asked in probes} == {1, 2}
    assert probes == probe_questions(made, records[::-1], answers=10, seed=0)
    assert probes != probe_questions(made, records, answers=10, seed=1)


def test_answers_too_short_or_unreadable_are_no_material():
    records = [record(0, "Short.", "Short too."), record(1, "so it goes " * 60, "!" * 300)]
    with pytest.raises(UsageError, match="longer answers"):
        probe_questions(material(profile(), 2), records, answers=5, seed=0)


def test_the_bad_answer_is_bad_and_the_planted_one_holds_it():
    probes = probe_questions(material(profile()), [record(0)], answers=1, seed=0)
    texts = {asked.probe.kind: asked.question.answers[-1] for asked in probes}
    assert texts["bad"] == BAD
    assert texts["injection"].startswith(BAD)


def test_what_was_tried_is_never_tried_again_and_a_stopped_trial_goes_on(tmp_path):
    with pytest.raises(InterruptedRunError, match="at most 20 questions"):
        tried(tmp_path, profile(), good, budget=Budget(max_calls=20))
    whole, judge, probes = tried(tmp_path, profile(), good)
    keys = {asked.question.key for asked in probes}
    assert len(judge.asked) == len(keys) - 20
    again, idle, _ = tried(tmp_path, profile(), lambda _answers: "[[1]]")
    assert idle.asked == []
    assert again == whole


def test_a_dead_judge_is_no_verdict(tmp_path):
    with pytest.raises(EngineError, match="32 consecutive judge requests failed"):
        tried(tmp_path, profile(), lambda _answers: Failure(kind="transport", message="down"))


def test_a_judge_that_sometimes_fails_is_asked_again_next_time(tmp_path):
    def flaky(answers):
        failed = int(text_digest(answers[0])[:4], 16) % 5 == 0
        return Failure(kind="transport", message="503") if failed else good(answers)

    first, judge, _ = tried(tmp_path, profile(), flaky)
    assert first.statuses["api_error"] > 0
    assert first.ranking[0].unread > 0
    second, again, _ = tried(tmp_path, profile(), good)
    assert 0 < len(again.asked) < len(judge.asked)
    assert second.ranking[0].rate == 1.0


@pytest.mark.parametrize("prof", [profile(), pairwise()], ids=["single", "pairwise"])
def test_pairs_that_people_voted_on_are_put_in_both_orders(tmp_path, prof):
    pair = VotedPair(name="3/1/a/b", question_id=3, turn=1, answers_a=(answer(3, 1),), answers_b=(BAD,))
    asked = vote_questions(material(prof), [item(n) for n in range(25)], [pair])
    assert [(one.probe.kind, one.probe.name, one.probe.order) for one in asked] == [
        ("vote", "3/1/a/b", 0),
        ("vote", "3/1/a/b", 1),
    ]
    with RatingStore(tmp_path, "j", "p") as store:
        rows = qualify(asked, prof, Judge(good), store=store, progress=False)
    assert [row.score for row in rows] == ([1.0, 1.0] if prof.mode == "pairwise" else [9.0, 2.0])
    with pytest.raises(UsageError, match="question 99"):
        vote_questions(material(prof), [item(3)], [VotedPair(**{**_fields(pair), "question_id": 99})])


def _fields(pair: VotedPair) -> dict:
    return {name: getattr(pair, name) for name in ("name", "question_id", "turn", "answers_a", "answers_b")}
