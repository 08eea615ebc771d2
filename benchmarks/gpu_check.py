"""Scores of `hf` and `modelopt` on CUDA against those of the processor, for the same requests.

It shows whether a GPU computes what the tests prove on a processor: the share of equal choices, the largest and the
mean difference of a log-probability, and whether the same quantizers were read back. Without a GPU it says so and exits
with 2. Requests are continuations of texts that come with evalkit, or MMLU (--mmlu DIR, Hendrycks' layout).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring as m
import torch

from evalkit.adapters.base import Engine, Failure, Resources, ScoreReply, ScoreRequest
from evalkit.adapters.fakequant.quantize import SHIPPED, read_texts
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.definitions import find_definitions
from evalkit.suite import EngineSpec

NO_GPU = 2
RECIPES = ("none", "modelopt-fp8-kv", "llama-official-fp8")
OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Case:
    """One engine, on two devices."""

    recipe: str
    dtype: str
    model: str

    @property
    def adapter(self) -> str:
        """The adapter that runs the recipe."""
        return "hf" if self.recipe == "none" else "modelopt"


def main(argv: Sequence[str] | None = None) -> int:
    """Compare every case on both devices; return 2 without a GPU."""
    args = _arguments().parse_args(argv)
    if not torch.cuda.is_available():
        m.say(
            f"no CUDA GPU: torch {torch.__version__} sees none, so there is nothing to compare with the processor; "
            "next step: run this on a machine with an NVIDIA GPU and a CUDA build of torch"
        )
        return NO_GPU
    found = m.Findings(settings={**vars(args), "gpu": torch.cuda.get_device_name(0)})
    assets = AssetStore(find_definitions().root)
    asked = mmlu_requests(args.mmlu, args.items) if args.mmlu else text_requests(args.items)
    cases = [
        Case(recipe=recipe, dtype=dtype, model=args.model)
        for recipe in args.recipe or RECIPES
        for dtype in args.dtype or ("float32", "bfloat16")
    ]
    rows = []
    for case in cases:
        m.say(f"{case.adapter}, recipe {case.recipe}, {case.dtype}")
        numbers = compare_devices(case, ("cpu", "cuda"), asked, Resources(assets=assets))
        found.results[f"{case.recipe}/{case.dtype}"] = numbers
        rows.append(row_of(case, numbers))
    heads = ["adapter", "recipe", "dtype", "items", "same choice", "largest, nats", "mean, nats", "quantizers"]
    found.tables = [m.Table(name="gpu-check", headers=heads, rows=rows)]
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = m.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="asset, folder or hub id")
    parser.add_argument("--recipe", action="append", help="may be repeated; 'none' is the model as it is stored")
    parser.add_argument("--dtype", action="append", choices=("float32", "bfloat16", "float16"), help="may be repeated")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="MMLU in Hendrycks' CSV layout")
    return parser


def text_requests(count: int) -> list[ScoreRequest]:
    """Return requests made of shipped texts: which of four second halves continues this first half?"""
    halves = [(text[: len(text) // 2], text[len(text) // 2 :][:80]) for text in read_texts(SHIPPED) if len(text) > 80]
    return [
        ScoreRequest(
            context=halves[place % len(halves)][0],
            continuations=tuple(halves[(place + step) % len(halves)][1] for step in range(OPTIONS)),
        )
        for place in range(count)
    ]


def mmlu_requests(folder: Path, count: int) -> list[ScoreRequest]:
    """Return MMLU items, zero-shot letters."""
    import mmlu_side_by_side as side  # noqa: PLC0415 - needs lm-eval

    subjects = ("astronomy", "high_school_biology", "high_school_geography")
    bench = side.Bench(model="", threads=m.cores(), mmlu=folder, subjects=subjects)
    return side.requests_of(bench.items("mmlu-0shot", -(-count // len(subjects)))[:count])


def compare_devices(
    case: Case, devices: tuple[str, str], asked: Sequence[ScoreRequest], resources: Resources
) -> dict[str, Any]:
    """Score the same requests on two devices, one engine at a time."""
    scores, told = [], []
    for device in devices:
        engine = load_engine(_spec(case, device), resources)
        scores.append(scored(engine, asked))
        told.append(engine.identity.quantization)
        engine.close()
    return {**differences(*scores), "quantization": told, "same_quantization": told[0] == told[1]}


def scored(engine: Engine, asked: Sequence[ScoreRequest]) -> list[ScoreReply]:
    """Score every request; a failure ends the comparison."""
    found: dict[int, ScoreReply] = {}
    for index, reply in engine.score(asked):
        if isinstance(reply, Failure):
            raise TypeError(f"request {index}: {reply}")
        found[index] = reply
    return [found[index] for index in range(len(asked))]


def differences(left: Sequence[ScoreReply], right: Sequence[ScoreReply]) -> dict[str, Any]:
    """Compare two lists of replies."""
    gaps = [
        abs(a - b)
        for one, two in zip(left, right, strict=True)
        for a, b in zip(one.logprobs, two.logprobs, strict=True)
    ]
    same = sum(_choice(one) == _choice(two) for one, two in zip(left, right, strict=True))
    return {
        "items": len(left),
        "same_choice": same / len(left),
        "largest_nats": max(gaps),
        "mean_nats": sum(gaps) / len(gaps),
    }


def row_of(case: Case, numbers: dict[str, Any]) -> list[str]:
    """Return one row of the table."""
    return [
        case.adapter,
        case.recipe,
        case.dtype,
        str(numbers["items"]),
        f"{numbers['same_choice']:.1%}",
        f"{numbers['largest_nats']:.2g}",
        f"{numbers['mean_nats']:.2g}",
        "the same" if numbers["same_quantization"] else "differ",
    ]


def _choice(reply: ScoreReply) -> int:
    return max(range(len(reply.logprobs)), key=reply.logprobs.__getitem__)


def _spec(case: Case, device: str) -> EngineSpec:
    options = {"threads": m.cores()} if device == "cpu" else {}
    return EngineSpec.model_validate(
        {
            "name": device,
            "adapter": case.adapter,
            "model": case.model,
            "recipe": case.recipe,
            "dtype": case.dtype,
            "device": device,
            "options": options,
        }
    )


if __name__ == "__main__":
    sys.exit(main())
