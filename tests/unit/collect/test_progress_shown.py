"""What people see of a run: a bar on a terminal, one line a minute in a log."""

from __future__ import annotations

import io

import pytest

from evalkit.collect import writing as progress
from evalkit.collect.writing import Progress


class Screen(io.StringIO):
    """Something that says it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_one_line_a_minute_and_a_last_one(clock):
    out = io.StringIO()
    shown = Progress("quiz", total=1000, done=100, shown=True, stream=out)
    for step in range(30):  # five minutes, ten seconds at a time
        clock[0] += 10.0
        shown.add(20, 1 if step % 10 == 0 else 0)
    shown.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[0] == "quiz: 220/1000 items, 2.0/s, 6 min left, 100 reused, 1 failed"
    assert lines[-1] == "quiz: 700/1000 items, 2.0/s, 2 min left, 100 reused, 3 failed"


def test_the_last_line_is_said_even_within_a_minute_and_only_once(clock):
    out = io.StringIO()
    shown = Progress("quiz", total=10, done=0, shown=True, stream=out)
    clock[0] += 5.0
    shown.add(10, 0)
    shown.close()
    shown.close()
    assert out.getvalue() == "quiz: 10/10 items, 2.0/s\n"


def test_slow_runs_are_told_by_the_minute(clock):
    out = io.StringIO()
    shown = Progress("quiz", total=10, done=0, shown=True, stream=out)
    clock[0] += 120.0
    shown.add(1, 0)
    assert out.getvalue() == "quiz: 1/10 items, 0.5/min, 18 min left\n"


def test_a_bar_shows_what_was_reused_from_the_beginning_and_what_failed():
    out = Screen()
    shown = Progress("quiz", total=10, done=4, shown=True, stream=out)
    assert "4/10" in out.getvalue()
    assert "4 reused" in out.getvalue()
    shown.add(6, 2, reused=1)
    shown.close()
    last = out.getvalue().split("\r")[-1]
    assert "10/10" in last
    assert "items/s" in last
    assert "5 reused, 2 failed" in last


def test_nothing_is_said_where_nothing_was_reused_or_failed():
    out = Screen()
    shown = Progress("quiz", total=10, done=0, shown=True, stream=out)
    shown.add(10, 0)
    shown.close()
    assert "reused" not in out.getvalue()
    assert "failed" not in out.getvalue()


@pytest.mark.parametrize("stream", [Screen, io.StringIO])
def test_silence_is_silent(stream):
    out = stream()
    quiet = Progress("quiz", total=10, done=2, shown=False, stream=out)
    quiet.add(3, 1)
    quiet.close()
    assert out.getvalue() == ""
