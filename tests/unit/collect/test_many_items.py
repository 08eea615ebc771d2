"""Very many items: they stay on the disk, an engine gets them in parts, and memory hardly grows."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from evalkit import collect as collecting
from evalkit.benchmarks import benchmark as benchmarks
from evalkit.benchmarks.benchmark import SpooledItems, canonical_order, item_set_sha256, prompts_sha256
from evalkit.collect import collect
from evalkit.records import digest
from evalkit.store import read_items


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(benchmarks, "IN_MEMORY", 10)
    monkeypatch.setattr(collecting, "AT_ONCE", 7)


def shuffled(fake, count):
    items = [fake.item(number) for number in range(count)]
    random.Random(3).shuffle(items)
    return items


def test_many_items_are_the_same_items_in_the_same_order(fake, few):
    items = shuffled(fake, 50)
    held = tuple(sorted(items, key=lambda item: item.item_sha256))
    spooled = canonical_order(iter(items))
    assert isinstance(spooled, SpooledItems)
    assert (len(spooled), tuple(spooled), spooled[3], spooled[-1]) == (50, held, held[3], held[-1])
    assert spooled[2:9:3] == list(held[2:9:3])
    with pytest.raises(IndexError):
        spooled[50]
    assert canonical_order(iter(items[:10])) == tuple(sorted(items[:10], key=lambda item: item.item_sha256))


def test_their_digests_are_those_of_the_whole_lists(fake, few):
    spooled = canonical_order(shuffled(fake, 40))
    assert item_set_sha256(spooled) == digest(sorted(item.key for item in spooled))
    assert prompts_sha256(spooled) == digest(sorted([item.key, item.prompt_sha256] for item in spooled))


@pytest.mark.parametrize("order_seed", [None, 5])
def test_an_engine_gets_them_in_parts_and_the_bytes_are_the_same(fake, few, monkeypatch, order_seed):
    class Counting(fake.Engine):
        def score(self, requests):
            sizes.append(len(requests))
            return super().score(requests)

    sizes = []
    benchmark = fake.Benchmark(30)
    benchmark.items = canonical_order(benchmark.items)
    with fake.open(benchmark, "parts") as folder:
        (count,) = collect(folder, Counting(), [benchmark], order_seed=order_seed, progress=False)
    assert sizes == [7, 7, 7, 7, 2]
    assert (count.planned, count.found, count.written) == (30, 0, 30)
    monkeypatch.setattr(collecting, "AT_ONCE", 1000)
    with fake.open(benchmark, "whole") as folder:
        collect(folder, fake.Engine(), [benchmark], progress=False)
    files = [(fake.root / name / "records" / "quiz.jsonl").read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]
    assert read_items(fake.root / "parts", "quiz") == tuple(benchmark.items)


def test_a_run_that_stopped_between_two_parts_asks_only_what_is_missing(fake, few):
    benchmark = fake.Benchmark(30)
    with fake.open(benchmark) as folder, pytest.raises(RuntimeError, match="broken"):
        collect(folder, fake.Engine(break_at=5), [benchmark], progress=False)
    engine = fake.Engine()
    with fake.open(benchmark) as folder:
        (count,) = collect(folder, engine, [benchmark], progress=False)
    assert count.found == 5
    assert len(engine.asked) == 25


CHILD = """
import sys
from pathlib import Path
from evalkit import collect as collecting
from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.benchmarks import Marking, benchmark as benchmarks
from evalkit.collect import collect
from evalkit.records import Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec

benchmarks.IN_MEMORY, collecting.AT_ONCE = 500, 1000
count = int(sys.argv[2])

class Benchmark:
    task, samples = "quiz", 1
    items = benchmarks.canonical_order(
        Item(
            task="quiz", subject=f"s{n % 7}", item_sha256=text_digest(str(n)), occurrence=0,
            prompt_sha256=text_digest(f"p{n}"), target_sha256="t", doc={"question": f"What is {n}?", "n": n},
            context=f"What is {n} and so on? " * 20, continuations=(" A", " B"), target=0,
        )
        for n in range(count)
    )
    task_run = TaskRun(
        definition_sha256="d", kind="choice", protocol="p", shots=0, metric="acc", chance=None, planned=count,
        item_set_sha256=benchmarks.item_set_sha256(items), prompts_sha256=benchmarks.prompts_sha256(items), dataset={},
    )
    def mark(self, item, reply):
        return Marking(marks={"acc": 1.0})

engine = load_engine(EngineSpec(name="e", adapter="scripted", model="m"), Resources(assets=None))
manifest = Manifest(evalkit="0", engine=engine.identity, tasks={"quiz": Benchmark.task_run}, created_at="then")
with RunFolder.create_or_resume(Path(sys.argv[1]), manifest) as folder:
    print(collect(folder, engine, [Benchmark()], progress=False)[0].written)
    collect(folder, engine, [Benchmark()], progress=False)
status = Path("/proc/self/status").read_text()
print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the high-water mark from /proc")
def test_memory_grows_by_less_than_a_line_for_each_item(tmp_path):
    peaks = {}
    for count in (2_000, 22_000):
        command = [sys.executable, "-c", CHILD, str(tmp_path / str(count)), str(count)]
        written, peak = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout.split()
        assert int(written) == count
        peaks[count] = int(peak)
    assert (peaks[22_000] - peaks[2_000]) / 20_000 < 700, "a million items would take more than 1 GB"
