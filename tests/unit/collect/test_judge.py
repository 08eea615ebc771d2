from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, ScoreReply
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.cli.judge import _refuse_nothing
from evalkit.collect import judge
from evalkit.collect.ratings import Budget
from evalkit.definitions import JudgeProfile
from evalkit.errors import DataError, EngineError, IdentityMismatchError, InterruptedRunError, UsageError
from evalkit.records import EngineIdentity, Item, Manifest, Record, TaskRun, TextReply, Turn, text_digest
from evalkit.store import RunFolder, read_run

PROMPTS = {
    "source": "inline",
    "turn_1": "T1 {question_1}|{answer_1}",
    "turn_1_with_reference": "T1R {question_1}|{reference_1}|{answer_1}",
    "turn_2": "T2 {question_1}|{answer_1}|{question_2}|{answer_2}",
    "turn_2_with_reference": "T2R {question_1}|{reference_1}|{answer_1}|{question_2}|{reference_2}|{answer_2}",
}


def profile(**changes) -> JudgeProfile:
    return JudgeProfile(**{"name": "strict", "answer": "rating_text", "prompts": PROMPTS, "max_tokens": 64, **changes})


def identity(model: str) -> EngineIdentity:
    return EngineIdentity(
        adapter="fake",
        model=model,
        weights_sha256="a" * 64,
        recipe="none",
        recipe_sha256=None,
        fidelity="engine",
        quantization={},
        dtype="float32",
        tokenizer_sha256="b" * 64,
        chat_template_sha256=None,
        versions={},
        device="cpu",
    )


class FakeJudge:
    """Answers with `say(user text)`; records what it was asked."""

    def __init__(self, say=lambda _text: "Fine. [[7]]", model="judge", stop_after=None):
        self.say, self.identity, self.stop_after = say, identity(model), stop_after
        self.asked: list = []

    def generate(self, requests):
        for index, request in enumerate(requests):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            said = self.say(request.prompt[-1].content)
            yield (
                index,
                said
                if isinstance(said, (Failure, Generation))
                else Generation(text=said, finish="stop", prompt_tokens=5, completion_tokens=2),
            )

    def score(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request)
            count = len(request.continuations)
            yield index, ScoreReply(logprobs=(math.log(0.1),) * count, greedy=(False,) * count, tokens=(1,) * count)

    def close(self):
        pass


def items(count: int) -> list[Item]:
    made = [
        Item(
            task="talk",
            subject="math" if number % 2 else "writing",
            item_sha256=text_digest(str(number)),
            occurrence=0,
            prompt_sha256=text_digest(f"p{number}"),
            target_sha256=text_digest(""),
            doc={},
            turns=(f"q{number}a", f"q{number}b"),
            details={"references": {"cor1": [f"r{number}a", f"r{number}b"]} if number % 2 else {}},
        )
        for number in range(count)
    ]
    return sorted(made, key=lambda one: one.key)


def record(item: Item, texts: tuple[str, str] | None, finish: str = "stop") -> Record:
    reply = texts and TextReply(
        turns=tuple(Turn(text=text, finish=finish, prompt_tokens=1, completion_tokens=1) for text in texts)
    )
    return Record(
        task=item.task,
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=0,
        prompt_sha256=item.prompt_sha256,
        target_sha256=item.target_sha256,
        status="ok" if reply else "failed",
        failure=None if reply else "transport: gone",
        reply=reply,
    )


def run(path, answers, count=6) -> RunFolder:
    """A finished run; `answers(number of the item in order)` gives both texts, or None for a failure."""
    asked = TaskRun(
        definition_sha256="d" * 64,
        kind="conversation",
        protocol="p",
        shots=0,
        metric="rating",
        chance=None,
        planned=count,
        item_set_sha256=item_set_sha256(items(count)),
        prompts_sha256="f" * 64,
        dataset={},
        settings={"generations": 1},
    )
    manifest = Manifest(evalkit="0", engine=identity(path.name), tasks={"talk": asked}, created_at="2020-01-01")
    folder = RunFolder.create_or_resume(path, manifest)
    folder.write_items("talk", items(count))
    if not folder.done_keys("talk"):
        folder.append_records("talk", [record(item, answers(place)) for place, item in enumerate(items(count))])
        folder.finish("talk")
    return folder


def judged(path):
    return read_run(path).judgments["talk"]


def ask(folders, engine, prof=None, **options):
    options = {"references": "cor1", "progress": False, **options}
    return judge(folders, "talk", prof or profile(), engine, **options)


def test_every_turn_of_every_answer_is_judged_once(tmp_path):
    engine = FakeJudge()
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as one, run(tmp_path / "b", lambda n: (f"c{n}", "d")) as two:
        summary = ask([one, two], engine)
    assert (summary.planned, summary.ok, summary.reused, len(engine.asked)) == (24, 24, 0, 24)
    assert len(judged(tmp_path / "a")) == len(judged(tmp_path / "b")) == 12
    assert {found.score for found in judged(tmp_path / "a")} == {7.0}
    said = read_run(tmp_path / "a").manifest.judges["talk"]
    assert (said.planned, said.repeats, said.scale, said.profile) == (12, 1, (1.0, 10.0), "strict")


def test_the_judge_is_blind_and_the_runs_are_mixed(tmp_path):
    engine = FakeJudge()
    with (
        run(tmp_path / "a", lambda n: ("left", "left"), 20) as one,
        run(tmp_path / "b", lambda n: ("right", "no"), 20) as two,
    ):
        ask([one, two], engine)
    texts = [request.prompt[-1].content for request in engine.asked]
    sides = ["left" in text for text in texts]
    assert sum(sides) == 40
    assert sum(first != second for first, second in pairwise(sides)) > 10
    assert not any(str(tmp_path) in text or "baseline" in text for text in texts)


def test_references_are_given_where_the_category_needs_them(tmp_path):
    engine = FakeJudge()
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as folder:
        ask([folder], engine)
    texts = sorted(request.prompt[-1].content.split()[0] for request in engine.asked)
    assert texts == ["T1"] * 3 + ["T1R"] * 3 + ["T2"] * 3 + ["T2R"] * 3
    assert all("|r" in request.prompt[-1].content for request in engine.asked if "R " in request.prompt[-1].content)


def test_without_a_set_no_reference_is_given(tmp_path):
    engine = FakeJudge()
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as folder:
        ask([folder], engine, references=None)
    assert not any("R " in request.prompt[-1].content for request in engine.asked)
    assert read_run(tmp_path / "a").manifest.judges["talk"].references_sha256 is None


def test_a_missing_reference_is_a_wrong_request(tmp_path):
    with (
        run(tmp_path / "a", lambda n: ("a", "b")) as folder,
        pytest.raises(UsageError, match="no 'original' reference"),
    ):
        ask([folder], FakeJudge(), references="original")


def test_equal_answers_are_one_question(tmp_path):
    engine = FakeJudge()
    with (
        run(tmp_path / "a", lambda n: (f"a{n}", "same")) as one,
        run(tmp_path / "b", lambda n: (f"a{n}", "same" if n else "other")) as two,
    ):
        summary = ask([one, two], engine)
    assert (summary.ok, summary.reused, len(engine.asked)) == (24, 11, 13)
    left, right = judged(tmp_path / "a"), judged(tmp_path / "b")
    assert len({found.key for found in left} & {found.key for found in right}) == 11


def test_repeats_are_different_questions(tmp_path):
    engine = FakeJudge()
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        summary = ask([folder], engine, repeats=3)
    assert (summary.planned, summary.ok, len(engine.asked)) == (12, 12, 12)
    assert len({request.seed for request in engine.asked}) == 12


def test_unreadable_answers_are_scored_by_rule_without_asking(tmp_path):
    engine = FakeJudge()
    answers = [("", "fine"), ("fine", "yes it is so " * 60), ("fine", "!" * 50)]
    with run(tmp_path / "a", lambda n: answers[n], 3) as folder:
        summary = ask([folder], engine)
    assert summary.by_status == {"ok": 3, "rule": 3}
    assert len(engine.asked) == 3
    ruled = [found for found in judged(tmp_path / "a") if found.status == "rule"]
    assert {(found.score, found.details["rule"]) for found in ruled} == {(1.0, "empty"), (1.0, "degenerate")}


def test_failed_records_have_nothing_to_judge(tmp_path):
    with run(tmp_path / "a", lambda n: None if n == 0 else (f"a{n}", "b")) as folder:
        summary = ask([folder], FakeJudge())
    assert (summary.planned, summary.ok) == (12, 10)


def test_statuses_instead_of_a_number(tmp_path):
    def say(text):
        if "|a0" in text:
            return "no rating"
        if "|a1" in text:
            return "[[11]]"
        if "|a2" in text:
            return Generation(text="[[5]] and", finish="length", prompt_tokens=1, completion_tokens=64)
        return Failure(kind="refused", message="no") if "|a3" in text else Failure(kind="transport", message="503")

    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as folder:
        summary = ask([folder], FakeJudge(say))
    assert summary.by_status == {"api_error": 4, "out_of_range": 2, "refused": 2, "truncated": 2, "unparsed": 2}
    assert all(found.score is None for found in judged(tmp_path / "a"))


def test_one_informed_second_question(tmp_path):
    def say(text):
        return "[[4]]" if text.startswith("Your reply could not be read") else "eleven"

    engine = FakeJudge(say)
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        summary = ask([folder], engine, profile(reask=True))
    assert summary.by_status == {"ok": 4}
    assert len(engine.asked) == 8
    again = engine.asked[-1].prompt
    assert [message.role for message in again] == ["user", "assistant", "user"]
    assert again[1].content == "eleven"
    assert "no verdict in the form asked for" in again[2].content
    assert all(found.details["first_text"] == "eleven" for found in judged(tmp_path / "a"))


def test_a_second_unreadable_reply_stays_unparsed(tmp_path):
    engine = FakeJudge(lambda text: "eleven")
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        summary = ask([folder], engine, profile(reask=True))
    assert summary.by_status == {"unparsed": 4}
    assert len(engine.asked) == 8


def test_ratings_by_probability(tmp_path):
    engine = FakeJudge()
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        summary = ask([folder], engine, profile(answer="rating_logprob"))
    assert summary.ok == 4
    assert engine.asked[0].continuations == tuple(f" {n}" for n in range(1, 11))
    found = judged(tmp_path / "a")[0]
    assert found.score == pytest.approx(5.5)
    assert found.details["mass"] == pytest.approx(1)
    assert len(found.details["probabilities"]) == 10


def test_a_stopped_judging_resumes_and_ends_in_the_same_bytes(tmp_path):
    for name, stop_after in (("whole", None), ("cut", 20)):
        (tmp_path / name).mkdir()
        with run(tmp_path / name / "x", lambda n: (f"a{n}", f"b{n}"), 20) as folder:
            engine = FakeJudge(stop_after=stop_after)
            if stop_after is None:
                ask([folder], engine)
            else:
                with pytest.raises(InterruptedRunError, match="20 of 40"):
                    ask([folder], engine)
                rest = FakeJudge()
                summary = ask([folder], rest)
                assert (summary.found, summary.ok, len(rest.asked)) == (20, 20, 20)
    whole, cut = (tmp_path / name / "x" / "judgments" / "talk.jsonl" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_later_run_shares_verdicts_that_are_on_the_disk(tmp_path):
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as one:
        ask([one], FakeJudge())
        engine = FakeJudge()
        with run(tmp_path / "b", lambda n: (f"a{n}", f"b{n}")) as two:
            summary = ask([one, two], engine)
    assert (summary.found, summary.reused, engine.asked) == (12, 12, [])


def test_another_judge_is_refused(tmp_path):
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}")) as folder:
        ask([folder], FakeJudge())
        with pytest.raises(IdentityMismatchError, match=r"identity\.model: folder has 'judge', asked for 'other'"):
            ask([folder], FakeJudge(model="other"))
        with pytest.raises(IdentityMismatchError, match="profile_sha256"):
            ask([folder], FakeJudge(), profile(max_tokens=65))


def test_failures_of_the_judge_can_be_asked_again(tmp_path):
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 4) as folder:
        ask([folder], FakeJudge(lambda text: Failure(kind="transport", message="x") if "|a1" in text else "[[3]]"))
        idle = FakeJudge()
        ask([folder], idle)
        assert idle.asked == []
        summary = ask([folder], FakeJudge(), retry_failed=True)
    assert (summary.found, summary.ok) == (6, 2)


def test_a_dead_judge_stops_the_run_and_leaves_nothing_behind(tmp_path):
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 40) as folder:
        with pytest.raises(EngineError, match="32 consecutive judge requests failed"):
            ask([folder], FakeJudge(lambda text: Failure(kind="transport", message="refused")))
        assert len(folder.judgments("talk")) < 32


def test_only_conversations_are_judged(tmp_path):
    with (
        run(tmp_path / "a", lambda n: ("a", "b")) as folder,
        pytest.raises(UsageError, match="'other' is not in this run"),
    ):
        judge([folder], "other", profile(), FakeJudge(), references=None, progress=False)


def test_runs_with_different_questions_are_judged_apart(tmp_path):
    with run(tmp_path / "a", lambda n: ("a", "b")) as one, run(tmp_path / "b", lambda n: ("a", "b")) as two:
        task = replace(two.manifest.tasks["talk"], prompts_sha256="0" * 64)
        two._manifest = replace(two.manifest, tasks={"talk": task})
        with pytest.raises(UsageError, match="different questions"):
            ask([one, two], FakeJudge())


def test_too_many_unreadable_replies_are_told_after_the_first_batch_with_the_next_step(tmp_path):
    said = []

    def thinks(text):
        assert len(said) <= 2, "the estimate and one warning"
        return "<think>I lean to [[9]] but" if "|a" in text else "[[4]]"

    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 20) as folder:
        ask([folder], FakeJudge(thinks), say=said.append)
    (warning,) = [line for line in said if line.startswith("warning: ")]
    assert "of 16 replies of the judge hold no rating (unparsed)" in warning
    assert "<think>I lean to" in warning
    assert "--reasoning-parser" in warning


def test_a_few_unreadable_replies_are_no_warning(tmp_path):
    said = []
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 20) as folder:
        ask(
            [folder],
            FakeJudge(lambda text: "hm" if text.startswith("T1") and "|a3" in text else "[[4]]"),
            say=said.append,
        )
    assert not [line for line in said if line.startswith("warning: ")]


def test_a_judging_without_any_verdict_is_refused_with_the_next_step(tmp_path):
    with run(tmp_path / "a", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        ask([folder], FakeJudge(lambda text: "<think>[[9]]"))
    with pytest.raises(DataError, match=r"none of 4 judgments holds a rating.*reasoning parser") as caught:
        _refuse_nothing([tmp_path / "a"], ["talk"])
    assert caught.value.exit_code == 4
    with run(tmp_path / "b", lambda n: (f"a{n}", f"b{n}"), 2) as folder:
        ask([folder], FakeJudge(lambda text: "[[9]]" if "|a1" in text else "hm"))
    _refuse_nothing([tmp_path / "b"], ["talk"])


def test_replies_that_were_paid_and_not_used_count_against_the_cap():
    request = GenerateRequest(prompt="x" * 100, max_tokens=50)
    budget = Budget(price=(0.0, 10_000.0), max_cost=1.2)  # 0.5 for a reply at its limit
    assert budget.affordable([request] * 5) == 2
    budget.reserve([request] * 2)
    assert budget.wasted(30, 20), "0.2 spent, 1.0 on its way"
    assert not budget.wasted(30, 50), "0.7 spent, 1.0 on its way: no further try"
    budget.used(request, Failure(kind="transport", message="unreadable", counted=True))
    budget.used(request, Generation(text="", finish="length", prompt_tokens=30, completion_tokens=50))
    assert (budget.calls, budget.prompt_tokens, budget.completion_tokens) == (2, 90, 120)
    assert budget.cost == pytest.approx(1.2)
    with pytest.raises(InterruptedRunError, match="the cap is reached"):
        budget.affordable([request])
