"""One engine, wherever it runs: in this process, or as replicas on a cluster.

In: an engine specification, an execution section. Out: an engine.
May not know: tasks, run folders.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from evalkit.adapters.base import Engine, Resources
from evalkit.adapters.registry import load_engine
from evalkit.execution import JUDGE, LOCAL, Execution, Placement
from evalkit.suite import RERUN_SUFFIX, EngineSpec

if TYPE_CHECKING:
    from evalkit.cluster import Cluster


class Opener:
    """Opens engines as an execution section says; a cluster is connected to when the first engine needs it.

    Args:
        execution: where engines run.
        say: takes one line for people.
    """

    def __init__(self, execution: Execution, say: Callable[[str], None]) -> None:
        self.execution = execution
        self._say, self._lock = say, threading.Lock()
        self._cluster: Cluster | None = None
        self._stopping = False

    def open(self, spec: EngineSpec, resources: Resources, *, judge: bool = False) -> Engine:
        """Load an engine here, or start its replicas.

        The second run of the baseline is placed as the baseline, and a judge as `judge`, where they have no entry of
        their own.

        Raises:
            EvalkitError: it cannot be loaded; see `load_engine` and `Cluster.open`.
        """
        if self.execution.on == LOCAL:
            return load_engine(spec, resources)
        return self._connected().open(spec, resources, self._placement(spec, judge=judge), judge=judge)

    def check(self, engines: Iterable[EngineSpec], judges: Iterable[EngineSpec] = ()) -> None:
        """Refuse, before anything runs for hours, what an engine or a judge later on could not be placed as.

        Raises:
            UsageError: an engine has `urls` that its adapter or its options do not allow.
        """
        if self.execution.on == LOCAL:
            return
        from evalkit.cluster import replica_specs  # noqa: PLC0415 - one machine needs none of it

        for spec, judge in (*((spec, False) for spec in engines), *((spec, True) for spec in judges)):
            replica_specs(spec, self._placement(spec, judge=judge))

    def _placement(self, spec: EngineSpec, *, judge: bool) -> Placement:
        names = [spec.name, spec.name.removesuffix(RERUN_SUFFIX), *([JUDGE] if judge else [])]
        return self.execution.placement(*names)

    def stop(self) -> None:
        """Let everything that waits for a cluster stop."""
        with self._lock:
            self._stopping = True
            if self._cluster is not None:
                self._cluster.stop.set()

    def close(self) -> None:
        """Leave the cluster, if there is one."""
        with self._lock:
            if self._cluster is not None:
                self._cluster.close()
                self._cluster = None

    def _connected(self) -> Cluster:
        from evalkit.cluster import Cluster  # noqa: PLC0415 - one machine needs none of it

        with self._lock:
            if self._cluster is None:
                self._cluster = Cluster(self.execution, self._say)
            if self._stopping:
                self._cluster.stop.set()
            return self._cluster
