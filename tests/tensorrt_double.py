"""Makes the double of TensorRT-LLM importable, and real models in the folders it reads.

Tests import it by its name: pytest has this folder on its path.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

from evalkit.adapters.base import Resources
from evalkit.adapters.causal.loading import load_model
from evalkit.adapters.causal.options import CausalOptions
from evalkit.assets import AssetStore
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[1]
DOUBLES = ROOT / "tests" / "doubles"
NAME = "tensorrt_llm"
MODEL = "smollm2-135m-instruct"


@contextmanager
def installed(version: str = "1.3.0rc11") -> Iterator[ModuleType]:
    """Have the double as the installed `tensorrt_llm` of a version; afterwards there is none again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a second thread mostly waits, on a machine that does something else too
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == NAME}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORRT_LLM_DOUBLE_VERSION", version)
        patch.syspath_prepend(str(DOUBLES))
        importlib.import_module(f"{NAME}.faults")
        try:
            yield sys.modules[NAME]
        finally:
            for name in [name for name in sys.modules if name.split(".")[0] == NAME]:
                del sys.modules[name]
            sys.modules.update(kept)
            torch.set_num_threads(threads)


def real_folder(base: Path) -> Path:
    """Write SmolLM2 as a checkpoint folder in bfloat16, once for each base folder: TensorRT-LLM reads no GGUF files.

    Raises:
        AssetError: no source of the model is reachable.
    """
    folder = base / "smollm2-checkpoint"
    if not folder.exists():
        spec = EngineSpec(name="convert", adapter="hf", model=MODEL, dtype="bfloat16", device="cpu")
        loaded = load_model(spec, CausalOptions(threads=1), Resources(assets=AssetStore(ROOT)))
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
    return folder
