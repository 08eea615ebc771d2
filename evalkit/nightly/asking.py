"""Ask one engine some of the items of a benchmark, in blocks.

In: a loaded engine, an open run folder, the night's order. Out: records, as every run writes them.
May not know: baselines, evidence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

from evalkit.adapters.base import Engine
from evalkit.benchmarks import Benchmark, Decoding, Marking
from evalkit.collect import collect
from evalkit.collect.asking import ask
from evalkit.errors import DataError
from evalkit.nightly.marks import designated
from evalkit.records import ChoiceReply, Item, Record, TaskRun, TextReply
from evalkit.store import RunFolder
from evalkit.store.layout import task_file

PROBE = 32
"""Items of the probe: asked first, and asked again."""

PROBE_MISSING_MAX = 0.10
"""Share of the probe's replies that may be missing."""

SELF_DISAGREEMENT_P = 0.001
"""A probe that disagrees with itself more often than this chance explains is a broken engine."""


class Part:
    """A benchmark with some of its items; implements `Benchmark`."""

    def __init__(self, whole: Benchmark, items: Sequence[Item]) -> None:
        self.items = tuple(items)
        self._whole = whole

    @property
    def task(self) -> str:
        """Name of the whole task."""
        return self._whole.task

    @property
    def task_run(self) -> TaskRun:
        """Of the whole task: a night's folder may be completed to a full run."""
        return self._whole.task_run

    @property
    def samples(self) -> int:
        """Replies wanted for each item."""
        return self._whole.samples

    def decoding(self, item: Item) -> Decoding:
        """How the answers to an item are generated."""
        return self._whole.decoding(item)

    def mark(self, item: Item, reply: ChoiceReply | TextReply) -> Marking:
        """Mark a reply."""
        return self._whole.mark(item, reply)


def ask_block(folder: RunFolder, engine: Engine, benchmark: Benchmark, order: Sequence[str], block: int) -> int:
    """Ask the first items of an order that have no record yet; return their number.

    Within a block items are sorted by subject: engines share what is the same in front of several questions.
    """
    done = designated(folder.records(benchmark.task))
    wanted = [key for key in order if key not in done][:block]
    if wanted:
        items = items_of(benchmark)
        collect(folder, engine, [Part(benchmark, [items[key] for key in sorted(wanted)])], progress=False)
    return len(wanted)


def items_of(benchmark: Benchmark) -> Mapping[str, Item]:
    """Return the items by key."""
    return {item.key: item for item in benchmark.items}


def share_items(baseline: Path, folder: Path, task: str) -> None:
    """Put the baseline's file of items into a run folder as a second name of the same file.

    The prompts were compared by digest. Five worked examples before each of 14,042 questions are 50 megabytes, which
    need not be written every night; where the file system has no hard links they are.
    """
    source, target = task_file(baseline, "items", task), task_file(folder, "items", task)
    if source.exists() and not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            os.link(source, target)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A few items, asked twice.

    Attributes:
        items: asked.
        first, again: usable answers, the first and the second time.
        both: items answered both times.
        disagree: of those, items whose mark changed.
        allowed: disagreements from which on the engine is taken for broken.
    """

    items: int
    first: int
    again: int
    both: int
    disagree: int
    allowed: int

    @property
    def silent(self) -> bool:
        """Too many of the items have no usable answer."""
        return min(self.first, self.again) < (1.0 - PROBE_MISSING_MAX) * self.items

    @property
    def unstable(self) -> bool:
        """The engine does not agree with itself."""
        return self.disagree >= self.allowed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)


def probe(
    engine: Engine, benchmark: Benchmark, records: Mapping[str, Record], keys: Sequence[str], *, noise: float
) -> Probe:
    """Ask items a second time and compare their marks with the records; nothing is written.

    Args:
        engine: the candidate.
        benchmark: has the items.
        records: item key to the first answer.
        keys: the items.
        noise: share of items that an engine in order may answer differently the second time.
    """
    items, metric = items_of(benchmark), benchmark.task_run.metric
    again: dict[str, float | None] = {}
    for item, _, outcome in ask(engine, benchmark, [(items[key], 0) for key in keys]):
        again[item.key] = _mark(benchmark, item, outcome, metric)
    first = {key: records[key].marks.get(metric) if records[key].status == "ok" else None for key in keys}
    both = [key for key in keys if first[key] is not None and again[key] is not None]
    return Probe(
        items=len(keys),
        first=sum(mark is not None for mark in first.values()),
        again=sum(mark is not None for mark in again.values()),
        both=len(both),
        disagree=sum(first[key] != again[key] for key in both),
        allowed=too_many(len(both), noise),
    )


def _mark(benchmark: Benchmark, item: Item, outcome: ChoiceReply | TextReply | str, metric: str) -> float | None:
    if isinstance(outcome, str):
        return None
    try:
        return benchmark.mark(item, outcome).marks.get(metric)
    except DataError:  # as in a run: this item has no mark
        return None


def too_many(n: int, share: float, p: float = SELF_DISAGREEMENT_P) -> int:
    """Return the smallest count that a binomial number of n draws reaches with a chance below `p`.

    >>> too_many(32, 0.06)
    8
    """
    tail, count = 1.0, 0
    while tail >= p and count <= n:
        tail -= comb(n, count) * share**count * (1.0 - share) ** (n - count)
        count += 1
    return count
