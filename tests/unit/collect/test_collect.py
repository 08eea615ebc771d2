from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest

from evalkit.adapters.base import SMALLER, Failure, ScoreReply
from evalkit.collect import collect, seed_of
from evalkit.collect.writing import Progress
from evalkit.errors import DataError, EngineError, InterruptedRunError, StoreError
from evalkit.records import Manifest
from evalkit.store import read_items, read_run


def records(fake, name="run"):
    return read_run(fake.root / name).records["quiz"]


def file_bytes(fake, name):
    return (fake.root / name / "records" / "quiz.jsonl").read_bytes()


@pytest.mark.parametrize("kind", ["choice", "text", "conversation"])
def test_every_item_gets_one_record_and_items_are_written_first(fake, kind):
    benchmark = fake.Benchmark(100, kind)
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, fake.Engine(), [benchmark], progress=False)
    assert (count.planned, count.found, count.written, count.failed) == (100, 0, 100, 0)
    assert len(records(fake)) == 100
    assert read_items(fake.root / "run", "quiz") == benchmark.items
    sidecar = [json.loads(line) for line in (fake.root / "run" / "timings.jsonl").read_text().splitlines()]
    assert sum(row["items"] for row in sidecar) == 100


def test_scores_carry_target_and_lengths(fake):
    benchmark = fake.Benchmark(1)
    with fake.open(benchmark) as folder:
        collect(folder, fake.Engine(), [benchmark], progress=False)
    (record,) = records(fake)
    assert (record.reply.target, record.reply.lengths, record.marks) == (1, (2, 3), {"acc": 1.0})


def test_a_resumed_run_asks_only_what_is_missing_and_ends_in_the_same_bytes(fake):
    benchmark = fake.Benchmark(150)
    with fake.open(benchmark, "whole") as folder:
        collect(folder, fake.Engine(), [benchmark], progress=False)
    with fake.open(benchmark) as folder, pytest.raises(RuntimeError, match="broken"):
        collect(folder, fake.Engine(break_at=90), [benchmark], progress=False)
    assert len(records(fake)) == 90
    engine = fake.Engine(reverse=False)
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, engine, [benchmark], progress=False)
    assert (count.found, count.written, len(engine.asked)) == (90, 60, 60)
    assert file_bytes(fake, "run") == file_bytes(fake, "whole")


def test_batches_that_memory_made_smaller_are_written_down_before_their_records_and_stay(fake):
    benchmark = fake.Benchmark(150)
    engine = fake.Engine(break_at=100)
    engine.warnings = ("another matter", f"scoring: {SMALLER}: memory did not suffice")
    with fake.open(benchmark) as folder, pytest.raises(RuntimeError, match="broken"):
        collect(folder, engine, [benchmark], progress=False)
    assert read_run(fake.root / "run").manifest.smaller_batches == (f"scoring: {SMALLER}: memory did not suffice",)
    with fake.open(benchmark) as folder:
        collect(folder, fake.Engine(), [benchmark], progress=False)
    manifest = read_run(fake.root / "run").manifest
    assert manifest.smaller_batches == (f"scoring: {SMALLER}: memory did not suffice",), "its first records are so"
    assert Manifest.from_json(manifest.to_json()) == manifest
    row = json.loads(manifest.to_json())
    del row["smaller_batches"], row["engine"]["processor"]
    assert Manifest.from_json(json.dumps(row)).smaller_batches == (), "as runs of before are read"


def test_the_order_of_work_changes_no_byte(fake):
    benchmark = fake.Benchmark(60)
    asked = []
    for name, seed in (("one", None), ("two", 5), ("three", 5), ("four", 6)):
        engine = fake.Engine()
        with fake.open(benchmark, name) as folder:
            collect(folder, engine, [benchmark], order_seed=seed, progress=False)
        asked.append([request.context for request in engine.asked])
    assert asked[0] != asked[1] == asked[2] != asked[3]
    assert len({file_bytes(fake, name) for name in ("one", "two", "three", "four")}) == 1


def test_stopping_on_request_keeps_what_is_done_and_says_how_to_resume(fake):
    benchmark = fake.Benchmark(100)
    with fake.open(benchmark) as folder, pytest.raises(InterruptedRunError) as caught:
        collect(folder, fake.Engine(break_at=70, error=KeyboardInterrupt()), [benchmark], progress=False)
    assert "70 of 100" in str(caught.value)
    assert "evalkit run suite.yaml" in str(caught.value)
    assert len(records(fake)) == 70


def test_failures_are_recorded_count_as_done_and_can_be_asked_again(fake):
    benchmark = fake.Benchmark(80)
    bad = {f"{number}?" for number in range(10)}
    engine = fake.Engine(fail=lambda prompt: Failure(kind="too-long", message="9 tokens") if prompt in bad else None)
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, engine, [benchmark], progress=False)
        assert (count.written, count.failed) == (80, 10)
        failed = [record for record in records(fake) if record.status == "failed"]
        assert {record.failure for record in failed} == {"too-long: 9 tokens"}
        again = fake.Engine()
        assert collect(folder, again, [benchmark], progress=False)[0].written == 0
        assert again.asked == []
        (retried,) = collect(folder, again, [benchmark], retry_failed=True, progress=False)
        assert (retried.found, retried.written, retried.failed) == (70, 10, 0)
    assert all(record.status == "ok" for record in records(fake))


@pytest.mark.parametrize(("place", "stops"), [(31, True), (32, False)])
def test_the_trial_is_the_first_32_items(fake, place, stops):
    benchmark = fake.Benchmark(100)
    victim = benchmark.items[place].context
    engine = fake.Engine(
        fail=lambda prompt: Failure(kind="non-finite", message="nan") if prompt == victim else None, reverse=False
    )
    with fake.open(benchmark) as folder:
        if stops:
            with pytest.raises(EngineError, match="non-finite number among the first 32"):
                collect(folder, engine, [benchmark], progress=False)
            assert len(folder.done_keys("quiz")) == 31
        else:
            assert collect(folder, engine, [benchmark], progress=False)[0].failed == 1


def test_an_adapter_that_lets_a_nan_through_is_caught(fake):
    class Leaky(fake.Engine):
        def score(self, requests):
            yield 0, ScoreReply(logprobs=(float("nan"), -1.0), greedy=(True, False), tokens=(1, 1))

    benchmark = fake.Benchmark(1)
    with fake.open(benchmark) as folder, pytest.raises(EngineError, match="non-finite"):
        collect(folder, Leaky(), [benchmark], progress=False)
    assert records(fake) == ()


def test_an_engine_that_only_fails_is_stopped_and_nothing_is_written(fake):
    benchmark = fake.Benchmark(100)
    engine = fake.Engine(fail=lambda _prompt: Failure(kind="transport", message="refused"))
    with fake.open(benchmark) as folder, pytest.raises(EngineError, match="each of the first 32 items failed"):
        collect(folder, engine, [benchmark], progress=False)
    assert records(fake) == ()


def test_an_engine_that_dies_is_stopped_and_its_last_failures_are_asked_again(fake):
    benchmark = fake.Benchmark(300)
    alive = {one.context for one in benchmark.items[:128]}
    engine = fake.Engine(
        fail=lambda prompt: None if prompt in alive else Failure(kind="transport", message="gone"), reverse=False
    )
    with fake.open(benchmark) as folder:
        with pytest.raises(EngineError, match="64 items in a row failed"):
            collect(folder, engine, [benchmark], progress=False)
        assert len(folder.done_keys("quiz")) == 128
        assert collect(folder, fake.Engine(), [benchmark], progress=False)[0].written == 172


@pytest.mark.parametrize("kind", ["transport", "refused", "engine", "out-of-memory"])
@pytest.mark.parametrize("good", [33, 64, 65, 100, 127, 190])
def test_no_failure_of_a_dead_engine_is_written_wherever_it_dies(fake, good, kind):
    """Batches of 64 end in the middle of a streak; 190 of 200: the task ends before the streak is long."""
    benchmark = fake.Benchmark(200)
    asked = []

    def dead(prompt):
        asked.append(prompt)
        return Failure(kind=kind, message="gone") if len(asked) > good else None

    with fake.open(benchmark) as folder:
        with pytest.raises(EngineError, match=r"items (in a row )?failed.*which resumes"):
            collect(folder, fake.Engine(fail=dead, reverse=False), [benchmark], progress=False)
        assert len(folder.done_keys("quiz")) == good
        assert {record.status for record in records(fake)} == {"ok"}
        assert collect(folder, fake.Engine(), [benchmark], progress=False)[0].written == 200 - good


def test_failures_at_the_end_are_the_items_own_where_the_engine_still_works(fake):
    benchmark = fake.Benchmark(100)
    bad = {one.context for one in benchmark.items[90:]}
    asked = []

    def refuse(prompt):
        asked.append(prompt)
        return Failure(kind="refused", message="no") if prompt in bad else None

    with fake.open(benchmark) as folder:
        count = collect(folder, fake.Engine(fail=refuse, reverse=False), [benchmark], progress=False)[0]
    assert (count.written, count.failed) == (100, 10)
    assert asked[100:] == [benchmark.items[89].context], "the last that succeeded was asked once more"


def test_failures_that_no_machine_causes_are_not_doubted(fake):
    benchmark = fake.Benchmark(100)
    bad = {one.context for one in benchmark.items[90:]}
    asked = []

    def refuse(prompt):
        asked.append(prompt)
        return Failure(kind="too-long", message="9000 tokens") if prompt in bad else None

    with fake.open(benchmark) as folder:
        assert collect(folder, fake.Engine(fail=refuse, reverse=False), [benchmark], progress=False)[0].failed == 10
    assert len(asked) == 100


def test_a_stop_in_a_streak_keeps_what_succeeded_and_forgets_the_streak(fake):
    benchmark = fake.Benchmark(100)
    asked = []

    def stop(prompt):
        asked.append(prompt)
        if len(asked) > 60:
            raise KeyboardInterrupt
        return Failure(kind="transport", message="gone") if len(asked) > 40 else None

    with fake.open(benchmark) as folder:
        with pytest.raises(InterruptedRunError, match="40 of 100 records"):
            collect(folder, fake.Engine(fail=stop, reverse=False), [benchmark], progress=False)
        assert len(folder.done_keys("quiz")) == 40


@pytest.mark.parametrize("replies", [[], [0, 0], [5]])
def test_an_engine_that_miscounts_is_an_error(fake, replies):
    class Careless(fake.Engine):
        def score(self, requests):
            for index in replies:
                yield index, ScoreReply(logprobs=(-1.0, -2.0), greedy=(True, False), tokens=(1, 1))

    benchmark = fake.Benchmark(2)
    with fake.open(benchmark) as folder, pytest.raises(EngineError, match="request"):
        collect(folder, Careless(), [benchmark], progress=False)


def test_a_wrong_number_of_scores_is_an_error(fake):
    class Short(fake.Engine):
        def score(self, requests):
            yield 0, ScoreReply(logprobs=(-1.0,), greedy=(True,), tokens=(1,))

    benchmark = fake.Benchmark(1)
    with fake.open(benchmark) as folder, pytest.raises(EngineError, match="1 scores for 2"):
        collect(folder, Short(), [benchmark], progress=False)


def test_a_reply_that_cannot_be_marked_is_a_failure(fake):
    class Strict(fake.Benchmark):
        def mark(self, item, reply):
            if item.doc["number"] == 3:
                raise DataError("no finite value")
            return super().mark(item, reply)

    benchmark = Strict(40)
    with fake.open(benchmark) as folder:
        collect(folder, fake.Engine(), [benchmark], progress=False)
    assert [record.failure for record in records(fake) if record.status == "failed"] == ["marking: no finite value"]


def test_the_second_turn_is_conditioned_on_the_engine_s_own_answer(fake):
    benchmark = fake.Benchmark(40, "conversation", samples=2)
    engine = fake.Engine()
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, engine, [benchmark], progress=False)
    assert count.written == 80
    second = [request for request in engine.asked if len(request.prompt) == 3]
    assert len(second) == 80
    for request in second:
        user, assistant, last = request.prompt
        assert (user.role, assistant.role, last.role) == ("user", "assistant", "user")
        assert assistant.content.endswith(user.content)
    assert {(request.max_tokens, request.temperature, request.stop) for request in engine.asked} == {
        (7, 0.5, ("\n\n",))
    }


def test_seeds_belong_to_item_sample_and_turn(fake):
    seeds = {seed_of(fake.item(number), sample, turn) for number in (1, 2) for sample in (0, 1) for turn in (1, 2)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(fake.item(1), 0, 1) == seed_of(fake.item(1), 0, 1)


def test_a_conversation_that_fails_at_its_second_turn_is_a_failure(fake):
    benchmark = fake.Benchmark(40, "conversation")
    engine = fake.Engine(fail=lambda prompt: Failure(kind="too-long", message="x") if prompt == "7 two" else None)
    with fake.open(benchmark) as folder:
        collect(folder, engine, [benchmark], progress=False)
    failed = [record for record in records(fake) if record.status == "failed"]
    assert [record.failure for record in failed] == ["too-long: x (turn 2)"]


def test_an_interrupted_conversation_loses_at_most_its_block(fake):
    benchmark = fake.Benchmark(80, "conversation")
    engine = fake.Engine()
    calls = []

    def fail(prompt):
        calls.append(prompt)
        if len(calls) > 140:
            raise KeyboardInterrupt
        return

    engine.fail = fail
    with fake.open(benchmark) as folder, pytest.raises(InterruptedRunError):
        collect(folder, engine, [benchmark], progress=False)
    assert len(records(fake)) == 64


def test_an_engine_of_many_replicas_is_given_more_conversations_at_once_and_answers_the_same(fake):
    class Wide(fake.Engine):
        width = 50

        def generate(self, requests):
            sizes.append(len(requests))
            return super().generate(requests)

    def found(engine, name):
        benchmark = fake.Benchmark(80, "conversation")
        with fake.open(benchmark, name) as folder:
            collect(folder, engine, [benchmark], progress=False)
            return folder.records("quiz")

    sizes: list[int] = []
    assert found(Wide(), "wide") == found(fake.Engine(), "narrow")
    assert sizes == [50, 50, 30, 30]


def test_text_with_half_a_surrogate_pair_can_be_stored(fake):
    class Odd(fake.Engine):
        def generate(self, requests):
            for index, reply in super().generate(requests):
                yield index, type(reply)(text="\ud83d", finish="stop", prompt_tokens=1, completion_tokens=1)

    benchmark = fake.Benchmark(1, "text")
    with fake.open(benchmark) as folder:
        collect(folder, Odd(), [benchmark], progress=False)
    assert records(fake)[0].reply.turns[0].text == "?"


def test_different_contexts_of_one_item_are_asked_apart_and_put_together(fake):
    benchmark = fake.Benchmark(1)
    (one,) = benchmark.items
    contexts = ["left", "right"]
    benchmark.items = (replace(one, details={"contexts": contexts}),)
    engine = fake.Engine()
    with fake.open(benchmark) as folder:
        collect(folder, engine, [benchmark], progress=False)
    assert sorted((request.context, request.continuations) for request in engine.asked) == [
        ("left", (" a",)),
        ("right", (" bb",)),
    ]
    whole = fake.Engine()
    wanted = [next(whole.score([request]))[1].logprobs[0] for request in sorted(engine.asked, key=lambda r: r.context)]
    assert list(records(fake)[0].reply.logprobs) == wanted


def test_a_failing_disk_is_not_hidden_by_a_second_write(fake, monkeypatch):
    benchmark = fake.Benchmark(100)
    with fake.open(benchmark) as folder:
        monkeypatch.setattr(folder, "append_records", lambda *_: (_ for _ in ()).throw(StoreError("full")))
        with pytest.raises(StoreError, match="full"):
            collect(folder, fake.Engine(), [benchmark], progress=False)


def test_a_log_file_gets_lines_and_silence_is_silent():
    out = io.StringIO()
    shown = Progress("quiz", total=10, done=2, shown=True, stream=out)
    shown.add(3, 1)
    shown.close()
    assert out.getvalue().startswith("quiz: 5/10 items, ")
    assert "1 failed" in out.getvalue()
    silent = io.StringIO()
    quiet = Progress("quiz", total=10, done=2, shown=False, stream=silent)
    quiet.add(3, 1)
    quiet.close()
    assert silent.getvalue() == ""
