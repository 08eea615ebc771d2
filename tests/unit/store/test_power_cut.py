"""What counts as written is there after a power cut: a simulated disk that keeps only what was flushed.

A file's bytes survive as they were at its last flush, a name in a folder as it was when the folder was flushed. What
was written since then may be there, in part, or with holes of zeros where blocks had not arrived.
"""

from __future__ import annotations

import os
import random
import stat
from pathlib import Path

import pytest

from evalkit.errors import DataError
from evalkit.store import RunFolder, read_run

BLOCK = 512


class Disk:
    """Remembers what every flush has made safe."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: dict[str, dict[str, int]] = {}
        self.bytes: dict[int, bytes] = {}
        self._fsync = os.fsync

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path, status = Path(f"/proc/self/fd/{descriptor}").readlink(), os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self.names[str(path)] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self.bytes[status.st_ino] = path.read_bytes()

    def after_power_cut(self, target: Path) -> Path:
        """Build the folder as it is found when the machine starts again."""
        self._build(self.root, target)
        return target

    def _build(self, folder: Path, target: Path) -> None:
        target.mkdir(parents=True)
        for name, inode in self.names.get(str(folder), {}).items():
            if str(folder / name) in self.names or (folder / name).is_dir():
                self._build(folder / name, target / name)
            else:
                (target / name).write_bytes(self.bytes.get(inode, b""))


@pytest.fixture
def disk(tmp_path, monkeypatch):
    made = Disk(tmp_path / "machine")
    made.root.mkdir()
    monkeypatch.setattr(os, "fsync", made.fsync)
    return made


def test_every_batch_that_counts_is_there_after_a_power_cut(tmp_path, make, disk):
    items = [make["item"](number) for number in range(30)]
    claimed: set[str] = set()
    with RunFolder.create_or_resume(disk.root / "outputs" / "suite" / "run", make["asking"](items)) as folder:
        folder.write_items("quiz", items)
        for begin in range(0, 30, 7):
            batch = [make["record"](number) for number in range(begin, min(begin + 7, 30))]
            folder.append_records("quiz", batch)
            claimed |= {record.key for record in batch}
            found = disk.after_power_cut(tmp_path / f"cut-{begin}") / "outputs" / "suite" / "run"
            with RunFolder.create_or_resume(found, make["asking"](items)) as again:
                assert again.done_keys("quiz") == claimed
                assert again.items("quiz") == tuple(items)
        folder.finish("quiz")
    found = disk.after_power_cut(tmp_path / "end") / "outputs" / "suite" / "run"
    assert read_run(found).records == read_run(folder.path).records


def test_what_a_killed_process_left_unflushed_is_flushed_before_it_counts(make, disk):
    path = disk.root / "run"
    with RunFolder.create_or_resume(path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](1)])
    file = path / "records" / "quiz.jsonl"
    with file.open("a") as stream:  # killed after the write, before the flush
        stream.write(make["record"](2).to_json() + "\n")
    with RunFolder.create_or_resume(path, make["manifest"]()) as folder:
        assert len(folder.done_keys("quiz")) == 2
        assert disk.bytes[file.stat().st_ino] == file.read_bytes()


@pytest.mark.parametrize("seed", range(12))
def test_holes_cost_the_batch_on_its_way_and_no_other(tmp_path, make, seed):
    dice = random.Random(seed)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(40)])
        file = tmp_path / "records" / "quiz.jsonl"
        safe = file.read_bytes()
        folder.append_records("quiz", [make["record"](number) for number in range(40, 60)])
    whole = bytearray(file.read_bytes())
    blocks = list(range(len(safe) - len(safe) % BLOCK + BLOCK, len(whole), BLOCK))
    for at in dice.sample(blocks, dice.randrange(1, len(blocks))):
        whole[at : at + BLOCK] = bytes(len(whole[at : at + BLOCK]))
    file.write_bytes(whole)
    with pytest.raises(DataError, match=r"quiz\.jsonl"):
        read_run(tmp_path)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        (repair,) = folder.repairs
        assert "which a crash left unfinished" in repair
        assert 40 <= len(folder.done_keys("quiz")) < 60
    assert file.read_bytes().startswith(safe)


def test_a_hole_far_from_the_end_is_damage_and_is_not_cut(tmp_path, make, monkeypatch):
    monkeypatch.setattr("evalkit.store.lines._IN_FLIGHT", 1000)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        folder.append_records("quiz", [make["record"](number) for number in range(20)])
    file = tmp_path / "records" / "quiz.jsonl"
    whole = bytearray(file.read_bytes())
    whole[700:720] = bytes(20)
    file.write_bytes(whole)
    with RunFolder.create_or_resume(tmp_path, make["manifest"]()) as folder:
        assert folder.repairs == ()
        with pytest.raises(DataError, match=r"quiz\.jsonl:2: .*restore the file"):
            folder.done_keys("quiz")
    assert file.read_bytes() == whole
