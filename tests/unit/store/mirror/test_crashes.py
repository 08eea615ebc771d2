"""A run sent to a store in memory, with the process gone, or an answer lost, at every single operation of the store."""

from __future__ import annotations

import contextlib
import shutil

import pytest

from evalkit.errors import StoreError
from evalkit.store import RunFolder, read_run
from evalkit.store.mirror.fetching import piece_of
from evalkit.store.mirror.lease import LeaseLostError


def plain(files):
    return {name: data for name, data in files.items() if piece_of(name) is None and ".evalkit-lease/" not in name}


def finish(opened, work, spool):
    with opened(spool) as mirror:
        work(mirror.root, mirror.send, set())


def run_until(fault, opened, work, bucket, sent):
    """Work with a fault planned; return whether the process came to its end."""
    bucket.plan = fault
    try:
        with opened("first") as mirror:
            work(mirror.root, mirror.send, sent)
    except BaseException as error:
        if type(error).__name__ == "Crash":
            return False
        raise
    return True


def test_a_finished_run_lies_there_as_it_would_lie_here(opened, work, bucket, local_bytes):
    finish(opened, work, "first")
    assert plain(bucket.files()) == local_bytes
    kinds = [piece_of(name)[1].kind for name in bucket.files() if piece_of(name)]
    assert kinds == ["done", "done"]


@pytest.mark.parametrize("how", ["crash-before", "crash-after"])
def test_no_record_is_lost_or_doubled_whenever_the_process_vanishes(
    how, quick, opened, work, bucket, ticking, read_there, local_bytes
):
    number, ended, tried = 0, False, 0
    while not ended:
        number += 1
        bucket.empty()
        sent = set()
        ended = run_until(lambda n, at=number: how if n == at else None, opened, work, bucket, sent)
        bucket.revive()
        folder = read_there()
        if folder is not None:
            keys = [record.key for record in read_run(folder).records["quiz"]]  # a doubled key would raise
            assert sent <= set(keys), bucket.seen[number - 1]
        else:
            assert not sent
        finish(opened, work, "first" if number % 2 else f"other-{how}-{number}")
        assert plain(bucket.files()) == local_bytes, f"after {bucket.seen[number - 1]}"
        tried += 1
        clean_spools(opened, bucket)
    assert tried > 30


def send_or_wait(mirror):
    with contextlib.suppress(StoreError):
        mirror.send()


def clean_spools(opened, bucket):
    """Give the next round machines that have seen nothing."""
    for folder in opened("first")._spools.parent.iterdir():
        if folder.name.startswith(("first", "other", "reader")):
            shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["refused", "lost"])
def test_an_outage_at_any_operation_changes_nothing_in_the_end(how, quick, opened, work, bucket, ticking, local_bytes):
    number, met = 0, True
    while met:
        number += 1
        bucket.empty()
        outage = range(number, number + 4)  # one more try than the folder makes by itself, so that it gives up

        def fate(n, outage=outage):
            return how if n in outage else None

        bucket.plan = fate
        try:
            with opened("first") as mirror:
                work(mirror.root, lambda mirror=mirror: send_or_wait(mirror), set())
        except StoreError:  # taking the folder, or giving it back, may fail; then somebody goes on
            bucket.revive()
            finish(opened, work, "first")
        met = bucket.count >= number
        assert plain(bucket.files()) == local_bytes, f"operation {number}"
        clean_spools(opened, bucket)
    assert number > 30


def test_a_writer_that_was_taken_for_dead_sends_nothing_that_counts(opened, work, make, bucket, ticking, read_there):
    slow = opened("slow")
    slow.__enter__()
    folder = RunFolder.create_or_resume(slow.root, make["asking"]([make["item"](number) for number in range(7)]))
    folder.append_records("quiz", [make["record"](number) for number in (1, 2)])
    slow.send()
    late = {name: data for name, data in bucket.files().items() if piece_of(name)}
    folder.append_records("quiz", [make["record"](number) for number in (3, 4)])
    with opened("quick") as other:  # waits for a sign of life that does not come, then takes over
        work(other.root, other.send, set())
    ticking.sleep(200)
    with pytest.raises(LeaseLostError, match="has taken this folder over"):
        slow.send()
    before = bucket.files()
    name, data = next(iter(late.items()))
    stray = name.replace("-00000001-", "-00000009-").replace(".whole", ".part")
    bucket.pipe_file(f"/bucket/run/{stray}", data)  # a request of the slow one that arrives after everything
    assert [record.item_sha256 for record in read_run(read_there()).records["quiz"]] == sorted(
        make["record"](number).item_sha256 for number in range(7)
    )
    folder.close()
    with pytest.raises(LeaseLostError):
        slow.close()
    assert {name: data for name, data in bucket.files().items() if name != stray} == before
