"""Watch one loaded engine: probe, blocks of items until the evidence decides, confirming run.

In: a loaded engine, its open run folder, the baseline's marks. Out: what was seen of each endpoint.
May not know: what an outcome is called, where results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from evalkit.adapters.base import Engine
from evalkit.benchmarks import Benchmark
from evalkit.collect import collect
from evalkit.nightly.asking import PROBE, Probe, ask_block, probe
from evalkit.nightly.conclude import plain_e
from evalkit.nightly.marks import broken, designated, marks_of
from evalkit.nightly.outcome import NightReason
from evalkit.nightly.watch import Marks, State, Watch, watch
from evalkit.policy import Policy, ProportionEndpoint
from evalkit.records import canonical_json, parse_object
from evalkit.statistics.sequential_outlook import SequentialRules
from evalkit.store import RunFolder
from evalkit.store.lines import write_atomic


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
        return Probe(**parse_object(file.read_text(encoding="utf-8"), str(file)))
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
