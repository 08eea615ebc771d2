"""The connection to a Ray cluster, or a Ray started here for the time of a command.

In: an address. Out: a session; whoever opened it closes it.
May not know: engines, replicas.
"""

from __future__ import annotations

import logging
import os
import socket
from importlib.util import find_spec
from typing import Any

from evalkit.errors import EngineError, MissingExtraError, UsageError

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own variable: a cluster's address that holds where none is given."""

_KNOCK_S = 10.0
_USAGE_VARIABLE = "RAY_USAGE_STATS_ENABLED"


class RaySession:
    """A process's connection to Ray.

    Attributes:
        started: whether Ray was started here, so that no node will ever be added.
    """

    def __init__(self, *, started: bool, ours: bool) -> None:
        self.started = started
        self._ours = ours

    def resources(self) -> dict[str, float]:
        """Return what all nodes have together, as they were started."""
        return {name: float(amount) for name, amount in ray_module().cluster_resources().items()}

    def close(self) -> None:
        """Disconnect, and stop a Ray that was started here; a second call does nothing."""
        if self._ours:
            self._ours = False
            ray_module().shutdown()


def ray_module() -> Any:
    """Return Ray, imported when it is needed and not before.

    Raises:
        MissingExtraError: it is not installed.
    """
    if find_spec("ray") is None:
        raise MissingExtraError("running on a Ray cluster ('execution.on: ray', --on ray)", "ray", "ray")
    import ray  # noqa: PLC0415 - an optional package that starts slowly

    return ray


def connect(address: str | None) -> RaySession:
    """Connect this process to Ray; a connection that is there already is used, and left alone afterwards.

    Args:
        address: "auto", "local", "host:port", "ray://host:port", or None for `RAY_ADDRESS`, and without it a Ray
            that is started on this machine.

    Raises:
        MissingExtraError: Ray is not installed.
        UsageError: a package for this kind of address is not installed.
        EngineError: no cluster answers there, or it runs another version.
    """
    ray = ray_module()
    if ray.is_initialized():
        return RaySession(started=False, ours=False)
    started = address == "local" or (address is None and not os.environ.get(ADDRESS_VARIABLE))
    if started:
        os.environ.setdefault(_USAGE_VARIABLE, "0")  # nobody asked for reports about this machine
    where = address or os.environ.get(ADDRESS_VARIABLE) or "this machine"
    try:
        _knock(where)
        ray.init(address="local" if started else address, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError as error:
        raise UsageError(f"{address}: {error}; next step: pip install 'ray[client]'") from error
    except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise EngineError(
            f"Ray at {where}: {str(error).strip() or type(error).__name__}; next step: see that 'ray status' works "
            "there, or leave out the address, and Ray is started on this machine"
        ) from error
    _silence(ray)
    return RaySession(started=started, ours=True)


def _silence(ray: Any) -> None:
    """Keep Ray's words about lost workers from stdout, where data go; evalkit itself says what was lost, on stderr.

    `log_to_driver=False` does not cover them, and there is no switch that does.
    """
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_words, **_more: None


def _knock(where: str) -> None:
    """See that somebody listens at an address; Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = where.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
