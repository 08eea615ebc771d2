"""What evalkit costs around an engine: time for each item, and the memory of a run with very many items.

Overhead: real MMLU items through a whole `collect`, with the engine's own tokenizer, prefix sharing and batching,
lm-eval's marks, and every batch flushed to the disk; only the forward passes are left out: made-up numbers stand in.
Memory: made-up items through the shipped scripted adapter and a real run folder, in a process of its own whose
high-water mark is read at the end; once in full, once of a process that only imports the same modules.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measuring as m
import numpy as np

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import load_engine
from evalkit.benchmarks import Marking
from evalkit.benchmarks.benchmark import canonical_order, item_set_sha256, prompts_sha256
from evalkit.collect import collect
from evalkit.records import Item, Manifest, TaskRun, text_digest
from evalkit.store import RunFolder
from evalkit.suite import EngineSpec

RATE = 14.0
"""Items a second at which the overhead is given as a share."""

GOAL_SHARE, GOAL_MIB = 0.05, 1024.0
TASKS = {"mmlu": "5-shot letter", "mmlu-cloze": "0-shot cloze"}


def main() -> int:
    """Measure the overhead here, then the memory in processes of their own."""
    args = _arguments()
    if args.step:
        return _step(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    found = m.Findings(settings=vars(args))
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        root = Path(scratch)
        tasks = [task for task in TASKS if task != "mmlu" or args.mmlu]
        overhead = {task: _overhead(task, args, root / task) for task in tasks}
        memory = {step: _apart(step, args, root / step) for step in ("nothing", "collect", "resume")}
    grown = max(memory[step]["peak_mib"] for step in ("collect", "resume")) - memory["nothing"]["peak_mib"]
    found.results = {
        "rate": RATE,
        "overhead": overhead,
        "n_memory": args.records,
        "memory": memory,
        "grown_mib": grown,
        "goals": {"overhead_share": GOAL_SHARE, "grown_mib": GOAL_MIB},
    }
    found.tables = [
        m.Table(
            name="collect-overhead",
            headers=["case", "items", "time an item, ms", f"of the wall time at {RATE:g} items/s"],
            rows=[
                [TASKS[task], f"{one['n']:,}", f"{1000 * one['seconds_an_item']:.2f}", f"{one['share']:.1%}"]
                for task, one in overhead.items()
            ],
        ),
        m.Table(
            name="collect-memory",
            headers=["a process that", "items", "high-water mark, MiB", "items/s"],
            rows=[_memory_row(step, memory[step], args.records) for step in memory],
        ),
    ]
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=3)
    parser.add_argument("--mmlu", type=Path, metavar="DIR", help="MMLU with worked examples, Hendrycks' CSV layout")
    parser.add_argument("--items", type=int, default=60, help="items of each of three subjects, for the overhead")
    parser.add_argument("--records", type=int, default=1_000_000, help="made-up items, for the memory")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="asset or folder")
    parser.add_argument("--threads", type=int, default=m.cores())
    parser.add_argument("--folder", type=Path, default=Path("outputs"), help="on the disk to measure")
    parser.add_argument("--step", choices=("nothing", "collect", "resume"), help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _overhead(task: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Collect a task with an engine whose forward passes take no time; median of the repeats."""
    import mmlu_side_by_side as side  # noqa: PLC0415 - it imports torch, which the memory must not hold

    from evalkit.assets import AssetStore  # noqa: PLC0415
    from evalkit.benchmarks import load_benchmark  # noqa: PLC0415
    from evalkit.definitions import find_definitions  # noqa: PLC0415

    overrides = {"mmlu": [{"local": str(args.mmlu)}]} if args.mmlu else {}
    assets = AssetStore(find_definitions().root, overrides=overrides)
    wanted = {
        "items_per_subject": args.items,
        "subjects": ("astronomy", "high_school_biology", "high_school_geography"),
    }
    benchmark = load_benchmark(find_definitions().task(task).model_copy(update=wanted), assets)
    bench = side.Bench(model=args.model, threads=args.threads, mmlu=args.mmlu, subjects=())
    engine: Any = side.evalkit_engine(bench.load("bfloat16"))
    engine._scorer.run = _made_up
    seconds = []
    for turn in range(args.repeats):
        manifest = _manifest(engine.identity, benchmark.task, benchmark.task_run)
        with RunFolder.create_or_resume(folder / str(turn), manifest) as run:
            seconds.append(m.seconds_of(lambda run=run: collect(run, engine, [benchmark], progress=False)))
    an_item = statistics.median(seconds) / len(benchmark.items)
    return {"n": len(benchmark.items), "seconds": seconds, "seconds_an_item": an_item, "share": an_item * RATE}


def _made_up(batch: Any) -> list[Any]:
    from evalkit.adapters.causal.forward import TokenScores  # noqa: PLC0415

    return [
        TokenScores(
            logprobs=-np.arange(1, len(row.targets) + 1, dtype=np.float32),
            greedy=np.zeros(len(row.targets), dtype=bool),
        )
        for row in batch.rows
    ]


class MadeUp:
    """A benchmark of made-up questions; implements `Benchmark`."""

    task, samples = "made-up", 1

    def __init__(self, count: int) -> None:
        self.items = canonical_order(_items(count))
        self.task_run = TaskRun(
            definition_sha256=text_digest("made-up"),
            kind="choice",
            protocol="ll-0shot",
            shots=0,
            metric="acc",
            chance=0.25,
            planned=count,
            item_set_sha256=item_set_sha256(self.items),
            prompts_sha256=prompts_sha256(self.items),
            dataset={"asset": "made-up"},
        )

    def decoding(self, item: Item) -> Any:
        """Nothing is generated."""
        raise NotImplementedError

    def mark(self, item: Item, reply: Any) -> Marking:
        """Compare the likeliest continuation with the right one."""
        best = reply.logprobs.index(max(reply.logprobs))
        return Marking(marks={"acc": float(best == item.target)})


def _items(count: int) -> Iterator[Item]:
    for at in range(count):
        question = f"What is {at} plus {at * 7 % 1000}, and which of these numbers is it?"
        options = [str(at + at * 7 % 1000 + off) for off in (0, 1, 10, 100)]
        lines = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True))
        yield Item(
            task="made-up",
            subject=f"subject-{at % 57:02d}",
            item_sha256=text_digest(question),
            occurrence=0,
            prompt_sha256=text_digest(lines),
            target_sha256=text_digest("0"),
            doc={"question": question, "choices": options, "answer": 0},
            context=f"{question}\n{lines}\nAnswer:",
            continuations=(" A", " B", " C", " D"),
            target=0,
            details={"doc_id": at, "lengths": [1, 1, 1, 1]},
        )


def _manifest(identity: Any, task: str, task_run: TaskRun) -> Manifest:
    return Manifest(evalkit="0", engine=identity, tasks={task: task_run}, created_at="2026-01-01T00:00:00Z")


def _apart(step: str, args: argparse.Namespace, folder: Path) -> dict[str, float]:
    m.say(f"  memory: {step}, {args.records:,} items")
    folder = folder.with_name("run")  # one folder for all steps: the last one resumes the one before
    command = [sys.executable, __file__, "--step", step, "--run", str(folder), "--records", str(args.records)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def _step(args: argparse.Namespace) -> int:
    """Collect, or resume after half of the records were lost; print high-water mark and speed."""
    seconds = 0.0
    if args.step != "nothing":
        engine = load_engine(EngineSpec(name="made-up", adapter="scripted", model="made-up"), Resources(assets=None))  # type: ignore[arg-type]
        benchmark = MadeUp(args.records)
        with RunFolder.create_or_resume(
            args.run, _manifest(engine.identity, benchmark.task, benchmark.task_run)
        ) as run:
            if args.step == "resume":
                _halve(args.run / "records" / "made-up.jsonl")
            begun = time.perf_counter()
            collect(run, engine, [benchmark], progress=False)
            seconds = time.perf_counter() - begun
    # Not getrusage: its high-water mark begins with that of the parent process.
    status = Path("/proc/self/status").read_text("utf-8")
    peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"peak_mib": peak, "seconds": seconds, "items_per_s": args.records / seconds if seconds else 0.0}))
    return 0


def _halve(file: Path) -> None:
    with file.open("rb+") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.readline()
        stream.truncate()


def _memory_row(step: str, found: dict[str, float], records: int) -> list[str]:
    what = {"nothing": "imports the same and stops", "collect": "collects them", "resume": "resumes with half of them"}
    rate = f"{found['items_per_s']:,.0f}" if found["items_per_s"] else ""
    return [what[step], f"{records:,}" if rate else "", f"{found['peak_mib']:,.0f}", rate]


if __name__ == "__main__":
    sys.exit(main())
