"""Reads exported checkpoints with whatever transformers is first on the path, and says what it makes of them.

In: on stdin a JSON list of checkpoints and a mapping of configuration folders to facts. Out: one JSON object on stdout:
version, for each checkpoint its fp32 logits and how the library's facts differ from those that `evalkit.json` records,
for each configuration how it differs from those facts; or the error.

Run as a program by `test_second_reader.py`, in this environment and in one with transformers 4. The model is the
library's own; only the packed weights are expanded by the project's code, which is the same in both.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from evalkit.adapters.checkpoint.reading import read_trace
from evalkit.adapters.checkpoint.resolved import config_facts, differences, folder_facts, generation_of
from evalkit.adapters.fakequant.exported import expand

TOKENS = torch.arange(5, 325).reshape(2, 160)


def read(folder: Path) -> dict[str, Any]:
    """Return the logits of the last positions, and the facts that differ."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    trace = read_trace(folder)
    assert trace is not None
    found = differences(trace.facts, folder_facts(folder, tokenizer))
    config = transformers.AutoConfig.from_pretrained(str(folder))
    del config.quantization_config
    tensors: dict[str, Any] = {}
    for shard in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(shard)
    weights = {}
    for name, tensor in tensors.items():
        if name.rpartition(".")[2] not in ("weight", "bias"):
            continue
        scale, second = tensors.get(f"{name}_scale"), tensors.get(f"{name}_scale_2")
        weights[name] = tensor.float() if scale is None else expand(tensor, scale, second)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing
    model.tie_weights()
    with torch.no_grad():
        logits = model.eval()(input_ids=TOKENS).logits
    return {"logits": logits[:, ::16, ::8].flatten().tolist(), "differences": found}


def compare(folder: str, facts: dict[str, Any]) -> list[str]:
    """Return how the library's reading of a configuration differs from facts."""
    config = transformers.AutoConfig.from_pretrained(folder)
    return differences(facts, config_facts(config, generation_of(transformers.__version__)))


def attempt(work: Any, *given: Any) -> Any:
    """Return what a reader says; whatever a library says of a folder that it cannot read is a finding too."""
    try:
        return work(*given)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Read every folder."""
    torch.set_num_threads(1)
    asked = json.load(sys.stdin)
    found = {
        "transformers": transformers.__version__,
        "checkpoints": {name: attempt(read, Path(name)) for name in asked["checkpoints"]},
        "configurations": {name: attempt(compare, name, facts) for name, facts in asked["configurations"].items()},
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
