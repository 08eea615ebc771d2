from __future__ import annotations

import time

import fsspec
import pytest

from evalkit.errors import StoreError, UsageError
from evalkit.store import RunFolder, read_run
from evalkit.store.mirror import Mirror, brought_down, mirror, sending, spool_folder
from evalkit.store.mirror.fetching import piece_of
from evalkit.store.mirror.lease import LeaseLostError, take
from evalkit.store.mirror.mirror import hold
from evalkit.store.mirror.remote import open_remote


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    fsspec.filesystem("memory").store.clear()
    fsspec.filesystem("memory").pseudo_dirs[:] = [""]
    return "memory://bucket/runs/fp8" if request.param == "memory" else f"file://{tmp_path}/there/fp8"


def names(url):
    return set(open_remote(url).find())


def until(true):
    deadline = time.monotonic() + 600
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_is_sent_while_it_is_written_and_lies_there_like_a_folder(
    url, tmp_path, make, work, local_bytes, monkeypatch
):
    monkeypatch.setattr(mirror, "SEND_S", 0.02)
    with Mirror(url, tmp_path / "spool") as opened:
        with RunFolder.create_or_resume(
            opened.root, make["asking"]([make["item"](number) for number in range(7)])
        ) as folder:
            folder.append_timing({"task": "quiz", "seconds": 1.0})
        until(lambda: any(name.endswith(".whole") for name in names(url)))
        work(opened.root, lambda: None, set())
    there = open_remote(url)
    plain = {name for name in names(url) if piece_of(name) is None and ".evalkit-lease/" not in name}
    assert {name: there.read(name) for name in plain if name in local_bytes} == local_bytes
    with brought_down(url, tmp_path / "elsewhere") as folder:
        assert folder.name == "fp8"
        assert len(read_run(folder).records["quiz"]) == 7


def test_what_was_brought_down_is_not_read_again(opened, bucket, work, tmp_path, monkeypatch):
    with opened("first") as first:
        work(first.root, first.send, set())
    monkeypatch.setattr("evalkit.store.mirror.mirror.open_remote", lambda _url: opened.remote())
    bucket.seen.clear()
    with brought_down("memory://bucket/run", tmp_path / "reader") as folder:
        assert len(read_run(folder).records["quiz"]) == 7
    assert any(what.startswith("get") and what.endswith("records/quiz.jsonl") for what in bucket.seen)
    bucket.seen.clear()
    with brought_down("memory://bucket/run", tmp_path / "reader") as folder:
        assert len(read_run(folder).records["quiz"]) == 7
    assert {what.split()[0] for what in bucket.seen} == {"list"}


def test_a_second_process_here_and_a_second_one_elsewhere_are_refused(url, tmp_path):
    with Mirror(url, tmp_path / "spool", ttl_s=1.0):
        with pytest.raises(StoreError, match=r"fp8: .*is writing here"), Mirror(url, tmp_path / "spool"):
            pass
        with pytest.raises(StoreError, match="is writing to this folder"), Mirror(url, tmp_path / "other"):
            pass
    with Mirror(url, tmp_path / "other"):
        pass


def test_a_reader_beside_a_writer_reads_what_was_sent(url, tmp_path, make, monkeypatch):
    monkeypatch.setattr(mirror, "SEND_S", 60.0)
    spool = tmp_path / "spool"
    with Mirror(url, spool) as opened, RunFolder.create_or_resume(opened.root, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
        opened.send()
        folder.append_records("quiz", [make["record"](2)])
        with brought_down(url, spool) as read:
            assert read != opened.root
            assert len(read_run(read).records["quiz"]) == 1
        assert not read.exists()
    with brought_down(url, spool) as read:
        assert read == spool_folder(spool, url)
        assert len(read_run(read).records["quiz"]) == 2


def test_there_is_nothing_behind_a_url(url, tmp_path):
    with pytest.raises(UsageError, match="there is nothing behind this URL"), brought_down(url, tmp_path / "spool"):
        pass


def test_many_pieces_become_one_again(opened, bucket, make, monkeypatch):
    monkeypatch.setattr(sending, "_MOST_PIECES", 4)
    most = 0
    with opened() as one, RunFolder.create_or_resume(one.root, make["manifest"]()) as folder:
        for number in range(30):
            folder.append_records("quiz", [make["record"](number)])
            one.send()
            most = max(most, sum(".quiz.jsonl.parts/" in name for name in bucket.files()))
    assert 3 <= most <= 5
    assert bucket.files()["records/quiz.jsonl"].count(b"\n") == 30


def test_work_stops_when_nothing_can_be_sent_for_too_long(opened, bucket, make, ticking):
    one = opened()
    one.__enter__()
    folder = RunFolder.create_or_resume(one.root, make["manifest"]())
    one.send()
    bucket.plan = lambda _number: "refused"
    folder.append_records("quiz", [make["record"](1)])
    with pytest.raises(StoreError, match="cannot be written"):
        one.send()
    ticking.sleep(mirror.LAG_S - 1)
    folder.append_records("quiz", [make["record"](2)])
    ticking.sleep(2)
    with pytest.raises(StoreError, match=r"nothing could be sent for 600 s; .* next step"):
        folder.append_records("quiz", [make["record"](3)])
    folder.close()
    with pytest.raises(StoreError, match="could not be sent and is kept in"):
        one.close()
    bucket.revive()
    with opened() as again:
        assert len(read_run(again.root).records["quiz"]) == 3
    assert bucket.files()["records/quiz.jsonl"].count(b"\n") == 3


def test_a_writer_whose_lease_is_lost_is_stopped_by_its_own_thread(url, tmp_path, make, monkeypatch):
    monkeypatch.setattr(mirror, "SEND_S", 0.02)
    opened = Mirror(url, tmp_path / "spool", ttl_s=1.0)
    opened.__enter__()
    folder = RunFolder.create_or_resume(opened.root, make["manifest"]())
    other, _ = take(open_remote(url), dead=opened._lease.claim.id)
    until(lambda: opened._lost is not None)
    with pytest.raises(LeaseLostError, match="has taken this folder over"):
        folder.append_records("quiz", [make["record"](1)])
    folder.close()
    with pytest.raises(LeaseLostError):
        opened.close()
    other.renew()


def test_an_error_inside_is_told_and_what_is_finished_is_sent(opened, bucket, make):
    def work():
        with opened() as one, RunFolder.create_or_resume(one.root, make["manifest"]()) as folder:
            folder.append_records("quiz", [make["record"](1)])
            raise KeyError("engine")

    with pytest.raises(KeyError, match="engine"):
        work()
    assert bucket.files()["records/quiz.jsonl"].count(b"\n") == 1


def test_files_that_nobody_spoke_of_are_sent_too(opened, bucket):
    with opened() as one:
        (one.root / "certificate.json").write_text("{}")
        (one.root / "sub").mkdir()
        (one.root / "sub" / "notes.jsonl").write_text("{}\n{}\n{to")
        (one.root / "sub" / "lock").write_text("mine")
    files = bucket.files()
    assert files["certificate.json"] == b"{}"
    assert files["sub/notes.jsonl"] == b"{}\n{}\n", "a line that was cut off is no line"
    assert "sub/lock" not in files


def test_a_file_that_was_replaced_while_it_was_sent_is_never_mixed(opened, bucket, make):
    with opened() as one, RunFolder.create_or_resume(one.root, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in (3, 1, 2)])
        one.send()
        folder.append_records("quiz", [make["record"](0)])
        file = one.root / "records" / "quiz.jsonl"
        lines = sorted(file.read_bytes().splitlines(keepends=True))
        aside = file.with_name("other")
        aside.write_bytes(b"".join(lines))
        aside.replace(file)  # as the store does it, a moment before it says so
        one.send()
        parts = [data for name, data in bucket.files().items() if name.endswith(".part")]
        assert parts == [], "half an old file and half a new one would be neither"
        one.replaced(file)
        one.send()
    assert bucket.files()["records/quiz.jsonl"] == b"".join(lines)


def test_a_password_in_a_url_is_written_nowhere(tmp_path):
    url = "sftp://me:hunter2pass@host/runs/fp8?token=abcdefgh12345"
    spool = hold(tmp_path, url)
    spool.remember(lease="x", clean=True)
    assert spool.folder == spool_folder(tmp_path, "sftp://me:another@host/runs/fp8")
    spool.close()
    for path in [*tmp_path.rglob("*"), *tmp_path.rglob(".*")]:
        text = str(path) + (path.read_text() if path.is_file() else "")
        assert "hunter2pass" not in text
        assert "abcdefgh12345" not in text
    assert spool.state().url == "sftp://[redacted]@host/runs/fp8"
