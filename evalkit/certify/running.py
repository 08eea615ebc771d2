"""One engine, its tasks, one folder: load, read back, ask, write; or reuse what is finished.

In: an engine specification and task names. Out: a run folder.
May not know: which run is the baseline.
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from evalkit import __version__
from evalkit.adapters.base import Engine, Resources, warnings_of
from evalkit.adapters.registry import reusable
from evalkit.assets import AssetStore
from evalkit.benchmarks import Benchmark, load_benchmark
from evalkit.certify.opening import Opener
from evalkit.certify.recording import record_begun, record_completed
from evalkit.certify.request import requested
from evalkit.collect import TaskCount, collect
from evalkit.definitions import Definitions
from evalkit.errors import EvalkitError
from evalkit.execution import LOCAL, Execution
from evalkit.ledger import Ledger
from evalkit.records import Manifest
from evalkit.redaction import redact_settings
from evalkit.store import RunFolder, read_manifest, record_keys
from evalkit.suite import EngineSpec


@dataclass(kw_only=True)
class Workshop:
    """What every run of one invocation shares.

    Attributes:
        assets: where models and data sets come from.
        definitions: where tasks and judges are defined.
        say: writes one line of progress for people.
        progress: show progress bars.
        command: the command line, for manifests.
        overrides: asset sources that replace declared ones, as the suite gives them.
        execution: where engines run.
        ledger: where what is done is put on record; None for no record.
    """

    assets: AssetStore
    definitions: Definitions
    say: Callable[[str], None]
    progress: bool = True
    command: str = ""
    overrides: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    execution: Execution = field(default_factory=Execution)
    ledger: Ledger | None = None
    _benchmarks: dict[str, Benchmark] = field(default_factory=dict)
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _opener: Opener | None = None

    def benchmark(self, task: str) -> Benchmark:
        """Load a task once; later engines, or those asked at the same time, are asked the same objects."""
        with self._loading:
            if task not in self._benchmarks:
                self._benchmarks[task] = load_benchmark(self.definitions.task(task), self.assets)
            return self._benchmarks[task]

    @property
    def opener(self) -> Opener:
        """Who loads engines, here or on a cluster."""
        if self._opener is None:
            self._opener = Opener(self.execution, self.say)
        return self._opener

    def close(self) -> None:
        """Leave the cluster, if engines ran on one; a second call does nothing."""
        if self._opener is not None:
            self._opener.close()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def resources(self) -> Resources:
        """What adapters may use; a loader's bars are for terminals, a log gets none."""
        return Resources(assets=self.assets, progress=self.progress and sys.stderr.isatty())

    def request(self, spec: EngineSpec, order_seed: int | None) -> dict[str, Any]:
        """Return what is asked for, before anything is loaded."""
        asked = requested(spec, self.assets)
        asked["order_seed"] = order_seed
        asked["sources"] = {name: [dict(source) for source in given] for name, given in self.overrides.items()}
        return dict(redact_settings(asked))


def run_engine(
    spec: EngineSpec,
    tasks: Sequence[str],
    path: Path,
    workshop: Workshop,
    *,
    order_seed: int | None = None,
    policy_sha256: str | None = None,
    retry_failed: bool = False,
    check_batches: int = 0,
) -> list[TaskCount]:
    """Bring a run folder to completion, loading the engine only if something is missing.

    Args:
        spec: the engine to load.
        tasks: names of task definitions.
        path: the run's folder.
        workshop: what runs share.
        order_seed: seed of another item order (reruns of the baseline); None for the benchmark's own.
        policy_sha256: policy the run is bound to; None for none.
        retry_failed: ask again what failed before.
        check_batches: items of each task asked again, each alone, when it is complete; see `collect`.

    Returns:
        What was done for each task; empty if the finished run was reused.

    Raises:
        IdentityMismatchError: the folder belongs to another engine, task or policy.
        EvalkitError: the engine could not be loaded or broke; finished records are kept.
    """
    asked = workshop.request(spec, order_seed)
    if not (retry_failed or check_batches) and reusable(spec) and finished(path, asked, tasks, workshop, policy_sha256):
        workshop.say(f"{spec.name}: complete, reused from {path}")
        return []
    with engine_at_work(spec, tasks, path, workshop, order_seed=order_seed, policy_sha256=policy_sha256) as (
        folder,
        engine,
        benchmarks,
    ):
        if workshop.ledger is not None:
            record_begun(workshop.ledger, folder, tasks)
        counts = collect(
            folder,
            engine,
            benchmarks,
            order_seed=order_seed,
            retry_failed=retry_failed,
            progress=workshop.progress,
            check_batches=check_batches,
            label=spec.name if workshop.execution.on != LOCAL else "",
        )
        if workshop.ledger is not None:
            record_completed(workshop.ledger, path)
        return counts


@contextmanager
def engine_at_work(
    spec: EngineSpec,
    tasks: Sequence[str],
    path: Path,
    workshop: Workshop,
    *,
    order_seed: int | None = None,
    policy_sha256: str | None = None,
) -> Iterator[tuple[RunFolder, Engine, list[Benchmark]]]:
    """Load an engine and open its run folder; afterwards both are closed. Arguments and errors as `run_engine`."""
    workshop.say(f"{spec.name}: loading {spec.model} with {spec.adapter}, recipe {spec.recipe}")
    benchmarks = [workshop.benchmark(task) for task in tasks]
    engine = workshop.opener.open(spec, workshop.resources)
    known = warnings_of(engine)
    for warning in known:
        workshop.say(f"{spec.name}: {warning}")
    try:
        manifest = Manifest(
            evalkit=__version__,
            engine=engine.identity,
            tasks={benchmark.task: benchmark.task_run for benchmark in benchmarks},
            requested=workshop.request(spec, order_seed),
            policy_sha256=policy_sha256,
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            command=workshop.command,
            run_id=secrets.token_hex(16),
        )
        with RunFolder.create_or_resume(path, manifest) as folder:
            for repair in folder.repairs:
                workshop.say(repair)
            yield folder, engine, benchmarks
    finally:
        for warning in warnings_of(engine):
            if warning not in known:
                workshop.say(f"{spec.name}: {warning}")
        engine.close()


def finished(
    path: Path, asked: Mapping[str, Any], tasks: Sequence[str], workshop: Workshop, policy_sha256: str | None
) -> bool:
    """Say whether a folder holds every record of the tasks, asked for in exactly this way."""
    try:
        manifest = read_manifest(path)
    except EvalkitError:
        return False
    if dict(manifest.requested) != asked or manifest.policy_sha256 != policy_sha256:
        return False
    for task in tasks:
        run = manifest.tasks.get(task)
        if run is None or run.definition_sha256 != workshop.definitions.task(task).sha256:
            return False
        if len(record_keys(path, task)) < run.planned:
            return False
    return True
