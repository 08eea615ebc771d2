"""Digests of finished files: a flipped bit in a stored run is named, whichever file it is in."""

from __future__ import annotations

import hashlib
import importlib
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from evalkit.errors import DataError, EvalkitError
from evalkit.store import RunFolder, read_manifest, read_run
from evalkit.store.lines import SUMS

FILE = Path(__file__).resolve().parents[2] / "release_folders.py"
FLIPS = 60


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = importlib.import_module("release_folders").make_release(tmp_path_factory.mktemp("d") / "release", items=40)
    return made.folder / "equal"


@pytest.fixture
def run(stored: Path, tmp_path: Path) -> Path:
    shutil.copytree(stored, tmp_path / "equal")
    return tmp_path / "equal"


def _named(run: Path) -> str:
    """What reading the run says is wrong; nothing for a run that is believed."""
    try:
        found = read_run(run)
    except EvalkitError as error:
        return str(error)
    return " ".join(why for said in found.contradictions.values() for why in said)


def _flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))


def test_a_finished_run_has_digests_that_sha256sum_checks(run: Path) -> None:
    assert _named(run) == ""
    lines = (run / SUMS).read_text("utf-8").splitlines()
    names = [line[66:] for line in lines]
    asked = [(kind, task) for kind in ("items", "records") for task in ("mmlu", "mt-bench")]
    files = {f"{kind}/{task}.jsonl" for kind, task in (*asked, ("judgments", "mt-bench"))}
    assert names == sorted({*files, "manifest.json"})
    assert lines[0][:64] == hashlib.sha256((run / names[0]).read_bytes()).hexdigest()
    program = shutil.which("sha256sum")
    if program is not None:
        subprocess.run([program, "--check", "--quiet", SUMS], cwd=run, check=True)


@pytest.mark.parametrize("seed", range(FLIPS))
def test_every_flipped_bit_is_named(run: Path, seed: int) -> None:
    rng = random.Random(seed)
    files = sorted(file for file in run.rglob("*") if file.is_file() and file.stat().st_size)
    file = files[seed % len(files)]
    _flip(file, rng)
    said = _named(run)
    assert said, f"a bit of {file.name} was flipped and nobody noticed"
    assert file.name in said or SUMS in said


@pytest.mark.parametrize("seed", range(20))
def test_without_digests_a_flipped_mark_is_still_named(run: Path, seed: int) -> None:
    """An older folder: what is derived is held against what it was derived from."""
    (run / SUMS).unlink()
    rng = random.Random(1000 + seed)
    file = run / "records" / "mmlu.jsonl"
    lines = file.read_text("utf-8").splitlines()
    at = rng.randrange(len(lines))
    right = '"acc":1.0' in lines[at]
    lines[at] = lines[at].replace('"acc":1.0', '"acc":0.0') if right else lines[at].replace('"acc":0.0', '"acc":1.0')
    file.write_text("\n".join(lines) + "\n", "utf-8")
    assert f"records/mmlu.jsonl:{at + 1}: " in _named(run)


def test_a_changed_file_is_not_built_upon_and_not_blessed(run: Path) -> None:
    file = run / "records" / "mt-bench.jsonl"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[1:]), "utf-8")
    with RunFolder.create_or_resume(run, read_manifest(run)) as folder:
        with pytest.raises(DataError, match="changed since it was finished"):
            folder.drop_failed("mt-bench")
        folder.finish("mt-bench")
    assert "changed since it was finished" in _named(run)


def test_a_file_that_is_written_again_has_no_digest_until_it_is_finished(run: Path) -> None:
    with RunFolder.create_or_resume(run, read_manifest(run)) as folder:
        folder.drop_judgments("mt-bench", lambda judgment: judgment.turn == 1)
        assert "judgments/" not in (run / SUMS).read_text("utf-8")
        folder.finish_judgments("mt-bench")
    assert "judgments/mt-bench.jsonl" in (run / SUMS).read_text("utf-8")
    assert _named(run) == ""
