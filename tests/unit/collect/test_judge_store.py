"""What was judged once is not asked again, and what is no longer there is: judgment store, stale answers, caps."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, ScoreReply, ScoreRequest
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.collect import judge
from evalkit.collect.ratings import Budget, most_tokens
from evalkit.definitions import JudgeProfile
from evalkit.errors import DataError, InterruptedRunError, StoreError, UsageError
from evalkit.records import EngineIdentity, Item, Manifest, Record, TaskRun, TextReply, Turn, text_digest
from evalkit.store import RatingStore, RunFolder, read_run

PROMPTS = {
    "source": "inline",
    "turn_1": "T1 {question_1}|{answer_1}|",
    "turn_1_with_reference": "T1R {question_1}|{reference_1}|{answer_1}|",
    "turn_2": "T2 {question_1}|{answer_1}|{question_2}|{answer_2}|",
    "turn_2_with_reference": "T2R {question_1}|{reference_1}|{answer_1}|{question_2}|{reference_2}|{answer_2}|",
}
QUESTIONS = 6


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


class Judge:
    """Says 7, or what `say(user text, time asked)` returns; keeps what it was asked."""

    def __init__(self, say=lambda _text, _time: "[[7]]", model="judge"):
        self.say, self.identity = say, identity(model)
        self.asked: list = []
        self.times: Counter[str] = Counter()

    def generate(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request)
            text = request.prompt[0].content
            self.times[text] += 1
            said = self.say(text, self.times[text])
            if isinstance(said, str):
                said = Generation(text=said, finish="stop", prompt_tokens=50, completion_tokens=4)
            yield index, said

    def score(self, requests):
        for index, request in enumerate(requests):
            self.asked.append(request)
            k = len(request.continuations)
            yield index, ScoreReply(logprobs=(math.log(0.05),) * k, greedy=(False,) * k, tokens=(1,) * k)

    def close(self):
        pass


def items() -> list[Item]:
    made = [
        Item(
            task="talk",
            subject="writing",
            item_sha256=text_digest(str(number)),
            occurrence=0,
            prompt_sha256="p",
            target_sha256="t",
            doc={},
            turns=(f"q{number}a", f"q{number}b"),
        )
        for number in range(QUESTIONS)
    ]
    return sorted(made, key=lambda one: one.key)


def record(item: Item, *texts: str) -> Record:
    turns = tuple(Turn(text=text, finish="stop", prompt_tokens=1, completion_tokens=1) for text in texts)
    return Record(
        task="talk",
        subject=item.subject,
        item_sha256=item.item_sha256,
        occurrence=0,
        prompt_sha256="p",
        target_sha256="t",
        status="ok",
        reply=TextReply(turns=turns),
    )


def run(path, word) -> RunFolder:
    asked = TaskRun(
        definition_sha256="d",
        kind="conversation",
        protocol="p",
        shots=0,
        metric="rating",
        chance=None,
        planned=QUESTIONS,
        item_set_sha256=item_set_sha256(items()),
        prompts_sha256="f",
        dataset={},
        settings={"generations": 1},
    )
    manifest = Manifest(evalkit="0", engine=identity(path.name), tasks={"talk": asked}, created_at="2020-01-01")
    folder = RunFolder.create_or_resume(path, manifest)
    folder.write_items("talk", items())
    if not folder.done_keys("talk"):
        folder.append_records("talk", [record(item, f"{word}{n}a", f"{word}{n}b") for n, item in enumerate(items())])
        folder.finish("talk")
    return folder


def ask(folders, engine, prof=None, **options):
    return judge(folders, "talk", prof or profile(), engine, references=None, progress=False, **options)


def regenerate(path, place, *texts):
    """Replace one record of a run by another answer, as a new generation would."""
    file = path / "records" / "talk.jsonl"
    records = [Record.from_json(line) for line in file.read_text().splitlines()]
    records[place] = record(items()[place], *texts)
    file.write_text("".join(one.to_json() + "\n" for one in records))


def test_only_the_judgments_of_a_regenerated_answer_are_redone(tmp_path):
    with run(tmp_path / "a", "x") as folder:
        ask([folder], Judge())
    before = read_run(tmp_path / "a").judgments["talk"]
    regenerate(tmp_path / "a", 2, "x2a", "a new second answer")
    engine = Judge()
    with run(tmp_path / "a", "x") as folder:
        summary = ask([folder], engine)
    assert (summary.stale, summary.found, summary.ok, len(engine.asked)) == (1, 11, 1, 1)
    assert "a new second answer" in engine.asked[0].prompt[0].content
    after = read_run(tmp_path / "a").judgments["talk"]
    assert len(after) == 12
    assert len(set(map(str, before)) & set(map(str, after))) == 11


def test_a_regenerated_first_answer_makes_both_turns_stale(tmp_path):
    with run(tmp_path / "a", "x") as folder:
        ask([folder], Judge())
    regenerate(tmp_path / "a", 0, "new", "x0b")
    with run(tmp_path / "a", "x") as folder:
        assert ask([folder], Judge()).stale == 2


def test_another_run_takes_verdicts_of_equal_answers_from_the_store(tmp_path):
    with run(tmp_path / "a", "x") as folder:
        ask([folder], Judge(), store=tmp_path / "store")
    engine = Judge(lambda text, _time: "[[3]]")
    with run(tmp_path / "elsewhere", "x") as folder:
        summary = ask([folder], engine, store=tmp_path / "store")
    assert (summary.ok, summary.reused, engine.asked) == (12, 12, [])
    assert {found.score for found in read_run(tmp_path / "elsewhere").judgments["talk"]} == {7.0}


@pytest.mark.parametrize("change", [{"model": "other"}, {"profile": profile(temperature=0.5)}, {"repeats": 2}])
def test_another_judge_profile_or_repeat_is_another_question(tmp_path, change):
    with run(tmp_path / "a", "x") as folder:
        ask([folder], Judge(), store=tmp_path / "store")
    engine = Judge(model=change.get("model", "judge"))
    with run(tmp_path / "b", "x") as folder:
        ask([folder], engine, change.get("profile"), store=tmp_path / "store", repeats=change.get("repeats", 1))
    assert len(engine.asked) == 12


def test_a_failure_of_the_judge_is_never_stored(tmp_path):
    with run(tmp_path / "a", "x") as folder:
        ask([folder], Judge(lambda text, _time: Failure(kind="transport", message="503")), store=tmp_path / "store")
    engine = Judge()
    with run(tmp_path / "b", "x") as folder:
        ask([folder], engine, store=tmp_path / "store")
    assert len(engine.asked) == 12


def test_a_store_that_a_crash_cut_is_repaired_and_one_that_is_damaged_is_named(tmp_path):
    with RatingStore(tmp_path, "j" * 64, "p" * 64) as store:
        store.add([{"key": "k", "status": "ok", "score": 7.0, "text": "", "details": {}}])
        with pytest.raises(StoreError, match="is writing"):
            RatingStore(tmp_path, "j" * 64, "p" * 64)
    with store.file.open("ab") as file:
        file.write(b'{"key": "half')
    with RatingStore(tmp_path, "j" * 64, "p" * 64) as store:
        assert store.find({"k", "other"}).keys() == {"k"}
        store.file.write_text('{"key": "k"}\n')
        with pytest.raises(DataError, match="not a rating"):
            store.find({"k"})


def test_a_cap_on_questions_holds_and_the_rest_is_asked_later(tmp_path):
    with run(tmp_path / "a", "x") as folder:
        engine = Judge()
        with pytest.raises(InterruptedRunError, match=r"after 5 questions .*at most 5 questions"):
            ask([folder], engine, budget=Budget(max_calls=5))
        assert len(engine.asked) == 5
        assert len(folder.judgments("talk")) == 5
        rest = Judge()
        summary = ask([folder], rest, budget=Budget(max_calls=7))
    assert (summary.found, summary.ok, summary.calls, len(rest.asked)) == (5, 7, 7, 7)


def test_a_cap_on_questions_counts_second_questions_too(tmp_path):
    engine = Judge(lambda text, _time: "eleven")
    with run(tmp_path / "a", "x") as folder, pytest.raises(InterruptedRunError, match="at most 15 questions"):
        ask([folder], engine, profile(reask=True), budget=Budget(max_calls=15))
    assert len(engine.asked) == 15


@pytest.mark.parametrize("cap", [150, 400, 600])
def test_a_cap_on_tokens_is_never_passed(tmp_path, cap):
    budget = Budget(max_tokens=cap)
    with run(tmp_path / "a", "x") as folder, pytest.raises(InterruptedRunError, match="tokens"):
        ask([folder], Judge(), budget=budget)
    assert budget.prompt_tokens + budget.completion_tokens <= cap


def test_what_a_request_may_use_is_bounded_from_above():
    request = GenerateRequest(prompt=(Message(role="user", content="\u00e9\u4e2d"),), max_tokens=64)
    read, written = most_tokens(request)
    assert (read >= len("\u00e9\u4e2d".encode()), written) == (True, 64)
    scored = ScoreRequest(context="abc", continuations=(" 1", " 10"))
    read, written = most_tokens(scored)
    assert (read >= len("abc 10"), written) == (True, 0)


@pytest.mark.parametrize("cap", [0.0015, 0.002, 0.003])
def test_a_cap_on_money_is_never_passed_and_the_cost_is_said_before(tmp_path, cap):
    budget, said = Budget(price=(2.0, 20.0), max_cost=cap), []
    with run(tmp_path / "a", "x") as folder, pytest.raises(InterruptedRunError, match=f"a cost of at most {cap:g}"):
        ask([folder], Judge(), budget=budget, say=said.append)
    assert budget.cost == pytest.approx((budget.prompt_tokens * 2 + budget.completion_tokens * 20) / 1e6)
    assert budget.cost <= cap
    assert "at 2 and 20 per million tokens" in said[0]


def test_a_cap_on_money_needs_prices():
    with pytest.raises(UsageError, match="needs prices"):
        Budget(max_cost=5.0)
    assert Budget(max_calls=5).cost is None


def test_the_estimate_is_said_before_the_first_question(tmp_path):
    said: list[str] = []
    engine = Judge(lambda text, _time: f"{len(said)} said [[7]]")
    with run(tmp_path / "a", "x") as folder:
        ask([folder], engine, say=said.append)
        assert len(said) == 1
        assert said[0].startswith("talk: 12 questions to the judge")
        assert all(found.text.startswith("1 said") for found in folder.judgments("talk"))
        ask([folder], engine, say=said.append)
    assert len(said) == 1


def test_no_judgment_is_lost_whatever_the_judge_does(tmp_path):
    """Every way to fail, several of them repaired by the second question: the counts add up to what was planned."""
    ways = [
        lambda time: "[[8]]",
        lambda time: Failure(kind="transport", message="429 Too Many Requests"),
        lambda time: Failure(kind="transport", message="500"),
        lambda time: Failure(kind="transport", message="no byte for 300 s"),
        lambda time: Failure(kind="refused", message="content filter"),
        lambda time: '{"reasoning": "cut',
        lambda time: "I cannot rate this.",
        lambda time: Generation(text="[[5", finish="length", prompt_tokens=5, completion_tokens=64),
        lambda time: "[[42]]",
        lambda time: "",
        lambda time: "no" if time == 1 else "[[6]]",
        lambda time: "[[8.75]]",
    ]

    def say(text, time):
        return ways[int(text_digest(text.rsplit("|", 2)[1])[:6], 16) % len(ways)](time)

    with run(tmp_path / "a", "x") as one, run(tmp_path / "b", "y") as two:
        summary = ask([one, two], Judge(say), profile(reask=True))
    assert sum(summary.by_status.values()) == summary.planned == 24
    assert {"api_error", "refused", "unparsed", "out_of_range"} <= summary.by_status.keys()
    for name in "ab":
        found = read_run(tmp_path / name).judgments["talk"]
        assert len(found) == 12
        assert all((one.score is not None) == (one.status == "ok") for one in found)


def test_a_pairwise_profile_needs_an_opponent_and_a_single_one_has_none(tmp_path):
    pair = {"source": "inline"}
    for name, text in PROMPTS.items():
        if name != "source":
            second = "{answer_b_2}" if "turn_2" in name else ""
            pair[name] = text.replace("answer_", "answer_a_") + "{answer_b_1}" + second
    paired = profile(mode="pairwise", answer="choice_text", scale=(-1, 1), prompts=pair)
    with run(tmp_path / "a", "x") as folder, pytest.raises(UsageError, match="compares two runs"):
        ask([folder], Judge(), paired)


def test_a_schema_goes_with_the_question_of_a_structured_profile(tmp_path):
    engine = Judge(lambda text, _time: json.dumps({"reasoning": "", "rating": 4}))
    with run(tmp_path / "a", "x") as folder:
        assert ask([folder], engine, profile(answer="rating_json")).ok == 12
    assert json.loads(engine.asked[0].json_schema)["required"] == ["reasoning", "rating"]
