"""What changes when the same is asked in another company: counted, and nothing is written."""

from __future__ import annotations

import pytest

from evalkit.adapters.base import Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.collect import collect
from evalkit.collect.variance import BatchVariance, batch_variance

SCORES = [ScoreRequest(context=f"{n}?", continuations=(" a", " b")) for n in range(6)]
PROMPTS = [GenerateRequest(prompt=f"say {n}", max_tokens=9) for n in range(4)]


class Company:
    """An engine whose replies to some requests depend on how many came with them."""

    def __init__(self, moved=0.0, flips=(), other=(), fails=()):
        self.moved, self.flips, self.other, self.fails = moved, flips, other, fails

    def score(self, requests):
        for index, request in enumerate(requests):
            if request.context in self.fails and len(requests) == 1:
                yield index, Failure(kind="engine", message="not alone")
                continue
            values = (-1.0, -2.0) if len(requests) > 1 else (-1.0 - self.moved, -2.0)
            if request.context in self.flips and len(requests) == 1:
                values = values[::-1]
            yield index, ScoreReply(logprobs=values, greedy=(True, False), tokens=(1, 1))

    def generate(self, requests):
        for index, request in enumerate(requests):
            alone = len(requests) == 1 and request.prompt in self.other
            text = f"answer to {request.prompt}" + (" but alone" if alone else "")
            yield index, Generation(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)


def test_an_engine_that_does_not_look_at_neighbours_has_none():
    found = batch_variance(Company(), SCORES, PROMPTS)
    assert found == BatchVariance(scored=6, answers=4)
    assert str(found) == (
        "0 of 6 choices change, largest difference of a log-probability 0 nats; 0 of 4 answers change"
    )


def test_moved_numbers_flipped_choices_other_answers_and_failures_are_told_apart():
    engine = Company(moved=0.25, flips=("1?",), other=("say 0", "say 3"), fails=("2?", "4?"))
    found = batch_variance(engine, SCORES, PROMPTS)
    assert found == BatchVariance(
        scored=4, choices_changed=1, largest_difference=1.0, answers=4, answers_changed=2, unanswered=2
    )
    assert "2 without a reply" in str(found)


def test_only_what_is_given_is_asked():
    assert batch_variance(Company(), SCORES[:2]) == BatchVariance(scored=2)
    assert str(batch_variance(Company())) == "nothing was asked"


@pytest.mark.parametrize("kind", ["choice", "text", "conversation"])
def test_items_of_a_run_are_asked_again_alone_and_nothing_is_written(fake, kind):
    class Moody(fake.Engine):
        """Scores a little lower, and answers otherwise, whatever is asked alone."""

        def score(self, requests):
            for index, reply in super().score(requests):
                alone = len(requests) == 1
                values = tuple(value - (0.5 if alone else 0.0) for value in reply.logprobs)
                yield index, ScoreReply(logprobs=values, greedy=reply.greedy, tokens=reply.tokens)

        def generate(self, requests):
            for index, reply in super().generate(requests):
                text = reply.text + (" (alone)" if len(requests) == 1 else "")
                yield index, Generation(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)

    benchmark = fake.Benchmark(40, kind)
    with fake.open(benchmark) as folder:
        collect(folder, Moody(), [benchmark], progress=False)
        before = {file: file.read_bytes() for file in folder.path.rglob("*.jsonl")}
        engine = Moody()
        (count,) = collect(folder, engine, [benchmark], progress=False, check_batches=7)
        assert {file: file.read_bytes() for file in folder.path.rglob("*.jsonl")} == before
    assert (count.found, count.written) == (40, 0)
    assert len(engine.asked) == 7 * (2 if kind == "conversation" else 1)
    expected = BatchVariance(scored=7, largest_difference=0.5) if kind == "choice" else None
    assert count.batches == (expected or BatchVariance(answers=7, answers_changed=7))


def test_more_items_than_there_are_means_all_of_them(fake):
    benchmark = fake.Benchmark(5)
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, fake.Engine(), [benchmark], progress=False, check_batches=100)
    assert count.batches == BatchVariance(scored=5)


def test_without_the_question_nothing_is_asked_twice(fake):
    benchmark = fake.Benchmark(5)
    engine = fake.Engine()
    with fake.open(benchmark) as folder:
        assert collect(folder, engine, [benchmark], progress=False)[0].batches is None
    assert len(engine.asked) == 5
