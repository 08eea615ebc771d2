from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "tiny_models.py"

TRANSFORMERS_4 = ("transformers==4.57.3", "tokenizers==0.22.1", "huggingface-hub==0.36.0")
PLACE = Path(__file__).resolve().parents[2] / "build" / "transformers-4.57.3"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Iterator[Path]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waking a second thread takes longer than any product of matrices this small
    yield importlib.import_module("tiny_models").write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def transformers_4() -> Path:
    """A folder that makes transformers 4, as the stable TensorRT-LLM pins it, the first on the path; torch is shared.

    It is kept in `build/`, made once by pip from the package index, and the tests are skipped where there is none.
    """
    if not PLACE.exists():
        PLACE.parent.mkdir(exist_ok=True)
        part = PLACE.with_name(f"{PLACE.name}.{os.getpid()}")
        wanted = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(part),
            *TRANSFORMERS_4,
        ]
        done = subprocess.run(wanted, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            said = done.stderr.strip().splitlines() or ["pip said nothing"]
            pytest.skip(f"transformers 4 cannot be installed beside this environment: {said[-1]}")
        try:
            part.rename(PLACE)
        except OSError:  # another process of the tests was first
            shutil.rmtree(part, ignore_errors=True)
    return PLACE
