"""Speed is measured with the wanted lengths, the same prompts for everyone, and a clock that is passed in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count

import pytest

from evalkit import cli
from evalkit.adapters.base import Failure, GenerateRequest, Generation
from evalkit.collect.variance import measure_speed
from evalkit.errors import EngineError, ExitCode
from evalkit.throughput import read_throughput


class Engine:
    """Counts two tokens for each word of a prompt and three more; answers as long as it is asked."""

    def __init__(self, *, short: float = 1.0, fails: bool = False) -> None:
        self.calls: list[list[GenerateRequest]] = []
        self.short, self.fails = short, fails

    def generate(self, requests: Sequence[GenerateRequest]):
        self.calls.append(list(requests))
        for index, request in reversed(list(enumerate(requests))):
            if self.fails:
                yield index, Failure(kind="engine", message="no")
                continue
            length = max(1, round(request.max_tokens * self.short))
            yield (
                index,
                Generation(
                    text="x",
                    finish="length",
                    prompt_tokens=2 * len(request.prompt.split()) + 3,
                    completion_tokens=length,
                ),
            )


def _measure(engine: Engine, *, one_at_a_time: bool = False, put_in: int = 41, put_out: int = 20, rounds: int = 2):
    ticks = count(0.0, 0.5)
    return measure_speed(
        engine,
        put_in,
        put_out,
        requests=4,
        one_at_a_time=one_at_a_time,
        rounds=rounds,
        seed=0,
        clock=lambda: next(ticks),
    )


def test_tokens_over_wall_time_at_the_wanted_lengths() -> None:
    speed = _measure(Engine())
    assert speed.tokens_per_second == 4 * 20 / 0.5
    assert speed.rounds == (160.0, 160.0)
    assert abs(speed.input_tokens - 41) <= 1
    assert speed.output_tokens == 20


def test_all_at_once_or_one_at_a_time() -> None:
    together, apart = Engine(), Engine()
    _measure(together)
    _measure(apart, one_at_a_time=True)
    assert [len(call) for call in together.calls[-2:]] == [4, 4]
    assert [len(call) for call in apart.calls[-8:]] == [1] * 8


def test_every_prompt_is_another_one_and_the_same_for_every_engine() -> None:
    first, second = Engine(), Engine()
    _measure(first)
    _measure(second)
    prompts = [request.prompt for call in first.calls[-2:] for request in call]
    assert len(set(prompts)) == 8
    assert prompts == [request.prompt for call in second.calls[-2:] for request in call]


def test_answers_that_end_early_or_fail_are_errors_and_no_numbers() -> None:
    with pytest.raises(EngineError, match=r"answers have 10\.0 tokens on average where 20"):
        _measure(Engine(short=0.5))
    with pytest.raises(EngineError, match="a request failed"):
        _measure(Engine(fails=True))


def test_a_clock_that_stands_still_is_an_error() -> None:
    with pytest.raises(EngineError, match="clock"):
        measure_speed(Engine(), 10, 5, requests=1, one_at_a_time=False, rounds=1, seed=0, clock=lambda: 1.0)


def test_the_verb_measures_every_engine_of_a_suite_and_replaces_only_what_it_measured(tmp_path, capsys) -> None:
    words = " ".join(["word"] * 100)
    engine = {"adapter": "scripted", "model": "none", "options": {"text": words}}
    suite = {
        "name": "speed",
        "policy": "demo",
        "engine": engine,
        "baseline": {"name": "base"},
        "candidates": [{"name": "fast"}],
        "tasks": ["mmlu"],
        "outputs": str(tmp_path / "out"),
    }
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(suite))
    argv = ["run", "bench", str(file), "--lengths", "16:8", "--requests", "3", "--rounds", "1", "--quiet"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    assert "speedup, fast" in out
    target = tmp_path / "out" / "throughput.json"
    found = read_throughput(target)
    assert {(one.recipe, one.mode) for one in found} == {
        (r, m) for r in ("base", "fast") for m in ("maximum", "batch1")
    }
    assert all(one.tool == "evalkit" and one.tokens_per_second > 0 for one in found)
    assert cli.main([*argv, "--engine", "fast", "--mode", "batch1"]) == 0
    assert len(read_throughput(target)) == 4
    assert cli.main([*argv, "--engine", "fats"]) == ExitCode.USAGE
    assert "did you mean 'fast'" in capsys.readouterr().err
