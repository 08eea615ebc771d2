"""The whole program in a real terminal: the bar, Ctrl-C from the keyboard, the command that resumes, and a log file."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = 96
CHILD = """
import sys, time
from evalkit.adapters import scripted
from evalkit.collect import asking, writing

writing.BATCH, asking.BLOCK = 4, 8
delay, plain = float(sys.argv.pop(1)), scripted.ScriptedEngine.generate

def slow(self, requests):
    for pair in plain(self, requests):
        time.sleep(delay)
        yield pair

scripted.ScriptedEngine.generate = slow
from evalkit.cli import main
sys.exit(main(sys.argv[1:]))
"""


class Terminal:
    """A process that has a terminal of its own, 160 columns wide."""

    def __init__(self, command: list[str]) -> None:
        self.keyboard, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self.seen = ""
        self.process = subprocess.Popen(
            command,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - there are no threads here
        )
        os.close(inside)

    def read_until(self, pattern: str, timeout_s: float = 600.0) -> None:
        """Read what is shown until it matches; an end before that is a failure."""
        end = time.monotonic() + timeout_s
        while not re.search(pattern, self.seen):
            assert self._read(end), self.seen

    def press_ctrl_c(self) -> None:
        os.write(self.keyboard, b"\x03")

    def ended(self, timeout_s: float = 600.0) -> int:
        """Read to the end; return the exit code."""
        end = time.monotonic() + timeout_s
        while self._read(end):
            pass
        os.close(self.keyboard)
        return self.process.wait(timeout=timeout_s)

    def _read(self, end: float) -> bool:
        ready, _, _ = select.select([self.keyboard], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"nothing more was shown: {self.seen}"
        try:
            data = os.read(self.keyboard, 65536)
        except OSError:  # the last process that had the terminal is gone
            return False
        self.seen += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture
def words(tmp_path):
    """Return the words of a command for a run folder: MT-Bench's task on made-up questions, the scripted adapter."""
    data, definitions = tmp_path / "data", tmp_path / "definitions"
    data.mkdir()
    rows = [{"question_id": n, "category": "writing", "turns": [f"ask {n}", f"then {n}"]} for n in range(QUESTIONS)]
    (data / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = {"name": "x", "type": "single", "system_prompt": "", "prompt_template": "{question}{answer}"}
    (data / "judge_prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    (definitions / "tasks/mt-bench").mkdir(parents=True)
    (definitions / "judges").symlink_to(ROOT / "judges")
    for name in ("source.yaml", "mt-bench.yaml"):
        text = (ROOT / "tasks/mt-bench" / name).read_text("utf-8").replace("references: cor1", "references: null")
        if name == "source.yaml":
            text = text[: text.index("sources:")] + f"sources:\n  - local: {data}\n"
        (definitions / "tasks/mt-bench" / name).write_text(text)

    def made(folder: str, delay: float) -> list[str]:
        engine = ["--adapter", "scripted", "--model", "none", "--option", "fail_every=9"]
        where = ["--definitions", str(definitions), "--task", "mt-bench", "--output", str(tmp_path / folder)]
        return [sys.executable, "-c", CHILD, str(delay), "run", *engine, *where]

    return made


def records(folder: Path) -> bytes:
    return (folder / "records" / "mt-bench.jsonl").read_bytes()


def test_a_run_in_a_terminal_is_stopped_by_ctrl_c_and_resumed_by_the_command_it_names(tmp_path, words):
    begun = Terminal(words("run", 0.01))
    begun.read_until(r"mt-bench: +\d+%\|.* [1-9]\d*/96 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+ ?items/s")
    begun.press_ctrl_c()
    assert begun.ended() == 5
    kept = records(tmp_path / "run").count(b"\n")
    assert 0 < kept < QUESTIONS
    last = begun.seen.replace("\r", "").strip().rsplit("evalkit: error: ", 1)[1]
    assert last.startswith(
        f"stopped on request: {kept} of {QUESTIONS} records of task 'mt-bench' are in {tmp_path}/run"
    )
    assert "next step: the same command resumes: evalkit run --adapter scripted" in last
    assert "Traceback" not in begun.seen

    resumed = Terminal(words("run", 0.001))
    assert resumed.ended() == 0
    bars = re.findall(r"96/96 \[[^\]]*\]", resumed.seen)
    assert f"{kept} reused" in bars[-1]
    failed = records(tmp_path / "run").count(b'"status":"failed"')
    assert failed > 0
    before = int(re.findall(r"(\d+) failed", begun.seen)[-1]) if "failed" in begun.seen else 0
    assert f"{failed - before} failed" in bars[-1]

    whole = subprocess.run(words("whole", 0.0), capture_output=True, text=True, timeout=600, check=False)
    assert whole.returncode == 0, whole.stderr
    assert records(tmp_path / "whole") == records(tmp_path / "run")
    again = subprocess.run(
        [*words("whole", 0.0), "--check-batches", "9"], capture_output=True, text=True, timeout=600, check=False
    )
    assert re.search(r"mt-bench, asked again alone: 0 of [1-9] answers change", again.stdout), again.stderr
    assert records(tmp_path / "whole") == records(tmp_path / "run")
    assert "\r" not in whole.stderr, "a log file gets lines, not a bar"
    (line,) = [line for line in whole.stderr.splitlines() if line.startswith("mt-bench: ")]
    assert re.fullmatch(rf"mt-bench: 96/96 items, [\d.]+/s, {failed} failed", line)
