"""The same MMLU items through every adapter that can run them here: how far apart are the numbers?

All adapters get one GGUF file. `hf` expands its weights to float32 and is the reference; lm-eval's own `hf` does the
same; llama.cpp computes with the 4-bit weights as they are. A last row gives llama.cpp the same weights expanded to
float32, so that the arithmetic is the reference's: what is left of the difference then is not the weights'.

Writes the table between `<!-- measured: adapters -->` and `<!-- /measured -->` of docs/adapters.md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring as m
from run_all import filled

from evalkit.adapters.base import Failure, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.benchmarks import load_benchmark
from evalkit.definitions import find_definitions
from evalkit.records import Item
from evalkit.suite import EngineSpec

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "adapters.md"
MODEL = "smollm2-135m-instruct"
TASK = "mmlu-0shot"
PER_SUBJECT = 4


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way of running the model.

    Attributes:
        name: as the table shows it.
        spec: the engine; a function where it needs a file that is made first.
        share: of the items that it is given.
    """

    name: str
    spec: Callable[[], dict[str, Any]]
    share: float = 1.0


def contestants(threads: int, expanded: Callable[[], Path]) -> list[Contestant]:
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
    ]


def main() -> int:
    """Score, compare, and write the table."""
    parser = m.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--items", type=int, default=200, help="items, those with the lowest digests")
    parser.add_argument("--threads", type=int, default=1, help="processor threads of each engine")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="document whose table is rewritten")
    parser.add_argument("--dry", action="store_true", help="print the table and leave the document alone")
    args = parser.parse_args()
    definitions = find_definitions()
    assets = AssetStore(definitions.root)
    items = chosen(assets, args.items)
    with tempfile.TemporaryDirectory() as folder:
        made: list[Path] = []

        def expanded() -> Path:
            if not made:
                made.append(expand(assets.fetch(MODEL).path, Path(folder) / "smollm2-135m-instruct-F32.gguf"))
            return made[0]

        found = {
            one.name: scored(one, items[: round(one.share * len(items))], assets)
            for one in contestants(args.threads, expanded)
        }
    findings = m.Findings(settings=vars(args), results={name: as_data(scores) for name, scores in found.items()})
    findings.tables.append(table(found))
    m.publish(__file__, findings, args.json)
    if not args.dry:
        text = filled(args.document.read_text("utf-8"), {"adapters": findings.tables[0].text("github")})
        args.document.write_text(text, "utf-8")
        m.say(f"written: {args.document}")
    return 0


Scores = Mapping[str, ScoreReply | Failure]
"""Item key to what an engine gave."""


def chosen(assets: AssetStore, count: int) -> list[Item]:
    """Return the items with the lowest digests among four of each subject: the same on every machine."""
    task = find_definitions().task(TASK).model_copy(update={"items_per_subject": PER_SUBJECT})
    return sorted(load_benchmark(task, assets).items, key=lambda item: item.item_sha256)[:count]


def scored(contestant: Contestant, items: Sequence[Item], assets: AssetStore) -> Scores:
    """Load an engine, score the items, free it."""
    spec = EngineSpec.model_validate({"name": "compared", "device": "cpu", **contestant.spec()})
    m.say(f"{contestant.name}: loading")
    engine = load_engine(spec, Resources(assets=assets))
    requests = [ScoreRequest(context=item.context or "", continuations=item.continuations) for item in items]
    replies: dict[str, ScoreReply | Failure] = {}

    def run() -> None:
        for index, reply in engine.score(requests):
            replies[items[index].key] = reply

    try:
        m.say(f"{contestant.name}: {len(items)} items in {m.seconds_of(run):.0f} s")
    finally:
        engine.close()
    return replies


def table(found: Mapping[str, Scores]) -> m.Table:
    """Compare everybody with the first."""
    reference = next(iter(found.values()))
    rows = []
    for name, scores in found.items():
        pairs = [
            (reply, reference[key])
            for key, reply in scores.items()
            if isinstance(reply, ScoreReply) and isinstance(reference[key], ScoreReply)
        ]
        apart = [
            abs(a - b)
            for reply, other in pairs
            if isinstance(other, ScoreReply)
            for a, b in zip(reply.logprobs, other.logprobs, strict=True)
        ]
        same = sum(best(reply) == best(other) for reply, other in pairs)
        missing = sum(isinstance(reply, Failure) for reply in scores.values())
        rows.append(
            (
                name,
                str(len(scores)),
                str(missing),
                f"{same} of {len(pairs)}",
                f"{max(apart, default=float('nan')):.2g}",
                f"{statistics.median(apart) if apart else float('nan'):.2g}",
            )
        )
    return m.Table(
        name="adapters",
        headers=("engine", "items", "failed", "same letter", "largest difference, nats", "median difference, nats"),
        rows=rows,
    )


def best(reply: Any) -> int:
    """Return the place of the likeliest option."""
    return int(reply.logprobs.index(max(reply.logprobs)))


def as_data(scores: Scores) -> dict[str, Any]:
    """Return what an engine gave as JSON data."""
    return {
        key: list(reply.logprobs) if isinstance(reply, ScoreReply) else f"{reply.kind}: {reply.message}"
        for key, reply in scores.items()
    }


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
