"""No reply of another model is taken for one of this engine."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.adapters.base import GenerateRequest, ScoreRequest
from evalkit.errors import EngineError

LETTERS = (" A", " B", " C", " D")
REQUESTS = [ScoreRequest(context=f"Question: {n}\n\nAnswer:", continuations=LETTERS) for n in range(40)]


def after(server, count, change):
    """Make a change once so many completions have been served."""
    real, served = server._complete, []

    def complete(path, body):
        served.append(path)
        if len(served) == count:
            change()
        return real(path, body)

    server._complete = complete


def passed_on(replies, into):
    """Keep every reply that is passed on, whatever comes after it."""
    for index, reply in replies:
        into[index] = reply
    return into


def test_other_weights_under_the_same_name_are_noticed_and_none_of_their_numbers_is_used(doubles, serve, connect):
    server = serve(doubles.vllm(echo="ignored", most=400))
    engine = connect(server.url, check_every=8, concurrency=2, top_logprobs=400)
    expected = {}
    for index, request in enumerate(REQUESTS):
        context = server.brain.encode(request.context)
        numbers = server.brain.next(context)
        expected[index] = [float(numbers[server.brain.encode(letter, False)[0]]) for letter in LETTERS]
    after(server, 24, lambda: setattr(server, "brain", doubles.Toy(seed=1)))
    found = {}
    with pytest.raises(EngineError, match="the server changed its model in between: after the known prompt"):
        found.update(passed_on(engine.score(REQUESTS), found))
    assert 8 <= len(found) <= 24
    for index, reply in found.items():
        assert reply.logprobs == pytest.approx(expected[index], abs=1e-9)


def test_another_model_in_the_list_is_noticed(doubles, serve, connect):
    server = serve(doubles.vllm())
    engine = connect(server.url)
    server.model = "toy-int4"
    with pytest.raises(EngineError, match=r"changed its model in between|does not exist"):
        list(engine.generate([GenerateRequest(prompt="Hello", max_tokens=3)] * 3))


def test_another_limit_is_another_serving(doubles, serve, connect):
    server = serve(doubles.vllm())
    engine = connect(server.url)
    server.brain.max_length = 256
    with pytest.raises(EngineError, match=r"max_length was 512, is 256"):
        list(engine.score(REQUESTS[:2]))


def test_a_reply_that_names_another_model_stops_the_run(doubles, serve, connect):
    server = serve(doubles.vllm())
    engine = connect(server.url)
    real = server._complete
    server._complete = lambda path, body: {**real(path, body), "model": "something-else"}
    with pytest.raises(EngineError, match="replies came from 'toy', now from 'something-else'"):
        list(engine.score(REQUESTS[:2]))


def test_a_server_that_goes_away_ends_the_run_with_its_name(doubles, serve, connect):
    server = serve(doubles.vllm())
    engine = connect(server.url, retries=1)
    engine._served.asker.transport._exchange.base_url = "http://127.0.0.1:9"  # where nobody listens
    with pytest.raises(EngineError, match=f"{server.url}: no list of models: .*refused"):
        list(engine.score(REQUESTS[:2]))


def test_a_caller_that_wants_no_more_is_not_waited_for(doubles, serve, connect):
    engine = connect(serve(doubles.vllm()).url, check_every=1)
    replies = engine.score(REQUESTS)
    next(replies)
    replies.close()
    assert len(list(engine.score(REQUESTS[:3]))) == 3, "and the engine goes on working"


class Noisy:
    """A brain whose numbers carry noise of a given size, drawn anew at each reading, and a shift that stays."""

    def __init__(self, brain, noise=0.0, shift=0.0, seed=7):
        self._brain, self._noise, self._shift = brain, noise, shift
        self._dice, self._lasting = np.random.default_rng(seed), np.random.default_rng(seed + 1)

    def __getattr__(self, name):
        return getattr(self._brain, name)

    def next(self, context):
        numbers = np.array(self._brain.next(context), dtype=float)
        lasting = np.random.default_rng(sum(context) % 1000).choice((-1.0, 1.0), len(numbers))
        moved = numbers + self._noise * self._dice.normal(size=len(numbers)) + self._shift * lasting
        return moved - np.log(np.exp(moved).sum())


@pytest.mark.parametrize(("noise", "shift", "noticed"), [(0.0, 0.05, True), (0.005, 0.05, True), (0.02, 0.0, False)])
def test_small_changes_of_all_weights_are_noticed_and_a_servers_own_noise_is_not(
    doubles, serve, connect, noise, shift, noticed
):
    server = serve(doubles.vllm(), brain=Noisy(doubles.Toy(), noise))
    engine = connect(server.url, check_every=8, concurrency=2)
    assert "8 prompts asked twice" in engine.findings["panel"]
    changed = Noisy(doubles.Toy(), noise, shift, seed=8)
    after(server, 24, lambda: setattr(server, "brain", changed))
    found = {}
    if not noticed:
        assert len(passed_on(engine.score(REQUESTS), found)) == len(REQUESTS)
        return
    with pytest.raises(EngineError, match=r"over 8 fixed prompts log-probabilities moved by 0\.0\d"):
        passed_on(engine.score(REQUESTS), found)
    assert len(found) <= 24
