from __future__ import annotations

import os
import resource
import subprocess
import sys

import pytest

from evalkit.errors import DataError, IdentityMismatchError, StoreError, UsageError
from evalkit.records import Manifest
from evalkit.store import RunFolder, read_items, read_run


def test_what_is_written_is_read_back_in_key_order(tmp_path, make):
    records = [make["record"](number) for number in range(20)]
    items = [make["item"](number) for number in range(20)]
    with RunFolder.create_or_resume(tmp_path / "run", make["asking"](items)) as folder:
        folder.write_items("quiz", items)
        folder.append_records("quiz", records[:7])
        folder.append_records("quiz", records[7:])
    run = read_run(tmp_path / "run")
    assert run.records["quiz"] == tuple(sorted(records, key=lambda record: record.key))
    assert read_items(tmp_path / "run", "quiz") == tuple(make["item"](number) for number in range(20))
    assert run.judgments == {}


def test_a_finished_task_has_the_same_bytes_whatever_the_order_of_work(tmp_path, make):
    records = [make["record"](number) for number in range(20)]
    paths = []
    for name, order in (("one", records), ("two", records[::-1])):
        with RunFolder.create_or_resume(tmp_path / name, make["manifest"]()) as folder:
            folder.append_records("quiz", order)
            folder.finish("quiz")
        paths.append(tmp_path / name)
    first, second = ((path / "records" / "quiz.jsonl").read_bytes() for path in paths)
    assert first == second
    assert read_run(paths[0]).records_sha256("quiz") == read_run(paths[1]).records_sha256("quiz")


def test_the_records_digest_does_not_depend_on_finishing(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in (3, 1, 2)])
        before = folder.read().records_sha256("quiz")
        folder.finish("quiz")
        assert folder.read().records_sha256("quiz") == before


@pytest.mark.parametrize("tail", [b'{"task":"qu', b'{"task":"quiz"}\n', b"\x00\x00\x00\x00", b"\xff\xfe\n"])
def test_a_torn_last_line_is_cut_and_reported(tmp_path, make, tail):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(3)])
    file = tmp_path / "records" / "quiz.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + tail)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        assert len(folder.repairs) == 1
        assert "quiz.jsonl" in folder.repairs[0]
        assert len(folder.done_keys("quiz")) == 3
    assert file.read_bytes() == whole


def test_a_torn_line_longer_than_a_read_block_is_cut(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
    file = tmp_path / "records" / "quiz.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole + b"x" * 200_000)
    RunFolder.create_or_resume(tmp_path, make["manifest"]()).close()
    assert file.read_bytes() == whole


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()):
        pass
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "quiz.jsonl").write_bytes(b'{"task"')
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        assert folder.done_keys("quiz") == frozenset()


def test_a_reader_refuses_a_torn_line_instead_of_cutting_it(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
    file = tmp_path / "records" / "quiz.jsonl"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"quiz\.jsonl:1: .*cut off"):
        read_run(tmp_path)


def test_a_garbled_line_in_the_middle_is_named_by_file_and_line(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(3)])
        file = tmp_path / "records" / "quiz.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(lines[0] + b"garbage\n" + lines[2])
        with pytest.raises(DataError, match=r"quiz\.jsonl:2"):
            folder.done_keys("quiz")
    with pytest.raises(DataError, match=r"quiz\.jsonl:2"):
        read_run(tmp_path)


def test_a_duplicate_key_is_refused_by_every_reader(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1), make["record"](2), make["record"](1)])
        with pytest.raises(DataError, match=r"quiz\.jsonl:3.*second line"):
            folder.done_keys("quiz")
        with pytest.raises(DataError, match="two lines"):
            folder.finish("quiz")
    with pytest.raises(DataError, match=r"quiz\.jsonl:3.*second line"):
        read_run(tmp_path)


def test_a_record_of_another_task_is_refused(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1, task="other")])
    with pytest.raises(DataError, match="'other'"):
        read_run(tmp_path)


def test_records_without_a_task_in_the_manifest_are_refused(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("other", [make["record"](1, task="other")])
    with pytest.raises(DataError, match="'other' is not in"):
        read_run(tmp_path)


def test_every_difference_of_identity_is_named_with_both_values(tmp_path, make):
    RunFolder.create_or_resume(tmp_path, make["manifest"](policy_sha256="p")).close()
    before = (tmp_path / "manifest.json").read_bytes()
    other = make["manifest"](
        policy_sha256="q",
        engine=make["identity"](dtype="bfloat16", versions={"scripted": "2"}),
        tasks={"quiz": make["task"](shots=5)},
    )
    with pytest.raises(IdentityMismatchError) as caught:
        RunFolder.create_or_resume(tmp_path, other)
    for words in (
        "engine.dtype: folder has 'float32', asked for 'bfloat16'",
        "engine.versions.scripted: folder has '1', asked for '2'",
        "policy_sha256: folder has 'p', asked for 'q'",
        "tasks.quiz.shots: folder has 0, asked for 5",
    ):
        assert words in str(caught.value)
    assert (tmp_path / "manifest.json").read_bytes() == before
    RunFolder.create_or_resume(tmp_path, make["manifest"](policy_sha256="p")).close()


def test_a_new_task_is_added_to_a_run_of_the_same_identity(tmp_path, make):
    RunFolder.create_or_resume(tmp_path, make["manifest"](command="first")).close()
    asked = make["manifest"](tasks={"more": make["task"](shots=5)}, command="second", requested={"model": "tiny"})
    RunFolder.create_or_resume(tmp_path, asked).close()
    found = Manifest.from_json((tmp_path / "manifest.json").read_text())
    assert sorted(found.tasks) == ["more", "quiz"]
    assert found.command == "first"
    assert found.requested == {"model": "tiny"}


def test_a_second_writer_is_refused_with_the_holder(tmp_path, make):
    code = (
        "import sys; from pathlib import Path; from evalkit.store.lines import acquire\n"
        "try: acquire(Path(sys.argv[1]) / 'lock')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()):
        seen = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True, timeout=600
        ).stdout
    assert "StoreError" in seen
    assert f"process {os.getpid()} on host {os.uname().nodename}" in seen
    RunFolder.create_or_resume(tmp_path, make["manifest"]()).close()


def test_the_lock_of_a_dead_process_is_taken_over_and_reported(tmp_path, make):
    code = (
        "import os, sys; from pathlib import Path; from evalkit.store.lines import acquire\n"
        "acquire(Path(sys.argv[1]) / 'lock'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=600)
    assert "pid" in (tmp_path / "lock").read_text()
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        assert "had died" in folder.repairs[0]
    assert (tmp_path / "lock").read_text() == ""


def test_a_full_disk_leaves_whole_lines_and_says_how_to_resume(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(5)])
        file = tmp_path / "records" / "quiz.jsonl"
        whole = file.read_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, hard))
        try:
            with pytest.raises(StoreError, match=r"the 5 line\(s\) before them are kept.*resume"):
                folder.append_records("quiz", [make["record"](6)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert file.read_bytes() == whole
        folder.append_records("quiz", [make["record"](6)])
        assert len(folder.done_keys("quiz")) == 6


def test_a_part_of_the_items_is_never_written_as_all_of_them(tmp_path, make):
    items = [make["item"](number) for number in range(50)]
    with RunFolder.create_or_resume(tmp_path, make["asking"](items)) as folder:
        for wrong in (items[:32], [*items[:49], make["item"](77)], []):
            with pytest.raises(DataError, match=r"quiz\.jsonl: .* not the digest .* next step: "):
                folder.write_items("quiz", wrong)
            assert list((tmp_path / "items").iterdir()) == []
        file = tmp_path / "items" / "quiz.jsonl"
        file.write_text("".join(item.to_json() + "\n" for item in items[:32]))  # as a night once left it
        folder.write_items("quiz", items)
        assert len(read_items(tmp_path, "quiz")) == 50


def test_a_full_disk_never_leaves_half_an_items_file(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            with pytest.raises(StoreError, match="cannot be written"):
                folder.write_items("quiz", [make["item"](number) for number in range(50)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert list((tmp_path / "items").iterdir()) == []


def test_failed_records_are_dropped_to_be_asked_again(tmp_path, make):
    failed = make["record"](2, status="failed", failure="transport: reset", reply=None, marks={})
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1), failed])
        assert len(folder.done_keys("quiz")) == 2
        assert folder.drop_failed("quiz") == 1
        assert folder.done_keys("quiz") == {make["record"](1).key}


def test_one_judge_per_task(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.set_judge("quiz", make["judge"]())
        folder.append_judgments("quiz", [make["judgment"](2), make["judgment"](1)])
        folder.set_judge("quiz", make["judge"]())
        with pytest.raises(IdentityMismatchError, match=r"judges\.quiz\.profile: folder has 'strict', asked for 'x'"):
            folder.set_judge("quiz", make["judge"](profile="x"))
        folder.finish_judgments("quiz")
    run = read_run(tmp_path)
    assert run.manifest.judges["quiz"].identity.sha256 == make["judge"]().identity.sha256
    assert run.manifest.judges["quiz"].scale == (1.0, 10.0)
    assert {judgment.item_sha256 for judgment in run.judgments["quiz"]} == {
        make["judgment"](number).item_sha256 for number in (1, 2)
    }


def test_two_judgments_of_one_answer_are_refused(tmp_path, make):
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.set_judge("quiz", make["judge"]())
        folder.append_judgments("quiz", [make["judgment"](1), make["judgment"](1, key="other")])
    with pytest.raises(DataError, match="second line"):
        read_run(tmp_path)


def test_a_folder_without_a_run_is_a_wrong_request(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.json is missing"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", '{"format": 99}', "[]", "\ud800"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_run(tmp_path)


def test_leftovers_of_an_interrupted_rewrite_are_removed(tmp_path, make):
    RunFolder.create_or_resume(tmp_path, make["manifest"]()).close()
    (tmp_path / ".manifest.json.77.tmp").write_text("half")
    RunFolder.create_or_resume(tmp_path, make["manifest"]()).close()
    assert not (tmp_path / ".manifest.json.77.tmp").exists()


def test_task_names_that_are_no_file_names(tmp_path, make):
    task = "lm_eval:a/b"
    with RunFolder.create_or_resume(tmp_path, make["manifest"](tasks={task: make["task"]()})) as folder:
        folder.append_records(task, [make["record"](1, task=task)])
    assert list(read_run(tmp_path).records) == [task]
