"""A whole run on a file system that really fills up, and the same run again once there is space."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system

CHILD = """
import subprocess, sys
from pathlib import Path
from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.benchmarks import Marking
from evalkit.collect import collect
from evalkit.errors import StoreError
from evalkit.records import Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.benchmarks.benchmark import item_set_sha256
from evalkit.suite import EngineSpec

class Benchmark:
    task, samples = "quiz", 1
    items = tuple(
        Item(
            task="quiz", subject="s", item_sha256=text_digest(str(n)), occurrence=0, prompt_sha256="p",
            target_sha256="t", doc={}, context=f"What is {n}?", continuations=(" a", " b"), target=0,
        )
        for n in range(1000)
    )
    task_run = TaskRun(
        definition_sha256="d", kind="choice", protocol="p", shots=0, metric="acc", chance=None, planned=1000,
        item_set_sha256=item_set_sha256(items), prompts_sha256="p", dataset={},
    )
    def mark(self, item, reply):
        return Marking(marks={"acc": 1.0})

def run(path):
    engine = load_engine(EngineSpec(name="e", adapter="scripted", model="m"), Resources(assets=None))
    manifest = Manifest(evalkit="0", engine=engine.identity, tasks={"quiz": Benchmark.task_run}, created_at="then")
    with RunFolder.create_or_resume(path, manifest) as folder:
        return collect(folder, engine, [Benchmark()], progress=False)[0]

small, large = Path(sys.argv[1]), Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={sys.argv[3]}", "tmpfs", str(small)], check=True)
try:
    run(small / "run")
    print("never full")
except StoreError as error:
    print(error)
kept = (small / "run" / "records" / "quiz.jsonl").read_bytes()
print("whole lines", kept.endswith(b"\\n"), kept.count(b"\\n"))
subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
count = run(small / "run")
print("resumed", count.found, count.written)
run(large / "run")
files = [(root / "run" / "records" / "quiz.jsonl").read_bytes() for root in (small, large)]
print("same bytes", files[0] == files[1])
"""


@pytest.fixture(scope="module")
def alone():
    """A command that gives a process file systems of its own, where the kernel allows it."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of its own")
    return command


@pytest.mark.parametrize(("size", "when"), [("480k", "records are appended"), ("640k", "they are put in order")])
def test_a_run_on_a_disk_that_fills_up(tmp_path, alone, size, when):
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
    command = [*alone, sys.executable, "-c", CHILD, str(tmp_path / "small"), str(tmp_path / "large"), size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    fault, whole, resumed, same = done.stdout.splitlines()
    assert "No space left on device" in fault
    assert "next step: make space or rights, then repeat the same command to resume" in fault
    assert whole.startswith("whole lines True")
    kept = int(whole.split()[-1])
    assert 0 < kept <= 1000
    assert (kept == 1000) == (when == "they are put in order")
    assert resumed == f"resumed {kept} {1000 - kept}"
    assert same == "same bytes True"
