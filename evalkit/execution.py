"""Where engines run and how many of each: the section `execution` of a suite.

In: plain data of a configuration file, or the word given with `--on`. Out: a frozen `Execution`.
May not know: engines, Ray, which run is the baseline.

Nothing here can change an answer, so nothing here is part of an identity, of what was asked for, or of a policy: a run
begun on one machine goes on on a cluster, and the other way round.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evalkit.configuration import Section
from evalkit.errors import UsageError

LOCAL, RAY, AUTO = "local", "ray", "auto"
_ADDRESS = r"^(auto|local|(ray://)?[^\s/]+:[0-9]+)$"
JUDGE = "judge"
"""Names the judge in `engines`, whatever its engine is called."""


class Placement(Section):
    """What the replicas of one engine need.

    Attributes:
        replicas: copies of the engine that share its items.
        num_gpus: GPUs of one replica, all on one node; a share below 1 lets replicas share a GPU.
        num_cpus: CPUs of one replica.
        resources: custom resources of one replica, as the nodes were started with; such as `H200: 2`.
        urls: for engines behind servers: addresses of servers with the same model, one replica each; the adapter's
            option `base_url` is replaced by each in turn.
    """

    replicas: Annotated[int, Field(ge=1)] = 1
    num_gpus: Annotated[float, Field(ge=0)] = 0.0
    num_cpus: Annotated[float, Field(ge=0)] = 1.0
    resources: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    urls: tuple[Annotated[str, Field(pattern=r"^https?://")], ...] = ()

    @field_validator("num_gpus")
    @classmethod
    def _whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"must be a whole number above 1, not {value:g}: no GPU is cut for two of them")
        return value

    @model_validator(mode="after")
    def _one_replica_for_each_url(self) -> Placement:
        if self.urls and "replicas" in self.model_fields_set and self.replicas != len(self.urls):
            raise ValueError(f"replicas is {self.replicas}, urls are {len(self.urls)}; leave out replicas")
        if len(set(self.urls)) < len(self.urls):
            raise ValueError("an address stands twice in urls")
        return self

    @property
    def count(self) -> int:
        """Replicas: one for each address, where there are addresses."""
        return len(self.urls) or self.replicas

    def over(self, defaults: Placement) -> Placement:
        """Return the defaults with everything that is said here in its place; `resources` as a whole."""
        said: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        return defaults.model_copy(update=said)


class Execution(Section):
    """Where and how the engines of a suite run.

    Attributes:
        on: "local", in this process, one engine after the other; or "ray".
        address: of a Ray cluster: "auto" (the one this machine belongs to), "host:port" or "ray://host:port"; None for
            what `RAY_ADDRESS` says, and without it a Ray started on this machine for the time of the command.
        concurrent: on Ray, run baseline, rerun, controls and candidates at the same time.
        defaults: what the replicas of any engine need.
        engines: engine name to what is different for it; "judge" names the judge.
        shard: requests handed to a replica at once, at most.
        timeout_s: seconds after which a replica that works on a shard of this size is taken for hung.
        restarts: replicas of one engine that are started anew, at most.
        judge_requests_per_minute: one limit for all replicas of all judges together; None for none.
    """

    on: Literal["local", "ray"] = "local"
    address: Annotated[str, Field(pattern=_ADDRESS)] | None = None
    concurrent: bool = False
    defaults: Placement = Field(default_factory=Placement)
    engines: dict[str, Placement] = Field(default_factory=dict)
    shard: Annotated[int, Field(ge=1)] = 32
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    restarts: Annotated[int, Field(ge=0)] = 8
    judge_requests_per_minute: Annotated[float, Field(gt=0)] | None = None

    @field_validator("defaults")
    @classmethod
    def _no_address_for_all(cls, value: Placement) -> Placement:
        if value.urls:
            raise ValueError("urls belong to one engine; write them in engines")
        return value

    def placement(self, *names: str) -> Placement:
        """Return what the replicas of an engine need: of the first of its names that is in `engines`."""
        for name in names:
            if name in self.engines:
                return self.engines[name].over(self.defaults)
        return self.defaults


def placed_on(execution: Execution, on: str | None) -> Execution:
    """Return the execution as `--on` wants it: "local", "ray", or the address of a cluster; None changes nothing.

    Raises:
        UsageError: it is none of these.
    """
    if on is None:
        return execution
    if on in (LOCAL, RAY):
        return execution.model_copy(update={"on": on})
    if not re.match(_ADDRESS, on):
        raise UsageError(f"--on {on!r}: write local, ray, auto, host:port or ray://host:port")
    return execution.model_copy(update={"on": RAY, "address": on})
