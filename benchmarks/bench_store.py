"""Records per second through a run folder with every batch flushed to the disk, read back, and the memory of both.

Appending goes through `RunFolder.append_records` in batches of 64, as a run does. Beside it stand the same bytes in the
same batches written and flushed by bare system calls: what the disk itself allows. Reading stands beside parsing the
same lines as JSON and no more. Memory is the high-water mark of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import made_runs
import measuring as m

from evalkit.records import Manifest, Record
from evalkit.store import RunFolder, read_records
from evalkit.store.lines import task_file

BATCH, TASK = 64, "mmlu"
APPEND, BARE, READ, KEYS, PARSE = (
    "append through RunFolder",
    "floor: bare write and fsync",
    "read all records",
    "resume: keys of finished records",
    "floor: json.loads of each line",
)


def main() -> int:
    """Time everything side by side, then measure memory in fresh processes."""
    args = _arguments()
    if args.step:
        return _step(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    found = m.Findings(settings=vars(args))
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        root = Path(scratch)
        records = list(_records(args.timed_records))
        turn = iter(range(10**6))
        writing: dict[str, Callable[[], object]] = {
            APPEND: lambda: _append(root / f"run-{next(turn)}", iter(records)),
            BARE: lambda: _bare(root / f"bare-{next(turn)}", records),
        }
        seconds = m.interleave(writing, args.repeats)
        run = next(path for path in sorted(root.glob("run-*")))
        file = task_file(run, "records", TASK)
        reading: dict[str, Callable[[], object]] = {
            READ: lambda: read_records(run, TASK),
            KEYS: lambda: _keys(run),
            PARSE: lambda: [json.loads(line) for line in file.read_text("utf-8").split("\n") if line],
        }
        seconds |= m.interleave(reading, args.repeats)
        line_bytes = file.stat().st_size / len(records)
        peaks = {step: _peak_mib(step, args.records, root / "memory") for step in _STEPS}
    rates = {name: len(records) / statistics.median(values) for name, values in seconds.items()}
    found.results = {
        "n_timed": len(records),
        "n_memory": args.records,
        "bytes_per_record": line_bytes,
        "seconds": seconds,
        "records_per_s": rates,
        "peak_mib": peaks,
    }
    against = {APPEND: BARE, READ: PARSE, KEYS: PARSE}
    found.tables = [
        m.Table(
            name="store",
            headers=["what", "records", "records/s", "time, as a multiple of its floor"],
            rows=[
                [name, f"{len(records):,}", f"{rate:,.0f}", _multiple(seconds, name, against.get(name))]
                for name, rate in rates.items()
            ],
        ),
        m.Table(
            name="store-memory",
            headers=["a process that", "records", "high-water mark, MiB"],
            rows=[[what, f"{args.records:,}", f"{peaks[step]:,.0f}"] for step, what in _STEPS.items()],
        ),
    ]
    m.publish(__file__, found, args.json)
    return 0


_STEPS = {
    "nothing": "imports evalkit's store and stops",
    "append": "appends them batch by batch",
    "keys": "reads them one at a time to resume",
    "finish": "puts them in the order of their keys",
    "read": "reads them all to compare",
}


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=3)
    parser.add_argument("--timed-records", type=int, default=14_042, help="records of each timed round")
    parser.add_argument("--records", type=int, default=100_000, help="records for the memory; try 1000000")
    parser.add_argument("--folder", type=Path, default=Path("outputs"), help="on the disk to measure")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _records(count: int) -> Iterator[Record]:
    return made_runs.choice_records(count, right=0.86, flipped=0.0, seed=1)


def _manifest() -> Manifest:
    # The digests of a large made-up item set cost more memory than what is measured here.
    task = made_runs.choice_task(0)
    return Manifest(evalkit="0", engine=made_runs.engine("none"), tasks={TASK: task}, created_at="2026-01-01T00:00:00Z")


def _append(path: Path, records: Iterator[Record]) -> None:
    with RunFolder.create_or_resume(path, _manifest()) as folder:
        while batch := list(islice(records, BATCH)):
            folder.append_records(TASK, batch)


def _bare(path: Path, records: list[Record]) -> None:
    """Write and flush the same bytes; making the lines is the price of the format, so it is part of the other side."""
    lines = [record.to_json() for record in records[:BATCH]]
    data = ("\n".join(lines) + "\n").encode()
    for _ in range(0, len(records), BATCH):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, data)
        os.fsync(descriptor)
        os.close(descriptor)


def _keys(path: Path) -> None:
    with RunFolder.create_or_resume(path, _manifest()) as folder:
        folder.done_keys(TASK)


def _multiple(seconds: dict[str, list[float]], name: str, floor: str | None) -> str:
    return m.times(m.median_ratio(seconds[name], seconds[floor])) if floor else ""


def _peak_mib(step: str, records: int, run: Path) -> float:
    """Run one step in a process of its own; return its high-water mark, MiB."""
    m.say(f"  memory: {step}")
    command = [sys.executable, __file__, "--step", step, "--run", str(run), "--records", str(records)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _step(args: argparse.Namespace) -> int:
    if args.step == "append":
        _append(args.run, _records(args.records))
    elif args.step == "keys":
        _keys(args.run)
    elif args.step == "finish":
        with RunFolder.create_or_resume(args.run, _manifest()) as folder:
            folder.finish(TASK)
    elif args.step == "read":
        read_records(args.run, TASK)
    # Not getrusage: its high-water mark begins with that of the parent process.
    status = Path("/proc/self/status").read_text("utf-8")
    print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
