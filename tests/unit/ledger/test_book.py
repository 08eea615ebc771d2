"""The ledger's file: a chain that no change survives, written by many, cut by a crash."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.errors import DataError, StoreError
from evalkit.ledger import COPY, SIDECAR, Ledger, citations, cite, parse_entries, place_of
from evalkit.store.lines import acquire


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "ledger.jsonl")
    for n in range(4):
        made.append("run-completed", {"n": n})
    return made


def test_entries_come_back_in_order_and_each_holds_the_digest_of_the_one_before(ledger: Ledger) -> None:
    entries = ledger.entries()
    assert [entry.kind for entry in entries] == ["opened", *["run-completed"] * 4]
    assert [entry.before for entry in entries[1:]] == [entry.sha256 for entry in entries[:-1]]
    assert parse_entries(ledger.path.read_text(), "copy") == entries


def test_equal_histories_have_one_content_and_two_ledgers_never_share_an_entry(ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger(tmp_path / "other" / "ledger.jsonl")
    for n in range(4):
        other.append("run-completed", {"n": n})
    pairs = list(zip(ledger.entries(), other.entries(), strict=True))
    assert all(one.content == two.content for one, two in pairs)
    assert not any(one.sha256 == two.sha256 for one, two in pairs)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_changed_byte_and_no_missing_or_moved_line_is_read(data: st.DataObject) -> None:
    text = _text()
    lines = text.splitlines(keepends=True)
    what = data.draw(st.sampled_from(("byte", "drop", "swap", "twice")))
    if what == "byte":
        at = data.draw(st.integers(0, len(text) - 2))
        new = data.draw(st.sampled_from('abcdef0123456789 "{}:').filter(lambda one: one != text[at]))
        changed = text[:at] + new + text[at + 1 :]
    else:
        at = data.draw(st.integers(0, len(lines) - 2))
        changed = "".join(
            {
                "drop": [*lines[:at], *lines[at + 1 :]],
                "swap": [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]],
                "twice": [*lines[: at + 1], *lines[at:]],
            }[what]
        )
    if json_equal(changed, text):
        return
    with pytest.raises(DataError):
        parse_entries(changed, "changed")


def _text() -> str:
    if not _TEXT:
        with TemporaryDirectory() as folder:
            made = Ledger(Path(folder) / "ledger.jsonl")
            for n in range(4):
                made.append("run-completed", {"n": n})
            _TEXT.append(made.path.read_text())
    return _TEXT[0]


_TEXT: list[str] = []


def json_equal(one: str, two: str) -> bool:
    """Say whether two texts hold the same values: white space between them is no change."""
    try:
        return [json.loads(line) for line in one.splitlines()] == [json.loads(line) for line in two.splitlines()]
    except ValueError:
        return False


def _append(path: Path, n: int) -> None:
    for _ in range(n):
        Ledger(path).append("run-completed", {})


def test_many_writers_make_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append, args=(path, 5)) for _ in range(3)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert [one.exitcode for one in writers] == [0, 0, 0]
    assert len(Ledger(path).entries()) == 1 + 15


def test_a_line_that_a_crash_cut_off_is_dropped_by_the_next_entry(ledger: Ledger) -> None:
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"sequence": 5, "ki')
    with pytest.raises(DataError, match="cut off"):
        ledger.entries()
    assert ledger.append("seal", {}).sequence == 5


def test_a_held_ledger_is_waited_for_and_then_named(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("evalkit.ledger.book._WAIT_S", 0.05)
    lock = acquire(tmp_path / "ledger.lock")
    with pytest.raises(StoreError, match="another place is named with --ledger"):
        ledger.append("seal", {})
    lock.release()
    assert ledger.append("seal", {}).kind == "seal"


def test_the_nearest_ledger_above_is_taken_and_a_file_of_somebody_else_is_not(ledger: Ledger, tmp_path: Path) -> None:
    suite = tmp_path / "a" / "suite"
    suite.mkdir(parents=True)
    (tmp_path / "a" / "ledger.jsonl").write_text('{"somebody": "else"}\n')
    assert place_of(suite, named=None, default=suite / "x") == ledger.path
    assert place_of(suite, named=tmp_path / "named", default=suite / "x") == tmp_path / "named"
    near = Ledger(tmp_path / "a" / "suite" / "ledger.jsonl")
    near.append("seal", {})
    assert place_of(suite, named=None, default=suite / "x") == near.path


def test_a_new_ledger_names_what_cites_an_earlier_one(ledger: Ledger, tmp_path: Path) -> None:
    run, certified = tmp_path / "suite" / "run", tmp_path / "other"
    run.mkdir(parents=True)
    certified.mkdir()
    entries = ledger.entries()
    cite(run, entries[1])
    cite(run, entries[2])
    assert [one.sequence for one in citations(run)] == [1, 2]
    (certified / COPY).write_text("".join(one.to_json() + "\n" for one in entries[:4]))
    ledger.path.unlink()
    others = ledger.opened()[0].data["others"]
    assert {(one["in"], one["sequence"]) for one in others} == {("suite/run", 2), ("other", 3)}
    (run / SIDECAR).write_text('{"entries": [7]}')
    with pytest.raises(DataError, match="no list of ledger entries"):
        citations(run)
