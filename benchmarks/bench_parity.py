"""Do evalkit and lm-eval's own HFLM say the same in fp32? Ten items of every MMLU subject, on one loaded model.

Speed is no matter here: the same items, both ways, and for each item the option chosen and every log-probability.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import measuring as m
import mmlu_side_by_side as side

from evalkit.assets import AssetStore
from evalkit.benchmarks import load_benchmark
from evalkit.definitions import find_definitions
from evalkit.records import Item

GOAL_NATS = 1e-3
METRICS = {"mmlu-cloze": "acc_norm"}


def main() -> int:
    """Score every item both ways."""
    args = _arguments()
    bench = side.Bench(model=args.model, threads=args.threads, mmlu=args.mmlu, subjects=())
    loaded = bench.load("float32")
    found = m.Findings(settings=vars(args), results={"goal_nats": GOAL_NATS, "tasks": {}})
    rows = []
    for task in args.tasks.split(","):
        items = _items(task, args)
        m.say(f"{task}: {len(items)} items")
        ours = side.score(side.evalkit_engine(loaded), items)
        theirs = side.score_by_lm_eval(side.lm_eval_model(loaded, args.batch_size), items)
        metric = METRICS.get(task, "acc")
        flips = side.flips(side.choices(items, ours, metric), side.choices(items, theirs, metric))
        nats = side.largest_difference(ours, theirs)
        subjects = len({item.subject for item in items})
        found.results["tasks"][task] = {"n": len(items), "subjects": subjects, "flips": flips, "largest_nats": nats}
        rows.append([task, str(subjects), str(len(items)), str(flips), f"{nats:.2g}"])
    heads = ["task", "subjects", "items", "other choice", "largest difference, nats"]
    found.tables = [m.Table(name="parity", headers=heads, rows=rows)]
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=1)
    parser.add_argument("--tasks", default="mmlu-0shot", help="task files, separated by commas; mmlu needs --mmlu")
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="MMLU with worked examples, Hendrycks' CSV layout")
    parser.add_argument("--items", type=int, default=10, help="items of each subject")
    parser.add_argument("--batch-size", type=int, default=16, help="of lm-eval")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="asset or folder")
    parser.add_argument("--threads", type=int, default=m.cores())
    return parser.parse_args()


def _items(task: str, args: argparse.Namespace) -> tuple[Item, ...]:
    overrides = {"mmlu": [{"local": str(args.mmlu)}]} if args.mmlu else {}
    definitions = find_definitions()
    definition = definitions.task(task).model_copy(update={"items_per_subject": args.items})
    return tuple(load_benchmark(definition, AssetStore(definitions.root, overrides=overrides)).items)


if __name__ == "__main__":
    sys.exit(main())
