"""A run that is killed at any moment and begun again ends in the bytes of an unbroken run."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from evalkit.errors import DataError
from evalkit.records import Record
from evalkit.store import read_run
from evalkit.store.lines import SUMS

pytestmark = pytest.mark.system

ITEMS = 400
KILLS = 50
FARTHEST = 12
"""Records a process finishes before it is killed: fewer than this many, and sometimes none."""

SLACK = {"choice": 6, "conversation": 14}
"""Records more than that for which it gets replies: what waits for a batch, or for the rest of its block."""

WORLD = """
import os, signal, sys, time
from pathlib import Path
from evalkit.adapters.base import Generation, ScoreReply
from evalkit.benchmarks import Decoding, Marking
from evalkit.collect import asking, collect, writing
from evalkit.records import EngineIdentity, Item, Manifest, TaskRun, text_digest
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.store import RunFolder

writing.BATCH = writing.TRIAL = 5
asking.BLOCK = 8

class Engine:
    identity = EngineIdentity(
        adapter="fake", model="m", weights_sha256="a", recipe="none", recipe_sha256=None, fidelity="engine",
        quantization={}, dtype="f", tokenizer_sha256="b", chat_template_sha256=None, versions={}, device="cpu",
    )
    def __init__(self, delay, at_most):
        self.delay, self.left = delay, at_most
    def wait(self):
        time.sleep(self.delay if self.left != 0 else 600)
        self.left -= 1
    def score(self, requests):
        for index, request in enumerate(requests):
            self.wait()
            value = -1 - int(text_digest(request.context)[:4], 16) / 65536
            yield index, ScoreReply(logprobs=(value, value - 1), greedy=(True, False), tokens=(1, 1))
    def generate(self, requests):
        for index, request in enumerate(requests):
            self.wait()
            text = f"{request.seed} answers {request.prompt[-1].content} \\u2028 and more"
            yield index, Generation(text=text, finish="stop", prompt_tokens=1, completion_tokens=1)

class Benchmark:
    task, samples = "quiz", 1
    def __init__(self, kind, count):
        self.items = tuple(
            Item(
                task="quiz", subject="s", item_sha256=text_digest(str(n)), occurrence=0, prompt_sha256="p",
                target_sha256="t", doc={"n": n}, context=str(n), continuations=(" a", " b"), target=0,
                turns=(f"one {n}", f"two {n}"),
            )
            for n in range(count)
        )
        self.task_run = TaskRun(
            definition_sha256="d", kind=kind, protocol="p", shots=0, metric="acc", chance=None, planned=count,
            item_set_sha256=item_set_sha256(self.items), prompts_sha256="p", dataset={},
        )
    def decoding(self, item):
        return Decoding(max_tokens=9)
    def mark(self, item, reply):
        return Marking(marks={"acc": 1.0})

def run(path, kind, count, delay, order_seed, at_most=-1):
    benchmark = Benchmark(kind, count)
    manifest = Manifest(evalkit="0", engine=Engine.identity, tasks={"quiz": benchmark.task_run}, created_at="then")
    with RunFolder.create_or_resume(Path(path), manifest) as folder:
        print(f"repairs {len(folder.repairs)}", flush=True)
        collect(folder, Engine(delay, at_most), [benchmark], progress=False, order_seed=order_seed)
"""

CHILD = (
    WORLD
    + f"""
seed = None if sys.argv[4] == "none" else int(sys.argv[4])
run(sys.argv[1], sys.argv[2], {ITEMS}, float(sys.argv[3]), seed)
"""
)

NURSERY = (
    WORLD
    + """
def kill_at(number):
    \"\"\"Die before the n-th thing that is done to the disk; a write that is the n-th is done by half.\"\"\"
    left = [number]
    def dying(call, half=None):
        def done(*given):
            left[0] -= 1
            if left[0] == 0:
                if half is not None:
                    half(*given)
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given)
        return done
    write = os.write
    os.write = dying(write, lambda descriptor, data: write(descriptor, bytes(data)[: len(data) // 2]))
    for name in ("fsync", "ftruncate", "pwrite", "replace", "mkdir", "unlink"):
        setattr(os, name, dying(getattr(os, name)))

said = os.fdopen(os.dup(1), "w", buffering=1)
for line in sys.stdin:
    path, kind, count, at_most, order_seed, number = line.split()
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        try:
            if int(number):
                kill_at(int(number))
            run(path, kind, int(count), 0.0, None if order_seed == "none" else int(order_seed), int(at_most))
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    said.write(f"{child}\\n")
    said.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\\n")
"""
)


class Nursery:
    """Begins runs in processes that have everything imported, so that fifty of them take seconds."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def begin(self, path, kind, count, *, at_most=-1, order_seed="none", kill_at=0):
        """Begin a run that gets so many replies and then waits; return its process number."""
        self._process.stdin.write(f"{path} {kind} {count} {at_most} {order_seed} {kill_at}\n")
        return int(self._process.stdout.readline())

    def ended(self):
        """Wait for the run that was begun; return its exit code."""
        return int(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=600)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def nursery():
    made = Nursery()
    yield made
    made.close()


def child(path, kind, delay=0.0, order_seed="none"):
    command = [sys.executable, "-c", CHILD, str(path), kind, str(delay), order_seed]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, error = process.communicate(timeout=600)
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


def wait_until(seen, timeout_s=600.0):
    end = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < end
        time.sleep(0.001)


def assert_same(path, whole):
    assert records(path) == records(whole)
    assert read_run(path).records_sha256("quiz") == read_run(whole).records_sha256("quiz")
    items = [(folder / "items" / "quiz.jsonl").read_bytes() for folder in (path, whole)]
    assert items[0] == items[1]


@pytest.mark.parametrize("kind", ["choice", "conversation"])
def test_killed_fifty_times_and_resumed(tmp_path, nursery, kind):
    dice = random.Random(7)
    targets = [dice.randrange(FARTHEST) for _ in range(KILLS)]
    limits = [target + SLACK[kind] for target in targets]
    count = sum(limits) + 1  # all of them together cannot reach the end
    nursery.begin(tmp_path / "whole", kind, count)
    assert nursery.ended() == 0
    seen = [0]
    for place, (target, limit) in enumerate(zip(targets, limits, strict=True)):
        replies = limit * (2 if kind == "conversation" else 1)
        order = ("none", "3")[place % 2]
        process = nursery.begin(tmp_path / "cut", kind, count, at_most=replies, order_seed=order)
        wait_until(lambda least=seen[-1] + target: lines(tmp_path / "cut") >= least)
        time.sleep(dice.uniform(0.0, 0.004))
        os.kill(process, signal.SIGKILL)
        assert nursery.ended() == -signal.SIGKILL
        seen.append(lines(tmp_path / "cut"))
    assert seen == sorted(seen), "what was finished is never lost"
    assert sum(targets) <= seen[-1] < count
    nursery.begin(tmp_path / "cut", kind, count, order_seed="3")
    assert nursery.ended() == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")


def test_killed_before_each_single_thing_done_to_the_disk(tmp_path, nursery):
    nursery.begin(tmp_path / "whole", "choice", 12)
    assert nursery.ended() == 0
    died, code = 0, None
    while code != 0:
        path = tmp_path / f"cut-{died + 1}"
        nursery.begin(path, "choice", 12, order_seed="3", kill_at=died + 1)
        code = nursery.ended()
        died += code != 0
        assert code in (0, -signal.SIGKILL)
        nursery.begin(path, "choice", 12)
        assert nursery.ended() == 0
        assert_same(path, tmp_path / "whole")
        assert not list(path.rglob(".*.tmp"))
    assert died > 25


def test_a_line_cut_at_any_byte_is_dropped_and_asked_again(tmp_path, nursery):
    path = tmp_path / "whole"
    nursery.begin(path, "choice", 60)
    assert nursery.ended() == 0
    whole = records(path)
    dice = random.Random(11)
    for _ in range(10):
        (path / SUMS).unlink()  # a run that is cut off while it writes has no digests yet
        (path / "records" / "quiz.jsonl").write_bytes(whole[: dice.randrange(1, len(whole) - 1)])
        nursery.begin(path, "choice", 60)
        assert nursery.ended() == 0
        assert records(path) == whole


def test_a_process_that_was_killed_is_reported_by_the_next_one(tmp_path):
    process = child(tmp_path / "run", "choice", delay=0.005)
    wait_for(process, tmp_path / "run", 1)
    process.kill()
    process.communicate(timeout=600)
    assert "repairs 1" in finish(child(tmp_path / "run", "choice"))


def test_ctrl_c_keeps_every_finished_record(tmp_path):
    process = child(tmp_path / "run", "choice", delay=0.005)
    wait_for(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=600)
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
