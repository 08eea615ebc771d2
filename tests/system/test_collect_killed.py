"""A run that is killed at any moment and begun again ends in the bytes of an unbroken run."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time

import pytest

from evalkit.errors import DataError
from evalkit.records import Record
from evalkit.store import read_run

pytestmark = pytest.mark.system

ITEMS = 400
CHILD = f"""
import sys, time
from pathlib import Path
from evalkit.adapters.base import Generation, ScoreReply
from evalkit.benchmarks import Decoding, Marking
from evalkit.collect import collect, writing
from evalkit.records import EngineIdentity, Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder

writing.BATCH = 5
path, kind, delay, order_seed = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]

class Engine:
    identity = EngineIdentity(
        adapter="fake", model="m", weights_sha256="a", recipe="none", recipe_sha256=None, fidelity="engine",
        quantization={{}}, dtype="f", tokenizer_sha256="b", chat_template_sha256=None, versions={{}}, device="cpu",
    )
    def score(self, requests):
        for index, request in enumerate(requests):
            time.sleep(delay)
            value = -1 - int(text_digest(request.context)[:4], 16) / 65536
            yield index, ScoreReply(logprobs=(value, value - 1), greedy=(True, False), tokens=(1, 1))
    def generate(self, requests):
        for index, request in enumerate(requests):
            time.sleep(delay)
            text = f"{{request.seed}} answers {{request.prompt[-1].content}} \\u2028 and more"
            yield index, Generation(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)

class Benchmark:
    task, samples = "quiz", 1
    items = tuple(
        Item(
            task="quiz", subject="s", item_sha256=text_digest(str(n)), occurrence=0, prompt_sha256="p",
            target_sha256="t", doc={{"n": n}}, context=str(n), continuations=(" a", " b"), target=0,
            turns=(f"one {{n}}", f"two {{n}}"),
        )
        for n in range({ITEMS})
    )
    task_run = TaskRun(
        definition_sha256="d", kind=kind, protocol="p", shots=0, metric="acc", chance=None, planned={ITEMS},
        item_set_sha256="i", prompts_sha256="p", dataset={{}},
    )
    def decoding(self, item):
        return Decoding(max_tokens=9)
    def mark(self, item, reply):
        return Marking(marks={{"acc": 1.0}})

manifest = Manifest(evalkit="0", engine=Engine.identity, tasks={{"quiz": Benchmark.task_run}}, created_at="then")
with RunFolder.create_or_resume(path, manifest) as folder:
    print(f"repairs {{len(folder.repairs)}}", flush=True)
    collect(
        folder, Engine(), [Benchmark()], progress=False, order_seed=int(order_seed) if order_seed != "none" else None
    )
"""


def child(path, kind, delay=0.0, order_seed="none"):
    command = [sys.executable, "-c", CHILD, str(path), kind, str(delay), order_seed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def records(path):
    return (path / "records" / "quiz.jsonl").read_bytes()


def lines(path):
    file = path / "records" / "quiz.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for(process, path, count):
    while lines(path) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)


@pytest.mark.parametrize("kind", ["choice", "conversation"])
def test_killed_and_resumed(tmp_path, kind):
    finish(child(tmp_path / "whole", kind))
    dice = random.Random(7)
    for target in sorted(dice.sample(range(1, ITEMS // 2), 4)):
        process = child(tmp_path / "cut", kind, delay=0.002)
        wait_for(process, tmp_path / "cut", target)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert target <= lines(tmp_path / "cut") < ITEMS
    assert "repairs 1" in finish(child(tmp_path / "cut", kind, order_seed="3"))
    assert records(tmp_path / "cut") == records(tmp_path / "whole")
    assert read_run(tmp_path / "cut").records_sha256("quiz") == read_run(tmp_path / "whole").records_sha256("quiz")
    items = [(tmp_path / name / "items" / "quiz.jsonl").read_bytes() for name in ("cut", "whole")]
    assert items[0] == items[1]


def test_a_line_cut_at_any_byte_is_dropped_and_asked_again(tmp_path):
    finish(child(tmp_path / "whole", "choice"))
    whole = records(tmp_path / "whole")
    file = tmp_path / "whole" / "records" / "quiz.jsonl"
    dice = random.Random(11)
    for _ in range(3):
        file.write_bytes(whole[: dice.randrange(1, len(whole) - 1)])
        finish(child(tmp_path / "whole", "choice"))
        assert records(tmp_path / "whole") == whole


def test_ctrl_c_keeps_every_finished_record(tmp_path):
    process = child(tmp_path / "run", "choice", delay=0.005)
    wait_for(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "InterruptedRunError: stopped on request" in error
    kept = records(tmp_path / "run").decode().removesuffix("\n").split("\n")
    assert f"{len(kept)} of {ITEMS} records" in error
    assert all(Record.from_json(line).status == "ok" for line in kept)
    assert (tmp_path / "run" / "lock").read_text() == ""


def test_a_reader_never_takes_a_half_written_line_for_a_record(tmp_path):
    process = child(tmp_path / "run", "choice", delay=0.001)
    wait_for(process, tmp_path / "run", 1)
    seen = []
    while process.poll() is None:
        with contextlib.suppress(DataError):  # the reader met a write half way, and said so
            seen.append(len(read_run(tmp_path / "run").records["quiz"]))
    finish(process)
    assert seen
    assert seen == sorted(seen)
