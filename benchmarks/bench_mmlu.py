"""MMLU items per second of evalkit's engine against lm-eval's own HFLM, on one loaded model.

The same model object, items, dtype and threads for both. Cases: five worked examples and the letter (needs --mmlu: a
folder in Hendrycks' CSV layout with test/ and dev/), and the answer's own text without examples. Besides speed: the
share of what the processor could do at most, the slowdown by quantization recipes, and how often two ways of computing
the same thing choose another option.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import measuring as m
import mmlu_side_by_side as side

CASES = {"letter": ("mmlu", "acc", "5-shot letter"), "cloze": ("mmlu-cloze", "acc_norm", "0-shot cloze")}
RECIPES = ("llama-official-fp8", "modelopt-fp8-kv", "int4-awq")
GROUPS = {
    "matrix products": ("mm", "linear", "mkldnn"),
    "attention": ("attention",),
    "copies and casts": ("copy", "cat", "_to_copy", "contiguous"),
}
OURS, SINGLE, BATCHED = "evalkit", "lm-eval, batch 1", "lm-eval, batch 16"


def main() -> int:
    """Run the chosen cases."""
    args = _arguments()
    bench = side.Bench(model=args.model, threads=args.threads, mmlu=args.mmlu, subjects=args.subjects.split(","))
    cases = [case for case in args.cases.split(",") if case != "letter" or args.mmlu]
    if "letter" in args.cases and not args.mmlu:
        m.say("case 'letter' is left out: worked examples need --mmlu DIR")
    found = m.Findings(settings=vars(args))
    loaded = bench.load("bfloat16")
    rates = {
        "square_flops_per_s": m.matmul_rate("bfloat16"),
        "layers_flops_per_s": m.matmul_rate("bfloat16", side.layer_shapes(loaded)),
    }
    found.results["matmul_bf16"] = rates
    rows: dict[str, list[list[str]]] = {name: [] for name in ("mmlu-speed", "mmlu-ceiling", "mmlu-profile")}
    agreement: list[list[str]] = []
    for case in cases:
        task, metric, title = CASES[case]
        items = bench.items(task, args.items)
        few = bench.items(task, min(args.items, args.parity_items))
        m.say(f"{title}: {len(items)} items")
        speed, scores = _speed(loaded, items, args.repeats)
        ceiling = _ceiling(loaded, items, speed[OURS]["median_s"], rates)
        shares: dict[str, float] = {}
        engine = side.evalkit_engine(loaded)
        with m.profiled(shares, GROUPS):
            side.score(engine, few)
        parity = _parity(bench, loaded, (items, few), scores, metric)
        found.results[case] = {"speed": speed, "ceiling": ceiling, "profile": shares, "parity": parity}
        rows["mmlu-speed"] += [_speed_row(title, len(items), name, values) for name, values in speed.items()]
        rows["mmlu-ceiling"].append(_ceiling_row(title, ceiling))
        rows["mmlu-profile"] += [[title, what, f"{share:.0%}"] for what, share in shares.items()]
        agreement += [[title, *row] for row in parity["rows"]]
    found.results["recipes"], slow = _recipes(bench, loaded, cases, args) if args.recipes else ({}, [])
    ceiling_heads = ["case", "tokens one by one", "unique tokens", "square, GFLOP/s", "layers, GFLOP/s", "share"]
    found.tables = [
        m.Table(name="mmlu-speed", headers=["case", "items", "who", "items/s", "evalkit is"], rows=rows["mmlu-speed"]),
        m.Table(name="mmlu-ceiling", headers=ceiling_heads, rows=rows["mmlu-ceiling"]),
        m.Table(name="mmlu-profile", headers=["case", "where evalkit's time goes", "share"], rows=rows["mmlu-profile"]),
        m.Table(
            name="mmlu-agreement",
            headers=["case", "dtype", "two ways", "items", "other choice", "largest difference, nats"],
            rows=agreement,
        ),
        m.Table(name="mmlu-recipes", headers=["case", "recipe", "items", "slowdown"], rows=slow),
    ]
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=3)
    parser.add_argument("--cases", default="letter,cloze", help="which, separated by commas")
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="MMLU with worked examples, Hendrycks' CSV layout")
    parser.add_argument("--items", type=int, default=60, help="items of each subject")
    parser.add_argument("--parity-items", type=int, default=12, help="of those, for fp32 and for unbatched scoring")
    parser.add_argument("--subjects", default="astronomy,high_school_biology,high_school_geography")
    parser.add_argument("--recipe", action="append", dest="recipes", choices=RECIPES, help="may be repeated")
    parser.add_argument("--recipe-items", type=int, default=12, help="items of each subject for recipes")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="asset or folder")
    parser.add_argument("--threads", type=int, default=m.cores())
    return parser.parse_args()


def _speed(loaded: Any, items: Any, repeats: int) -> tuple[dict[str, Any], dict[str, side.Scores]]:
    """Time evalkit against lm-eval with the faster of two batch sizes; the slower one runs once."""
    scores: dict[str, side.Scores] = {}
    work: dict[str, Callable[[], side.Scores]] = {OURS: lambda: side.score(side.evalkit_engine(loaded), items)}
    for name, size in ((SINGLE, 1), (BATCHED, 16)):
        model = side.lm_eval_model(loaded, size)
        work[name] = partial(side.score_by_lm_eval, model, items)
    side.score(side.evalkit_engine(loaded), items[:8])  # first calls of kernels are slow
    contestants = {name: side.kept(scores, name, run) for name, run in work.items()}
    seconds = m.interleave(contestants, 1)
    slower = max((SINGLE, BATCHED), key=lambda name: seconds[name][0])
    remaining = {name: run for name, run in contestants.items() if name != slower}
    for name, more in (m.interleave(remaining, repeats - 1) if repeats > 1 else {}).items():
        seconds[name] += more
    found = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = m.median_ratio(values, seconds[OURS][: len(values)])
        found[name] = {"seconds": values, "median_s": median, "items_per_s": len(items) / median, "ratio": ratio}
    return found, scores


def _speed_row(title: str, count: int, name: str, values: dict[str, Any]) -> list[str]:
    faster = "" if name == OURS else f"{m.times(values['ratio'])} as fast, n={len(values['seconds'])}"
    return [title, str(count), name, f"{values['items_per_s']:.2f}", faster]


def _ceiling(loaded: Any, items: Any, median_s: float, rates: dict[str, float]) -> dict[str, float]:
    work = side.unique_work(loaded, items)
    return {**work, **rates, "share": work["flops"] / max(rates.values()) / median_s}


def _ceiling_row(title: str, found: dict[str, float]) -> list[str]:
    counts = [f"{found[key]:,.0f}" for key in ("fed_one_by_one", "tokens")]
    speeds = [f"{found[key] / 1e9:,.0f}" for key in ("square_flops_per_s", "layers_flops_per_s")]
    return [title, *counts, *speeds, f"{found['share']:.0%}"]


def _parity(bench: side.Bench, loaded: Any, items: Any, scores: dict[str, side.Scores], metric: str) -> dict[str, Any]:
    """Compare ways of computing the same numbers: bf16 on all items, unbatched and fp32 on few."""
    every, few = items
    fp32 = bench.load("float32")
    slow = side.evalkit_engine(loaded, unbatched=True)
    m.say("  agreement: unbatched, fp32")
    ours, plain = side.score(side.evalkit_engine(loaded), few), side.score_unbatched(slow, few)
    full = side.score(side.evalkit_engine(fp32), few), side.score_by_lm_eval(side.lm_eval_model(fp32, 1), few)
    pairs = [
        ("fp32", "evalkit, lm-eval", few, *full),
        ("bf16", "evalkit, lm-eval batch 1", every, scores[OURS], scores[SINGLE]),
        ("bf16", "evalkit, its unbatched plain path", few, ours, plain),
        ("bf16", "lm-eval batch 1, lm-eval batch 16", every, scores[SINGLE], scores[BATCHED]),
        ("bf16/fp32", "evalkit, evalkit in fp32", few, ours, full[0]),
        ("bf16/fp32", "lm-eval batch 1, lm-eval in fp32", few, _part(every, few, scores[SINGLE]), full[1]),
    ]
    found: dict[str, Any] = {"rows": [], "numbers": []}
    for dtype, what, of, left, right in pairs:
        flipped = side.flips(side.choices(of, left, metric), side.choices(of, right, metric))
        nats = side.largest_difference(left, right)
        found["rows"].append([dtype, what, str(len(of)), str(flipped), f"{nats:.2g}"])
        found["numbers"].append({"dtype": dtype, "ways": what, "n": len(of), "flips": flipped, "largest_nats": nats})
    return found


def _part(every: Any, few: Any, scores: side.Scores) -> side.Scores:
    by_key = {item.key: row for item, row in zip(every, scores, strict=True)}
    return [by_key[item.key] for item in few]


def _recipes(bench: side.Bench, loaded: Any, cases: list[str], args: argparse.Namespace) -> tuple[Any, list[list[str]]]:
    """Time each recipe side by side with the unquantized model."""
    found: dict[str, Any] = {}
    rows = []
    for recipe in args.recipes:
        m.say(f"recipe {recipe}")
        engine = bench.quantized(recipe)
        for case in cases:
            items = bench.items(CASES[case][0], min(args.items, args.recipe_items))
            plain = side.evalkit_engine(loaded)
            contestants = {"none": partial(side.score, plain, items), recipe: partial(side.score, engine, items)}
            seconds = m.interleave(contestants, args.repeats)
            ratio = m.median_ratio(seconds[recipe], seconds["none"])
            found[f"{case}/{recipe}"] = {"n": len(items), "seconds": seconds, "slowdown": ratio}
            rows.append([CASES[case][2], recipe, str(len(items)), m.times(ratio)])
        engine.close()
    return found, rows


if __name__ == "__main__":
    sys.exit(main())
