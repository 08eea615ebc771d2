"""Runs the numeric tests, and the demo if asked, under other instruction sets; keeps JSON, writes the table of docs.

By hand: `make matrix`, or `python benchmarks/matrix.py --only avx2,threads-1`, one setting after the other. What is
there already is kept (`--again` runs it anew), so it can be stopped and begun again. `--demo` runs the demo too, a
quarter of an hour for each setting (`--few`: a part of it, some minutes); `--table` only writes the table from the JSON
files that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measuring as m
import yaml
from run_all import DOCUMENT, filled

from evalkit.adapters.processor import LEVELS, processor
from evalkit.records import processor_line

ROOT = Path(__file__).resolve().parent.parent
SUITE = ROOT / "examples" / "cpu-demo.yaml"
TASK = "mmlu-cloze-demo"
FEW_ITEMS = 8
"""Items of each subject with `--few`."""

SIMULATED = ROOT / "tests" / "other_processor.py"
TESTS = (
    "tests/contract",
    "tests/system/test_recipes.py",
    "tests/system/test_quantized_checkpoints.py",
    "tests/system/test_looked_up_activations.py",
    "tests/system/test_lm_eval_parity.py",
    "tests/unit/adapters",
)
"""Tests whose numbers a processor computes."""

FEW = ("tests/system/test_looked_up_activations.py", "tests/system/test_recipes.py", "tests/unit/adapters")
"""The same where time is short (`--few`): tiny models alone."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One row of the table.

    Attributes:
        environ: environment variables.
        needs: instruction set without which the setting changes nothing here; "" for none.
        simulated: whether matrix products are those of the simulated other processor.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    simulated: bool = False


def _threads(count: int) -> dict[str, str]:
    return {name: str(count) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


SETTINGS: dict[str, Setting] = {
    "default": Setting(),
    "amx": Setting(environ={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, needs="avx512_core_amx"),
    "avx512": Setting(environ={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, needs="avx512_core"),
    "avx2": Setting(environ={"ONEDNN_MAX_CPU_ISA": "AVX2"}, needs="avx2"),
    "sse41": Setting(environ={"ONEDNN_MAX_CPU_ISA": "SSE41"}, needs="sse41"),
    "aten-default": Setting(environ={"ATEN_CPU_CAPABILITY": "default"}),
    "aten-avx2": Setting(environ={"ATEN_CPU_CAPABILITY": "avx2"}, needs="avx2"),
    "mkl-compatible": Setting(environ={"MKL_CBWR": "COMPATIBLE"}),
    "bf16-math": Setting(environ={"DNNL_DEFAULT_FPMATH_MODE": "BF16"}),
    "threads-1": Setting(environ=_threads(1)),
    "threads-2": Setting(environ=_threads(2)),
    "simulated": Setting(simulated=True),
}
"""Name to setting, in the order of the table."""


def main() -> int:
    """Run what is missing, then write the table."""
    args = _arguments()
    args.folder.mkdir(parents=True, exist_ok=True)
    names = args.only.split(",") if args.only else list(SETTINGS)
    unknown = sorted(set(names) - set(SETTINGS))
    if unknown:
        sys.exit(f"unknown setting {', '.join(unknown)}; there are: {', '.join(SETTINGS)}")
    for name in [] if args.table else names:
        _bring(name, args)
    document = filled(DOCUMENT.read_text("utf-8"), {"matrix": table(args.folder)})
    DOCUMENT.write_text(document, "utf-8")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of settings, with commas")
    parser.add_argument("--few", action="store_true", help="the tests with tiny models alone")
    parser.add_argument("--demo", action="store_true", help="run the demo too, instead of the tests if they are done")
    parser.add_argument("--again", action="store_true", help="run what is there anew")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "benchmarks" / "matrix")
    return parser.parse_args()


def _bring(name: str, args: argparse.Namespace) -> None:
    """Bring one setting's JSON file to completion."""
    file, setting = args.folder / f"{name}.json", SETTINGS[name]
    found: dict[str, Any] = {} if args.again or not file.exists() else json.loads(file.read_text("utf-8"))
    found["processor"] = processor(environ={**os.environ, **setting.environ})
    found["here"] = _is_here(setting.needs)
    if found["here"]:
        if "tests" not in found:
            m.say(f"{name}: tests")
            found["tests"] = run_tests(setting, FEW if args.few else TESTS)
            file.write_text(json.dumps(found, indent=2), "utf-8")
        if args.demo and "demo" not in found:
            m.say(f"{name}: demo")
            found["demo"] = run_demo(name, setting, args.folder, few=args.few)
    file.write_text(json.dumps(found, indent=2), "utf-8")


def _is_here(needs: str) -> bool:
    """Whether this processor has an instruction set, whatever is set around us."""
    has = processor(environ={})["instructions"]
    return not needs or (has in LEVELS and LEVELS.index(has) >= LEVELS.index(needs))


def run_tests(setting: Setting, tests: Sequence[str]) -> dict[str, Any]:
    """Run the numeric tests; returns counts, the names of what failed, and seconds."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", *tests]
    command += ["--other-processor"] if setting.simulated else []
    begun = time.monotonic()
    out = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **setting.environ}, capture_output=True, text=True, check=False
    )
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error|skipped)", out.stdout)}
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", out.stdout, re.MULTILINE)
    return {"tests": list(tests), "code": out.returncode, "failed": failed, "seconds": time.monotonic() - begun} | {
        "counts": counts
    }


def run_demo(name: str, setting: Setting, folder: Path, *, few: bool = False) -> dict[str, Any]:
    """Run the demo in a folder of its own; returns accuracy of the baseline, flips of the rerun, items a second.

    Args:
        name, setting: one row of the table.
        folder: below it the runs are kept.
        few: the baseline, its rerun and the control alone, on `FEW_ITEMS` items of each subject.
    """
    outputs = folder / "runs" / name
    suite = SUITE.with_name(f".matrix-{name}.yaml")
    asked = {**yaml.safe_load(SUITE.read_text("utf-8")), "outputs": str(outputs)}
    if few:
        asked = {key: value for key, value in asked.items() if key not in ("candidates", "judge")}
        asked |= {"tasks": [TASK], "definitions": str(_fewer(folder / "definitions"))}
    suite.write_text(yaml.safe_dump(asked), "utf-8")
    first = [str(SIMULATED), "-m", "evalkit"] if setting.simulated else ["-m", "evalkit"]
    try:
        out = subprocess.run(
            [sys.executable, *first, "certify", str(suite)],
            cwd=ROOT,
            env={**os.environ, **setting.environ},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        suite.unlink()
    if not (outputs / "certificate.json").exists():
        return {"code": out.returncode, "error": out.stderr[-2000:]}
    certificate = json.loads((outputs / "certificate.json").read_text("utf-8"))
    effects = certificate["comparisons"]["rerun"]["mmlu"]["proportion"]["effects"]
    verdicts = {row["recipe"]: row["outcome"] for row in certificate["decision"]["verdicts"]}
    return {
        "code": out.returncode,
        "accuracy": effects["baseline_accuracy"],
        "flips": effects["flips"]["rate"],
        "items": effects["flips"]["n"],
        "verdicts": verdicts,
        "items_per_second": _speed(outputs / "official-fp8" / "timings.jsonl"),
    }


def _fewer(folder: Path) -> Path:
    """Return a folder of definitions in which the demo's task has fewer items."""
    for kind in ("tasks", "judges"):
        shutil.copytree(ROOT / kind, folder / kind, dirs_exist_ok=True)
    file = next(folder.rglob(f"{TASK}.yaml"))
    text, count = re.subn(r"(?m)^items_per_subject: .*$", f"items_per_subject: {FEW_ITEMS}", file.read_text("utf-8"))
    assert count == 1, file
    file.write_text(text, "utf-8")
    return folder


def _speed(timings: Path) -> float:
    rows = [json.loads(line) for line in timings.read_text("utf-8").splitlines()]
    choices = [row for row in rows if row.get("task") == TASK and "seconds" in row]
    return sum(row["items"] for row in choices) / max(1e-9, sum(row["seconds"] for row in choices))


def table(folder: Path) -> str:
    """Return the table and the processor's name; a setting that was not run says so."""
    rows, seen = [], set()
    for name, setting in SETTINGS.items():
        file = folder / f"{name}.json"
        found = json.loads(file.read_text("utf-8")) if file.exists() else {}
        told = "simulated (`pytest --other-processor`)" if setting.simulated else ""
        told = told or ", ".join(f"`{key}={value}`" for key, value in setting.environ.items()) or "as the machine is"
        if found:
            seen.add(processor_line({**found["processor"], "settings": {}, "instructions": _highest()}))
        rows.append([told, *_cells(found)])
    head = ("setting", "numeric tests", "demo: baseline", "flips of the rerun", "items/s", "verdicts")
    text = m.Table(name="matrix", headers=head, rows=rows).text("github")
    return f"Processor: {'; '.join(sorted(seen)) or 'none was tried'}.\n\n{text}"


def _highest() -> str:
    return str(processor(environ={})["instructions"])


def _cells(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["not run"] * 5
    if not found["here"]:
        return ["not on this processor"] * 5
    tests, demo = found.get("tests"), found.get("demo")
    cells = ["not run"] if tests is None else [_tests(tests)]
    if demo is None:
        return [*cells, *["not run"] * 4]
    if "accuracy" not in demo:
        return [*cells, *[f"failed with exit code {demo['code']}"] * 4]
    verdicts = ", ".join(f"{recipe} {outcome}" for recipe, outcome in demo["verdicts"].items())
    numbers = [
        f"{100 * demo['accuracy']:.1f} % of {demo['items']:,}",
        f"{100 * demo['flips']:.1f} %",
        f"{demo['items_per_second']:.1f}",
    ]
    return [*cells, *numbers, verdicts]


def _tests(tests: Mapping[str, Any]) -> str:
    passed, failed = tests["counts"].get("passed", 0), len(tests["failed"])
    if tests["code"] == 0:
        return f"pass ({passed})"
    return f"FAIL ({failed} of {passed + failed})" if failed else f"FAIL (exit code {tests['code']})"


if __name__ == "__main__":
    sys.exit(main())
