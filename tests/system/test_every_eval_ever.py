"""Exports in the form of Every Eval Ever, read by its own validator and held against its own schemas.

The package wants a newer Python than evalkit does, so its wheel is fetched for that Python and unpacked into a folder;
its validator runs all the same. Where the wheel cannot be had the test is skipped.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from evalkit.interop import export_eee

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

WANTED = "every-eval-ever==0.3.0"
FILE = Path(__file__).resolve().parents[1] / "release_folders.py"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("eee")
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    out = subprocess.run([*argv, WANTED, "-d", str(folder)], capture_output=True, text=True, check=False, timeout=600)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        pytest.skip(f"{WANTED} cannot be had: {out.stderr[-200:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        wheel.extractall(folder / "package")
    return folder / "package"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("exported")
    release = importlib.import_module("release_folders").make_release(root / "release", items=60)
    done = export_eee(release.folder / "worse", root / "out", organization="An Organization", model="org/small-model")
    return done.files


def test_both_files_fit_the_schemas(package: Path, exported: tuple[Path, Path]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schemas = package / "every_eval_ever" / "schemas"
    aggregate = json.loads((schemas / "eval.schema.json").read_text())
    instance = json.loads((schemas / "instance_level_eval.schema.json").read_text())
    jsonschema.validate(json.loads(exported[0].read_text()), aggregate)
    rows = exported[1].read_text().splitlines()
    assert len(rows) == 60 + 8
    for row in rows:
        jsonschema.validate(json.loads(row), instance)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(exported[0].read_text()), "more": 1}, aggregate)


def test_its_own_validator_has_no_word_against_them(package: Path, exported: tuple[Path, Path]) -> None:
    pytest.importorskip("rich")
    code = (
        f"import sys; sys.path.insert(0, {str(package)!r}); sys.argv = ['every_eval_ever', 'validate', *sys.argv[1:]]\n"
        "from every_eval_ever.cli import main\nsys.exit(main())"
    )
    root = exported[0].parents[4]
    files = [str(file.relative_to(root)) for file in exported]
    out = subprocess.run(
        [sys.executable, "-c", code, *files], cwd=root, capture_output=True, text=True, check=False, timeout=600
    )
    if "ModuleNotFoundError" in out.stderr or "ImportError" in out.stderr:
        pytest.skip(f"the validator's own packages are not here: {out.stderr.splitlines()[-1]}")
    assert out.returncode == 0, out.stdout[-3000:] + out.stderr[-2000:]  # 2 would be warnings only: not good enough
    assert "2 passed" in out.stdout
