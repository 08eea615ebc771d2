"""A disk without space: whole lines stay, the fault is named, and space is all that resuming needs."""

from __future__ import annotations

import errno
import os

import pytest

from evalkit.errors import StoreError
from evalkit.store import RatingStore, RunFolder


@pytest.fixture
def full(monkeypatch):
    """From now on a write stores so many bytes more and then finds the disk full."""
    write, pwrite = os.write, os.pwrite
    room: list[int] = []

    def short(descriptor, data, *place):
        if not room or descriptor < 3:
            return (pwrite if place else write)(descriptor, data, *place)
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = (pwrite if place else write)(descriptor, bytes(data)[: room[0]], *place)
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", short)
    monkeypatch.setattr(os, "pwrite", short)
    return room


@pytest.mark.parametrize("left", [0, 1, 100, 541])
def test_a_batch_is_written_whole_or_not_at_all(tmp_path, make, full, left):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(5)])
        whole = (tmp_path / "records" / "quiz.jsonl").read_bytes()
        full.append(left)
        with pytest.raises(StoreError, match=r"No space left.*the 5 line\(s\) before them are kept; .*resume"):
            folder.append_records("quiz", [make["record"](number) for number in range(5, 9)])
        assert (tmp_path / "records" / "quiz.jsonl").read_bytes() == whole
        full.clear()
        folder.append_records("quiz", [make["record"](number) for number in range(5, 9)])
        assert len(folder.done_keys("quiz")) == 9


def test_a_flush_that_fails_takes_the_batch_back(tmp_path, make, monkeypatch):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
        flush = os.fsync
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, os.strerror(errno.EIO))))
        with pytest.raises(StoreError, match=r"quiz\.jsonl: cannot write 1 line.*Input/output error"):
            folder.append_records("quiz", [make["record"](2)])
        monkeypatch.setattr(os, "fsync", flush)
        assert len(folder.done_keys("quiz")) == 1


def test_where_nothing_can_be_taken_back_the_first_fault_is_named_and_the_torn_line_cut(
    tmp_path, make, full, monkeypatch
):
    def stuck(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
        full.append(50)
        cut = os.ftruncate
        monkeypatch.setattr(os, "ftruncate", stuck)
        with pytest.raises(StoreError, match="No space left"):
            folder.append_records("quiz", [make["record"](2)])
        full.clear()
        monkeypatch.setattr(os, "ftruncate", cut)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        assert len(folder.repairs) == 1
        assert len(folder.done_keys("quiz")) == 1


def test_a_run_cannot_begin_on_a_full_disk_and_leaves_no_lock(tmp_path, make, full):
    full.append(0)
    with pytest.raises(StoreError, match=r"lock: cannot be written: No space left.*next step: make space"):
        RunFolder.create_or_resume(tmp_path / "run", make["manifest"]())
    full.clear()
    RunFolder.create_or_resume(tmp_path / "run", make["manifest"]()).close()


def test_a_verdict_is_kept_whole_or_not_at_all(tmp_path, full):
    row = {"key": "k", "status": "ok", "score": 1.0, "text": "words " * 50, "details": {}}
    with RatingStore(tmp_path, "j" * 64, "p" * 64) as store:
        store.add([row])
        full.append(40)
        with pytest.raises(StoreError, match="No space left"):
            store.add([{**row, "key": "other"}])
        full.clear()
        assert store.find({"k", "other"}).keys() == {"k"}
