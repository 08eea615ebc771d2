"""Watch one loaded engine: probe, blocks of items until the evidence decides, confirming run.

In: a loaded engine, its open run folder, the baseline's marks. Out: what was seen of each endpoint.
Must not depend on: what an outcome is called, where results are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from math import comb
from pathlib import Path
from typing import Any
from urllib.parse import quote

from evalkit.adapters.base import Engine
from evalkit.benchmarks import Benchmark
from evalkit.collect import collect
from evalkit.collect.asking import ask
from evalkit.errors import DataError
from evalkit.nightly.watch import Marks, NightReason, State, Watch, broken, designated, marks_of, plain_e, watch
from evalkit.policy import Policy, ProportionEndpoint
from evalkit.records.canonical import build, canonical_json
from evalkit.records.record import ChoiceReply, Item, Record, TextReply
from evalkit.statistics.sequential import SequentialRules
from evalkit.store import RunFolder
from evalkit.store.door import read_document
from evalkit.store.lines import task_file, write_atomic

# Ask one engine some of the items of a benchmark, in blocks.


PROBE = 32
"""Items of the probe: asked first, and asked again."""

PROBE_MISSING_MAX = 0.10
"""Share of the probe's replies that may be missing."""

SELF_DISAGREEMENT_P = 0.001
"""A probe that disagrees with itself more often than this chance explains is a broken engine."""


def ask_block(folder: RunFolder, engine: Engine, benchmark: Benchmark, order: Sequence[str], block: int) -> int:
    """Ask the first items of an order that have no record yet; return their number.

    Within a block items are sorted by subject: engines share what is the same in front of several questions.
    """
    done = designated(folder.records(benchmark.task))
    wanted = [key for key in order if key not in done][:block]
    if wanted:
        collect(folder, engine, [benchmark], progress=False, only=frozenset(wanted))
    return len(wanted)


def items_of(benchmark: Benchmark) -> Mapping[str, Item]:
    """Return the items by key."""
    return {item.key: item for item in benchmark.items}


def share_items(baseline: Path, folder: Path, task: str) -> None:
    """Put the baseline's file of items into a run folder as a second name of the same file.

    The prompts were compared by digest. Five worked examples before each of 14,042 questions are 50 megabytes, which
    need not be written every night; where the file system has no hard links they are, all of them, by `write_items`.
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


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Everything that watching one engine needs.

    Attributes:
        folder, engine: the candidate's.
        benchmarks: task name to benchmark.
        orders: task name to the night's order of all items.
        baseline: endpoint name to the baseline's marks.
        policy: thresholds.
        block: items asked between two looks.
        say: writes a line for people.
        progress: show bars in full runs.
    """

    folder: RunFolder
    engine: Engine
    benchmarks: Mapping[str, Benchmark]
    orders: Mapping[str, Sequence[str]]
    baseline: Mapping[str, Marks]
    policy: Policy
    block: int
    say: Callable[[str], None]
    progress: bool


@dataclass(kw_only=True)
class Seen:
    """What was seen of one endpoint.

    Attributes:
        probe: the first items, asked twice; None if that was not reached.
        watch: the evidence; None if that was not reached.
        confirm: the same on fresh items, after an alarm.
        faults: why the night may not be judged.
    """

    probe: Probe | None = None
    watch: Watch | None = None
    confirm: Watch | None = None
    faults: list[NightReason] = field(default_factory=list)

    @property
    def wants_full(self) -> bool:
        """The evidence calls for the full comparison."""
        return not self.faults and self.watch is not None and self.watch.state in (State.ALARM, State.CAP)


def see(bench: Bench, name: str, endpoint: ProportionEndpoint, rules: SequentialRules) -> Seen:
    """Watch one endpoint to its end; what was asked before is read, not asked again.

    Raises:
        EngineError: the engine broke; finished records are kept.
        DataError: a mark is neither 0 nor 1, or a file is damaged.
    """
    seen = Seen(probe=_probe(bench, endpoint.task))
    seen.faults += _probe_faults(name, seen.probe)
    if seen.faults:
        return seen
    order = bench.orders[endpoint.task]
    seen.watch = _until_decided(bench, name, endpoint, order, rules)
    seen.faults += _data_faults(bench, name, endpoint, seen.watch)
    if seen.faults:
        return seen
    if seen.watch.state is State.ALARM:
        seen.confirm = _confirm(bench, name, endpoint, order[seen.watch.used :], rules)
        seen.faults += _data_faults(bench, name, endpoint, seen.confirm) if seen.confirm else []
    return seen


def complete(bench: Bench) -> None:
    """Ask everything that is left of every task: the records of a full run."""
    collect(bench.folder, bench.engine, list(bench.benchmarks.values()), progress=bench.progress)


def _probe(bench: Bench, task: str) -> Probe:
    """Ask the first items twice, once in a night: a repeated command reads what was found."""
    file = bench.folder.path / "probe" / f"{quote(task, safe='')}.json"
    if file.exists():
        try:
            return build(Probe, read_document(file, again="delete the file and repeat the same command"))
        except DataError as error:
            raise DataError(f"{file}: {error}; next step: delete the file and repeat the same command") from error
    keys, benchmark = bench.orders[task][:PROBE], bench.benchmarks[task]
    ask_block(bench.folder, bench.engine, benchmark, keys, PROBE)
    records = designated(bench.folder.records(task))
    found = probe(bench.engine, benchmark, records, keys, noise=bench.policy.planning.discordance)
    if not (found.silent or found.unstable):
        write_atomic(file, [canonical_json(found.to_dict()) + "\n"])
    return found


def _probe_faults(name: str, found: Probe | None) -> list[NightReason]:
    if found is None:
        return []
    if found.silent:
        message = (
            f"{name}: of {found.items} items asked twice, {found.first} were answered at first and {found.again} the "
            "second time; next step: look at the engine or its server"
        )
        return [NightReason(code="probe", message=message, endpoint=name)]
    if found.unstable:
        message = (
            f"{name}: {found.disagree} of {found.both} items were answered differently when asked again; "
            f"{found.allowed} are too many for rounding noise; next step: look for a race or a broken kernel"
        )
        return [NightReason(code="self-disagreement", message=message, endpoint=name)]
    return []


def _until_decided(
    bench: Bench, name: str, endpoint: ProportionEndpoint, order: Sequence[str], rules: SequentialRules
) -> Watch:
    """Ask block after block until the evidence decides, or no further answer could make the night valid."""
    limit = order[: rules.items]
    while True:
        records = bench.folder.records(endpoint.task)
        found = watch(order, bench.baseline[name], marks_of(records, endpoint.metric), rules)
        bench.say(
            f"{name}: {found.used:,} items, -{found.n10} +{found.n01}, e = {plain_e(found.log_e)}, "
            f"e' = {plain_e(found.log_e_loss)}: {found.state.value}"
        )
        hopeless = found.missing_candidate > bench.policy.missing.items_max * rules.items
        if found.state is not State.OPEN or hopeless or broken(records) is not None:
            return found
        ask_block(bench.folder, bench.engine, bench.benchmarks[endpoint.task], limit, bench.block)


def _confirm(
    bench: Bench, name: str, endpoint: ProportionEndpoint, order: Sequence[str], rules: SequentialRules
) -> Watch | None:
    """Begin anew on the items after the alarm, which it does not rest on; None if none are left."""
    if not order:
        return None
    bench.say(f"{name}: ALARM; a confirming run on fresh items begins")
    return _until_decided(bench, name, endpoint, order, replace(rules, population=len(order)))


def _data_faults(bench: Bench, name: str, endpoint: ProportionEndpoint, found: Watch) -> list[NightReason]:
    """Return why the answers may not be judged: numbers that are not finite, or too many missing."""
    bad = broken(bench.folder.records(endpoint.task))
    if bad is not None:
        message = f"{name}: {bad.key}: {bad.failure}; next step: repair the engine"
        return [NightReason(code="non-finite", message=message, endpoint=name)]
    most = bench.policy.missing.items_max
    if found.missing_candidate > most * found.used:
        message = (
            f"{name}: {found.missing_candidate} of {found.used:,} items have no answer "
            f"({found.missing_candidate / max(1, found.used):.2%}), more than {most:.2%}; next step: repair the engine "
            "or its server; the same command asks them again"
        )
        return [NightReason(code="coverage", message=message, endpoint=name)]
    return []
