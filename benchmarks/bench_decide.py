"""Time of deciding on full-size runs: the statistics alone, and whole cold processes of the command line.

Four runs of 14,042 MMLU items and 80 judged MT-Bench questions are made up and written to the disk: a baseline, its
rerun, a candidate and a broken control. A cold process includes starting Python, importing, reading every line and
checking it. Beside the commands stand the floors below them: Python alone, Python with numpy and scipy, and Python that
only parses the same lines as JSON.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import made_runs
import measuring as m

from evalkit.comparison import Comparison, compare_endpoints
from evalkit.policy import ResolvedPolicy, bind, load_policy
from evalkit.store import Run, read_run
from evalkit.verdict import Evidence, decide

RUNS = {
    "baseline": ("official-fp8", 0.0, 0.0),
    "rerun": ("official-fp8", 0.004, 0.0),
    "candidate": ("candidate", 0.03, 0.0),
    "control": ("control", 0.25, -2.0),
}
"""Recipe, share of items that flip, shift of ratings."""

GOALS_S = {"statistics": 0.3, "evalkit compare": 1.5, "evalkit --help": 0.4}
PARSE = "import json, sys; [json.loads(line) for name in sys.argv[1:] for line in open(name, encoding='utf-8')]"


def main() -> int:
    """Make the runs, time everything, profile the slowest parts."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    found = m.Findings(settings=vars(args))
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        paths = {name: Path(scratch) / name for name in RUNS}
        for seed, (name, (recipe, flipped, shift)) in enumerate(RUNS.items(), start=args.seed):
            made_runs.write_run(paths[name], recipe, seed=seed, flipped=flipped, shift=shift, items=args.items)
        runs = {name: read_run(path) for name, path in paths.items()}
        policy = bind(load_policy("release"), "baseline", ["candidate"], ["control"])
        inside: dict[str, Callable[[], object]] = {
            "statistics": lambda: _decide(policy, runs, ["candidate"]),
            "statistics, rerun and control too": lambda: _decide(policy, runs, ["candidate", "rerun", "control"]),
            "reading one run": lambda: read_run(paths["baseline"]),
        }
        outside = _processes(paths, Path(scratch))
        seconds = m.interleave(inside, args.repeats) | m.interleave(outside, args.repeats)
        busy = {name: _processor_seconds(work, args.repeats) for name, work in (inside | outside).items()}
        profile = _profile(lambda: _compare_in_process(paths))
    found.results = {
        "seconds": seconds,
        "processor_s": busy,
        "goals_s": GOALS_S,
        "compare_profile": profile,
        "n_items": args.items,
    }
    found.tables = [
        m.Table(
            name="decide",
            headers=["what", "median, s", "lowest to highest", "processor time, s", "goal, s", "met"],
            rows=[_row(name, values, busy[name]) for name, values in seconds.items()],
        ),
        m.Table(
            name="decide-profile",
            headers=["where the time of reading and comparing two runs goes", "share"],
            rows=[[name, f"{share:.0%}"] for name, share in profile.items()],
        ),
    ]
    m.publish(__file__, found, args.json)
    return 0


def _arguments() -> argparse.Namespace:
    parser = m.arguments(__doc__ or "", repeats=7)
    parser.add_argument("--items", type=int, default=made_runs.ITEMS, help="MMLU items of each run")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("outputs"), help="a temporary folder is made here")
    return parser.parse_args()


def _processor_seconds(work: Callable[[], object], repeats: int) -> float:
    return statistics.median(m.processor_seconds_of(work) for _ in range(repeats))


def _decide(policy: ResolvedPolicy, runs: Mapping[str, Run], names: list[str]) -> object:
    made = {name: compare_endpoints(policy, runs["baseline"], runs[name]) for name in names}
    controls: dict[str, dict[str, Comparison]] = {"control": made["control"]} if "control" in made else {}
    evidence = Evidence(candidates={"candidate": made["candidate"]}, rerun=made.get("rerun"), controls=controls)
    return decide(policy, evidence)


def _processes(paths: Mapping[str, Path], scratch: Path) -> dict[str, Callable[[], object]]:
    """Return cold processes: commands, and the floors below them."""
    base, candidate = str(paths["baseline"]), str(paths["candidate"])
    certify = ["certify", "--baseline", base, "--candidate", candidate, "--policy", "release"]
    more = ["--rerun", str(paths["rerun"]), "--control", str(paths["control"])]
    lines = [str(file) for run in (base, candidate) for file in sorted(Path(run).rglob("*.jsonl"))]
    commands = {
        "evalkit --help": ["-m", "evalkit", "--help"],
        "evalkit compare": ["-m", "evalkit", "compare", base, candidate],
        "evalkit certify, two runs": ["-m", "evalkit", *certify, "--output", str(scratch / "two")],
        "evalkit certify, four runs": ["-m", "evalkit", *certify, *more, "--output", str(scratch / "four")],
        "floor: python": ["-c", "pass"],
        "floor: python, numpy, scipy": ["-c", "import numpy, scipy.special"],
        "floor: python, json of two runs": ["-c", PARSE, *lines],
    }
    return {name: _process([sys.executable, *command]) for name, command in commands.items()}


def _process(command: list[str]) -> Callable[[], object]:
    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode in (2, 5) or "Traceback" in done.stderr:
            raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")

    return run


def _compare_in_process(paths: Mapping[str, Path]) -> None:
    from evalkit.comparison import compare  # noqa: PLC0415

    baseline, candidate = read_run(paths["baseline"]), read_run(paths["candidate"])
    for task in baseline.manifest.tasks:
        compare(baseline, candidate, task)


def _profile(work: Callable[[], object]) -> dict[str, float]:
    """Return the share of the time by evalkit's module or foreign package, the eight largest."""
    profiler = cProfile.Profile()
    profiler.runcall(work)
    spent: dict[str, float] = {}
    for (file, _, name), row in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        parts = Path(file).parts
        owner = next(
            ("/".join(parts[parts.index(top) :]) for top in ("evalkit", "scipy", "numpy") if top in parts), None
        )
        foreign = f"Python: {name}" if file == "~" else f"{Path(file).stem}: {name}"
        key = (f"{owner}: {name}" if owner and owner.startswith("evalkit") else owner) or foreign
        spent[key] = spent.get(key, 0.0) + row[2]
    whole = sum(spent.values())
    largest = sorted(spent.items(), key=lambda pair: -pair[1])[:8]
    return {name: seconds / whole for name, seconds in largest}


def _row(name: str, values: list[float], busy_s: float) -> list[str]:
    median, goal = statistics.median(values), GOALS_S.get(name)
    met = "" if goal is None else "yes" if median <= goal else "no"
    spread = f"{min(values):.3f} to {max(values):.3f}"
    return [name, f"{median:.3f}", spread, f"{busy_s:.2f}", "" if goal is None else f"{goal:g}", met]


if __name__ == "__main__":
    sys.exit(main())
