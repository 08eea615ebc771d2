"""What all benchmarks share: interleaved timing, rates of the machine, tables and JSON.

Ratios are measured side by side: in every round each contestant runs once, in an order that turns from round to round,
and the ratio is the median of the rounds' own ratios. A machine that slows down slows both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from tabulate import tabulate

from evalkit import __version__

PACKAGES = ("numpy", "scipy", "torch", "transformers", "lm-eval", "nvidia-modelopt", "ray")
SQUARE = ((2048, 2048, 2048),)
"""A matrix product large enough to show the machine's best rate."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as people read it; `name` is its marker in docs/performance.md."""

    name: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self, style: str = "simple") -> str:
        """Return the table in a style of tabulate."""
        return tabulate(self.rows, headers=self.headers, tablefmt=style, disable_numparse=True)


@dataclass(kw_only=True)
class Findings:
    """What a script found: raw numbers for programs, tables for people."""

    settings: Mapping[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


def cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Describe the machine and how busy it was."""
    return {
        "cpu": _proc("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cpu_count": cores(),
        "memory_gib": round(int((_proc("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 2**20),
        "load_1min": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "evalkit": __version__,
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _proc(file: str, key: str) -> str | None:
    try:
        lines = Path(file).read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def seconds_of(work: Callable[[], object]) -> float:
    """Run something once; return how long it took, seconds."""
    gc.collect()
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def processor_seconds_of(work: Callable[[], object]) -> float:
    """Run something once; return processor time, child processes included, seconds: it hardly sees other programs."""
    before = os.times()
    work()
    return sum(after - then for after, then in zip(os.times()[:4], before[:4], strict=True))


def interleave(contestants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run every contestant once in each round, in a turning order; return each one's seconds by round."""
    names = list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            found[name].append(seconds_of(contestants[name]))
            say(f"  round {turn + 1}/{repeats}, {name}: {found[name][-1]:.3g} s")
    return found


def median_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    """Return median, lowest and highest of the rounds' ratios.

    >>> median_ratio([2.0, 4.0, 3.0], [1.0, 1.0, 1.0])
    (3.0, 2.0, 4.0)
    """
    ratios = [high / low for high, low in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def times(ratio: tuple[float, float, float]) -> str:
    """Show a ratio with its range: `3.00x (2.00 to 4.00)`."""
    return f"{ratio[0]:.2f}x ({ratio[1]:.2f} to {ratio[2]:.2f})"


def matmul_rate(dtype: str, shapes: Sequence[tuple[int, int, int]] = SQUARE, for_s: float = 1.0) -> float:
    """Measure matrix products (m, k) by (k, n), each shape as often as the others.

    Returns:
        Floating-point operations per second: the best of three runs of about `for_s` seconds in total.
    """
    import torch  # noqa: PLC0415 - the scripts about decisions run without torch

    kind = getattr(torch, dtype)
    pairs = [(torch.randn(m, k, dtype=kind), torch.randn(k, n, dtype=kind)) for m, k, n in shapes]
    flops = sum(2 * m * k * n for m, k, n in shapes)

    def products(rounds: int) -> None:
        for _ in range(rounds):
            for left, right in pairs:
                left @ right

    products(1)
    rounds = max(1, round(for_s / 3 / seconds_of(lambda: products(1))))
    return max(rounds * flops / seconds_of(lambda: products(rounds)) for _ in range(3))


@contextmanager
def profiled(shares: dict[str, float], groups: Mapping[str, Sequence[str]]) -> Any:
    """Fill `shares` with the share of processor time by group of torch operations; a group is a part of their names.

    The rest is under "other torch operations", and the time outside of torch under "Python and the rest".
    """
    from torch.profiler import ProfilerActivity, profile  # noqa: PLC0415

    with profile(activities=[ProfilerActivity.CPU]) as found:
        begun = time.perf_counter()
        yield
        wall_us = (time.perf_counter() - begun) * 1e6
    spent = dict.fromkeys([*groups, "other torch operations"], 0.0)
    for event in found.key_averages():
        owner = next((group for group, parts in groups.items() if any(part in event.key for part in parts)), None)
        spent[owner or "other torch operations"] += event.self_cpu_time_total
    whole = max(wall_us, sum(spent.values()))
    shares.update({group: us / whole for group, us in spent.items()})
    shares["Python and the rest"] = 1.0 - sum(shares.values())


def arguments(doc: str, *, repeats: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds; each contestant runs once in a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write settings, machine, numbers and tables here")
    return parser


def publish(script: str, findings: Findings, json_file: Path | None) -> None:
    """Print the tables; write the JSON file if one is asked for."""
    for table in findings.tables:
        print(f"\n{table.name}\n{table.text()}")
    if json_file is None:
        return
    document = {
        "script": Path(script).name,
        "machine": machine(),
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in findings.settings.items()},
        "results": findings.results,
        "tables": [{"name": table.name, "headers": table.headers, "rows": table.rows} for table in findings.tables],
    }
    json_file.parent.mkdir(parents=True, exist_ok=True)
    json_file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


def say(line: str) -> None:
    """Show progress on stderr."""
    print(line, file=sys.stderr, flush=True)
