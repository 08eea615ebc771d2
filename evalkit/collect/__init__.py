"""Collecting: every item of every benchmark put to one engine, every outcome written down at once.

In: a run folder, an engine, benchmarks. Out: records on the disk, and a count of them.
May not know: baselines, verdicts, judges.

A run that stops, for whatever reason, keeps its finished records; the same call resumes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.adapters.base import Engine
from evalkit.benchmarks import Benchmark, marking_many
from evalkit.collect.asking import Wanted, ask, seed_of
from evalkit.collect.judge import JudgingSummary, judge
from evalkit.collect.progress import Progress
from evalkit.collect.writing import RecordWriter
from evalkit.errors import InterruptedRunError, StoreError
from evalkit.records import Item, text_digest
from evalkit.store import RunFolder

__all__ = ["JudgingSummary", "Progress", "TaskCount", "collect", "judge", "seed_of"]


@dataclass(frozen=True, kw_only=True)
class TaskCount:
    """What was done for one task.

    Attributes:
        task: name.
        planned: records of a complete run.
        found: records that were there before.
        written: records written now, failed ones included.
        failed: failed records written now.
    """

    task: str
    planned: int
    found: int
    written: int
    failed: int


def collect(
    folder: RunFolder,
    engine: Engine,
    benchmarks: Sequence[Benchmark],
    *,
    order_seed: int | None = None,
    retry_failed: bool = False,
    progress: bool = True,
) -> list[TaskCount]:
    """Put to the engine every item that has no record yet.

    Args:
        folder: where records go; its manifest names every benchmark's task.
        engine: who answers.
        benchmarks: what is asked, one after the other.
        order_seed: seed of a random order of items; None for the benchmark's own. With another order an engine forms
            other batches: a rerun then shows its own numerical noise. The finished files do not depend on it.
        retry_failed: ask items again whose record says "failed"; otherwise a failed record counts as done.
        progress: show progress on stderr.

    Raises:
        EngineError: the engine gives no usable replies; see `RecordWriter.add`.
        StoreError: the disk failed.
        InterruptedRunError: stopped on request; says what is done.
        DataError: a file of the folder is damaged.
    """
    return [
        _collect_task(folder, engine, benchmark, order_seed, retry_failed=retry_failed, progress=progress)
        for benchmark in benchmarks
    ]


def _collect_task(
    folder: RunFolder,
    engine: Engine,
    benchmark: Benchmark,
    order_seed: int | None,
    *,
    retry_failed: bool,
    progress: bool,
) -> TaskCount:
    task, planned = benchmark.task, benchmark.task_run.planned
    folder.write_items(task, benchmark.items)
    if retry_failed:
        folder.drop_failed(task)
    done = folder.done_keys(task)
    wanted = _wanted(benchmark, done, order_seed)
    bar = Progress(task, total=planned, done=len(done), shown=progress and bool(wanted))
    writer = RecordWriter(folder, benchmark, bar, len(wanted))
    try:
        if wanted:
            with marking_many():
                for item, sample, outcome in ask(engine, benchmark, wanted):
                    writer.add(item, sample, outcome)
            writer.flush()
    except KeyboardInterrupt:
        writer.flush()
        raise _interrupted(folder, task, len(done) + writer.written, planned) from None
    except StoreError:
        raise
    except BaseException:
        writer.flush()
        raise
    finally:
        bar.close()
    folder.finish(task)
    return TaskCount(task=task, planned=planned, found=len(done), written=writer.written, failed=writer.failed)


def _wanted(benchmark: Benchmark, done: frozenset[str], order_seed: int | None) -> list[Wanted]:
    pairs = [(item, sample) for item in benchmark.items for sample in range(benchmark.samples)]
    wanted = [(item, sample) for item, sample in pairs if record_key(item, sample) not in done]
    if order_seed is not None:
        wanted.sort(key=lambda pair: text_digest(f"{order_seed}:{record_key(*pair)}"))
    return wanted


def record_key(item: Item, sample: int) -> str:
    """Return the `Record.key` that a reply to this item will have."""
    return f"{item.key}/{sample}"


def _interrupted(folder: RunFolder, task: str, done: int, planned: int) -> InterruptedRunError:
    command = folder.manifest.command
    resume = f": {command}" if command else ""
    return InterruptedRunError(
        f"stopped on request: {done} of {planned} records of task '{task}' are in {folder.path}; "
        f"next step: the same command resumes{resume}"
    )
