from __future__ import annotations

import io

import pytest

from evalkit.collect import writing as progress
from evalkit.collect.writing import Progress, say_above_bars


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_with_how_the_engine_s_parts_are_doing(monkeypatch):
    clock = iter([0.0, 100.0, 100.0, 160.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    shown = Progress("e quiz", total=400, done=0, shown=True, stream=log, status=lambda: "3/4 replicas, 2 restarts")
    shown.add(100, 1)
    assert log.getvalue() == "e quiz: 100/400 items, 1.0/s, 5 min left, 1 failed, 3/4 replicas, 2 restarts\n"


def test_engines_at_the_same_time_are_rows_below_one_another():
    terminal = Terminal()
    first = Progress("one quiz", total=10, done=0, shown=True, stream=terminal, status=lambda: "2/2 replicas")
    second = Progress("two quiz", total=10, done=5, shown=True, stream=terminal)
    try:
        assert {abs(first._bar.pos), abs(second._bar.pos)} == {0, 1}
        first.add(10, 0)
        second.add(5, 2)
        say_above_bars("a replica was lost", terminal)
    finally:
        second.close()
        first.close()
    text = terminal.getvalue()
    assert "a replica was lost\n" in text
    assert "one quiz: 100%" in text
    assert "2 failed" in text
    assert "2/2 replicas" in text


@pytest.mark.parametrize("shown", [True, False])
def test_a_status_that_is_empty_adds_nothing(monkeypatch, shown):
    clock = iter([0.0, 60.0, 60.0, 60.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    log = io.StringIO()
    Progress("quiz", total=60, done=0, shown=shown, stream=log).add(60, 0)
    assert log.getvalue() == ("quiz: 60/60 items, 1.0/s\n" if shown else "")
