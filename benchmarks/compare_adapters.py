"""The same MMLU items through every adapter that can run them here: how far apart are the numbers?

All adapters get one GGUF file. `hf` expands its weights to float32 and is the reference; lm-eval's own `hf` does the
same; llama.cpp computes with the 4-bit weights as they are. A last row gives llama.cpp the same weights expanded to
float32, so that the arithmetic is the reference's: what is left of the difference then is not the weights'.
TensorRT-LLM needs a GPU; its double of the tests, with the same weights in float32 behind it, shows that the adapter
reads what it is given.

Writes the table between `<!-- measured: adapters -->` and `<!-- /measured -->` of docs/adapters.md. `--keep FILE` takes
the numbers of engines that an earlier JSON file holds instead of running them again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring as m
from run_all import filled

from evalkit.adapters.base import Failure, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.causal.loading import load_model
from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks import load_benchmark
from evalkit.definitions import find_definitions
from evalkit.records import Item
from evalkit.suite import EngineSpec

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "adapters.md"
DOUBLE = ROOT / "tests" / "tensorrt_double.py"
MODEL = "smollm2-135m-instruct"
TASK = "mmlu-0shot"
PER_SUBJECT = 4


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of running the model.

    Attributes:
        name: as the table shows it.
        spec: the engine; a function, for it may need a file that is made first.
        share: of the items that it is given.
        within: what must be in place while it runs.
    """

    name: str
    spec: Callable[[], dict[str, Any]]
    share: float = 1.0
    within: Callable[[], AbstractContextManager[Any]] = nullcontext


def contestants(threads: int, expanded: Callable[[], Path], folder: Callable[[], Path]) -> list[Contestant]:
    """Return the reference first, then everybody else."""
    llama = {"threads": threads, "max_length": 2048}
    exact = {**llama, "kv_cache": "f32", "flash_attention": "off"}
    return [
        Contestant(
            name="`hf`, float32 (reference)",
            spec=lambda: {"adapter": "hf", "model": MODEL, "dtype": "float32", "options": {"threads": threads}},
        ),
        Contestant(
            name="`lm_eval`, model `hf`, float32",
            spec=lambda: {
                "adapter": "lm_eval",
                "model": "hf",
                "dtype": "float32",
                "options": {"asset": MODEL, "threads": threads, "batch_size": 4},
            },
        ),
        Contestant(
            name="`hf`, bfloat16",
            spec=lambda: {"adapter": "hf", "model": MODEL, "dtype": "bfloat16", "options": {"threads": threads}},
        ),
        Contestant(
            name="`llama_cpp`, llama.cpp's server",
            spec=lambda: {"adapter": "llama_cpp", "model": MODEL, "options": llama},
        ),
        Contestant(
            name="`llama_cpp`, weights and cache expanded to float32",
            spec=lambda: {"adapter": "llama_cpp", "model": str(expanded()), "options": exact},
            share=0.2,
        ),
        Contestant(
            name="`tensorrt_llm` on its double, float32",
            spec=lambda: {
                "adapter": "tensorrt_llm",
                "model": str(folder()),
                "dtype": "float32",
                "device": "auto",
                "options": {"max_length": 2048},
            },
            within=double,
        ),
    ]


Scores = Mapping[str, Sequence[float] | str]
"""Item key to the log-probabilities of its letters, or to why there are none."""


def main() -> int:
    """Score, compare, and write the table."""
    args = _arguments()
    assets = AssetStore(find_definitions().root)
    items = chosen(assets, args.items)
    kept = json.loads(args.keep.read_text("utf-8"))["results"] if args.keep else {}
    with tempfile.TemporaryDirectory() as folder:
        everybody = contestants(
            args.threads,
            lambda: expand(assets.fetch(MODEL).path, Path(folder) / "smollm2-135m-instruct-F32.gguf"),
            lambda: as_folder(assets, Path(folder) / "smollm2-135m-instruct"),
        )
        found = {
            one.name: kept.get(one.name) or scored(one, items[: round(one.share * len(items))], assets)
            for one in everybody
        }
    findings = m.Findings(settings=vars(args), results=dict(found))
    findings.tables.append(table(found))
    m.publish(__file__, findings, args.json)
    if not args.dry:
        text = filled(args.document.read_text("utf-8"), {"adapters": findings.tables[0].text("github")})
        args.document.write_text(text, "utf-8")
        m.say(f"written: {args.document}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--items", type=int, default=200, help="items, those with the lowest digests")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of each engine")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="JSON file of an earlier run, whose engines are kept")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="document whose table is rewritten")
    parser.add_argument("--dry", action="store_true", help="print the table and leave the document alone")
    return parser.parse_args()


def chosen(assets: AssetStore, count: int) -> list[Item]:
    """Return the items with the lowest digests among four of each subject: the same on every machine."""
    task = find_definitions().task(TASK).model_copy(update={"items_per_subject": PER_SUBJECT})
    return sorted(load_benchmark(task, assets).items, key=lambda item: item.item_sha256)[:count]


def scored(contestant: Contestant, items: Sequence[Item], assets: AssetStore) -> Scores:
    """Load an engine, score the items, free it."""
    m.say(f"{contestant.name}: loading")
    requests = [ScoreRequest(context=item.context or "", continuations=item.continuations) for item in items]
    found: dict[str, Sequence[float] | str] = {}
    with contestant.within():
        spec = EngineSpec.model_validate({"name": "compared", "device": "cpu", **contestant.spec()})
        engine = load_engine(spec, Resources(assets=assets))

        def run() -> None:
            for index, reply in engine.score(requests):
                found[items[index].key] = _plain(reply)

        try:
            m.say(f"{contestant.name}: {len(items)} items in {m.seconds_of(run):.0f} s")
        finally:
            engine.close()
    return found


def _plain(reply: ScoreReply | Failure) -> Sequence[float] | str:
    return list(reply.logprobs) if isinstance(reply, ScoreReply) else f"{reply.kind}: {reply.message}"


def table(found: Mapping[str, Scores]) -> m.Table:
    """Compare everybody with the first."""
    reference = next(iter(found.values()))
    rows = []
    for name, scores in found.items():
        pairs = [
            (values, other)
            for key, values in scores.items()
            if not isinstance(values, str) and not isinstance(other := reference[key], str)
        ]
        apart = [abs(a - b) for values, other in pairs for a, b in zip(values, other, strict=True)]
        same = sum(best(values) == best(other) for values, other in pairs)
        failed = sum(isinstance(values, str) for values in scores.values())
        largest, median = (max(apart), statistics.median(apart)) if apart else (float("nan"), float("nan"))
        rows.append((name, str(len(scores)), str(failed), f"{same} of {len(pairs)}", f"{largest:.2g}", f"{median:.2g}"))
    return m.Table(
        name="adapters",
        headers=("engine", "items", "failed", "same letter", "largest difference, nats", "median difference, nats"),
        rows=rows,
    )


def best(values: Sequence[float]) -> int:
    """Return the place of the likeliest option.

    >>> best([-2.0, -1.0, -3.0])
    1
    """
    return list(values).index(max(values))


@contextmanager
def double() -> Iterator[None]:
    """Have the tests' double of TensorRT-LLM as the installed one."""
    spec = importlib.util.spec_from_file_location("tensorrt_double", DOUBLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.installed():
        yield


def as_folder(assets: AssetStore, target: Path) -> Path:
    """Write the model as a checkpoint folder in float32: TensorRT-LLM reads no GGUF files."""
    spec = EngineSpec(name="convert", adapter="hf", model=MODEL, dtype="float32", device="cpu")
    loaded = load_model(spec, CausalOptions(threads=1), Resources(assets=assets))
    loaded.model.save_pretrained(target)
    loaded.tokenizer.save_pretrained(target)
    return target


def expand(source: Path, target: Path) -> Path:
    """Write a GGUF file with every tensor expanded to float32; metadata stay as they are."""
    import gguf  # noqa: PLC0415 - an extra
    import numpy as np  # noqa: PLC0415

    reader = gguf.GGUFReader(source)
    kind = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, str(kind))
    for name, field in reader.fields.items():
        if name == "general.architecture" or name.startswith("GGUF."):
            continue
        value = 0 if name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, values, raw_dtype=gguf.GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


if __name__ == "__main__":
    sys.exit(main())
