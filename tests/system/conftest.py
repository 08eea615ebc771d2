from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[1] / "tiny_models.py"


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Iterator[Path]:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waking a second thread takes longer than any product of matrices this small
    yield importlib.import_module("tiny_models").write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
    torch.set_num_threads(threads)
