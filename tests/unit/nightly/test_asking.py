from __future__ import annotations

from types import SimpleNamespace

import pytest
from scipy.stats import binom

from evalkit.adapters.base import Failure, ScoreReply
from evalkit.nightly.night import environment
from evalkit.nightly.result import Speed, speed_of
from evalkit.nightly.watching import Probe, probe, share_items, too_many


class Engine:
    """Prefers the target on the first asking; the second time another choice on some items, or fails."""

    def __init__(self, benchmark, *, other=(), silent=()):
        self.places = {item.context: at for at, item in enumerate(benchmark.items)}
        self.targets = {item.context: item.target for item in benchmark.items}
        self.other, self.silent = set(other), set(silent)

    def score(self, requests):
        for index, request in enumerate(requests):
            at = self.places[request.context]
            if at in self.silent:
                yield index, Failure(kind="transport", message="gone")
                continue
            best = (self.targets[request.context] + (at in self.other)) % 4
            scores = tuple(-1.0 if place == best else -3.0 for place in range(4))
            yield index, ScoreReply(logprobs=scores, greedy=(False,) * 4, tokens=(1,) * 4)


@pytest.fixture
def asked(small_world):
    benchmark = small_world.world.benchmark
    keys = [item.key for item in benchmark.items[:32]]
    first = {key: SimpleNamespace(status="ok", marks={"acc": 1.0}) for key in keys}
    return SimpleNamespace(
        run=lambda **given: probe(Engine(benchmark, **given), benchmark, first, keys, noise=0.02),
        benchmark=benchmark,
    )


def test_an_engine_that_repeats_itself_passes(asked):
    found = asked.run()
    assert (found.disagree, found.silent, found.unstable) == (0, False, False)


def test_rounding_noise_is_allowed_and_dice_are_not(asked):
    assert not asked.run(other=range(too_many(32, 0.02) - 1)).unstable
    assert asked.run(other=range(too_many(32, 0.02))).unstable


def test_silence_is_seen(asked):
    assert not asked.run(silent=range(3)).silent
    found = asked.run(silent=range(4))
    assert found.silent
    assert (found.first, found.again, found.both) == (32, 28, 28)


def test_the_allowed_number_is_the_binomial_tail():
    for n, share in ((32, 0.02), (32, 0.06), (5, 0.5), (32, 0.2)):
        count = too_many(n, share)
        assert binom.sf(count - 1, n, share) < 0.001
        assert count == 0 or binom.sf(count - 2, n, share) >= 0.001
    assert Probe(items=32, first=32, again=32, both=32, disagree=5, allowed=5).unstable


def test_items_are_shared_only_where_they_are(tmp_path):
    share_items(tmp_path / "base", tmp_path / "night", "t")
    assert not (tmp_path / "night").exists()
    (tmp_path / "base" / "items").mkdir(parents=True)
    (tmp_path / "base" / "items" / "t.jsonl").write_text("x\n")
    for _ in range(2):
        share_items(tmp_path / "base", tmp_path / "night", "t")
    assert (tmp_path / "night" / "items" / "t.jsonl").read_text() == "x\n"


def test_speed_adds_up_one_task_and_forgives_a_torn_sidecar(tmp_path):
    assert speed_of(tmp_path, ["t"]) == Speed(items=0, seconds=0.0)
    assert speed_of(tmp_path, ["t"]).rate is None
    rows = [
        '{"task":"t","items":10,"seconds":2.0}',
        '{"task":"u","items":99,"seconds":1.0}',
        '{"task":"t","items":10,"seconds":3.0}',
    ]
    (tmp_path / "timings.jsonl").write_text("".join(f"{row}\n" for row in rows))
    assert speed_of(tmp_path, ["t"]).rate == 4.0
    (tmp_path / "timings.jsonl").write_text(rows[0] + "\n" + rows[1][:7])
    said: list[str] = []
    assert speed_of(tmp_path, ["t"], said.append).items == 0
    assert "timings.jsonl:2: " in said[0]
    assert "next step: " in said[0]


def test_the_environment_names_versions_and_what_the_caller_knows():
    found = environment(commit="abc", nothing=None)
    assert found["commit"] == "abc"
    assert "nothing" not in found
    assert {"evalkit", "python", "system", "numpy"} <= set(found)
