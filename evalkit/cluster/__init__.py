"""Engines on a cluster: replicas of one engine that answer as one, and outlive crashes, hangs and lost nodes.

In: an engine specification and an execution section. Out: a `Fleet`, an engine like any other.
Must not depend on: tasks, run folders, which run is the baseline.

Ray places, starts and ends processes and carries messages; which request is asked next, and what is done when a replica
is lost, is decided here (docs/decisions/0050). There is one writer of records, and it is whoever asks the fleet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from evalkit.adapters.base import Resources
from evalkit.adapters.registry import spec_at
from evalkit.cluster.crew import Crew
from evalkit.cluster.fleet import Fleet, RateLimit
from evalkit.cluster.ray_transport import RaySession, RayTransport, connect
from evalkit.cluster.transport import Terms, Transport
from evalkit.errors import EngineError
from evalkit.suite import Execution, Placement

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

__all__ = ["Cluster", "Crew", "Fleet", "RateLimit", "Terms", "Transport", "replica_specs"]


class Cluster:
    """A Ray cluster that engines are opened on; connected to when the first one is, and left when this is closed.

    Attributes:
        execution: where engines run and how many of each.
        stop: set by whoever wants everything that waits here to stop.
    """

    def __init__(self, execution: Execution, say: Callable[[str], None] = lambda _line: None) -> None:
        self.execution = execution
        self.stop = threading.Event()
        per_minute = execution.judge_requests_per_minute
        self._limit = RateLimit(per_minute) if per_minute is not None else None
        self._say, self._lock = say, threading.Lock()
        self._session: RaySession | None = None

    def open(self, spec: EngineSpec, resources: Resources, placement: Placement, *, judge: bool = False) -> Fleet:
        """Start the replicas of an engine and return when the first of them is ready; the others join as they come.

        Args:
            spec: the engine.
            resources: what adapters may use.
            placement: how many replicas, and what each needs.
            judge: whether the limit of all judges holds for it.

        Raises:
            MissingExtraError: Ray is not installed.
            UsageError, RecipeError: what was asked for is wrong.
            EngineError: there is no cluster at the address, no node can ever hold a replica, or none could be loaded.
            InterruptedRunError: stopped on request.
        """
        specs = replica_specs(spec, placement)
        self._check_room(spec.name, placement)
        transport = RayTransport(spec.name, specs, resources, placement)
        terms = Terms(
            name=spec.name,
            replicas=len(specs),
            shard=self.execution.shard,
            timeout_s=self.execution.timeout_s,
            restarts=self.execution.restarts,
        )
        crew = Crew(transport, terms, self._say, self.stop.is_set)
        try:
            crew.open()
            return Fleet(crew, self._limit if judge else None)
        except BaseException:
            crew.close()
            raise

    def close(self) -> None:
        """Leave the cluster; a Ray that was started here is stopped. A second call does nothing."""
        with self._lock:
            if self._session is not None:
                self._session.close()
                self._session = None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connected(self) -> RaySession:
        with self._lock:
            if self._session is None:
                self._session = connect(self.execution.address)
                have = ", ".join(f"{amount:g} {name}" for name, amount in _countable(self._session.resources()).items())
                self._say(f"Ray {'started here' if self._session.started else 'cluster'}: {have}")
            return self._session

    def _check_room(self, name: str, placement: Placement) -> None:
        """Refuse what a Ray started here can never hold; on a cluster, nodes may still be added."""
        session = self._connected()
        if not session.started:
            return
        have = session.resources()
        needs = {"GPU": placement.num_gpus, "CPU": placement.num_cpus, **placement.resources}
        short = [
            f"{need:g} {what} of {have.get(what, 0.0):g}" for what, need in needs.items() if need > have.get(what, 0)
        ]
        if short:
            raise EngineError(
                f"{name}: a replica needs more than this machine has ({', '.join(short)}), and Ray was started on this "
                "machine alone; next step: name a cluster in execution.address, or ask for less in execution.engines"
            )


def replica_specs(spec: EngineSpec, placement: Placement) -> list[EngineSpec]:
    """Return what each replica loads: the same for all, but for the address where there are several.

    Raises:
        UsageError: the adapter's engines are not behind an address.
    """
    if placement.urls:
        return [spec_at(spec, url) for url in placement.urls]
    return [spec] * placement.count


def _countable(resources: dict[str, float]) -> dict[str, float]:
    """Return the resources people asked for, without Ray's own names for nodes and bytes of memory."""
    own = ("node:", "memory", "object_store_memory", "accelerator_type:")
    return {name: amount for name, amount in sorted(resources.items()) if not name.startswith(own)}
