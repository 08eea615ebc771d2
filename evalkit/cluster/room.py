"""Can a cluster hold what an execution section asks for? Said before anything is started.

In: what each node has, what the replicas of each engine need. Out: what fits, and what never will.
May not know: Ray; what is free at the moment: others' work ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evalkit.execution import Placement

Have = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Room:
    """Whether the replicas of one engine find places.

    Attributes:
        engine: its name.
        asked: replicas.
        fit: how many of them the nodes hold at once, with nothing else on them.
        seen: in words.
    """

    engine: str
    asked: int
    fit: int
    seen: str


def needs_of(placement: Placement) -> dict[str, float]:
    """Return what one replica needs of a node, by Ray's names."""
    found = {"GPU": placement.num_gpus, "CPU": placement.num_cpus, **placement.resources}
    return {name: amount for name, amount in found.items() if amount > 0}


def room_for(engine: str, placement: Placement, nodes: Sequence[Have]) -> Room:
    """Say whether an engine's replicas find places, each on one node.

    >>> room_for("fp8", Placement(num_gpus=8), [{"GPU": 4.0, "CPU": 8.0}] * 2).seen
    'a replica needs 8 GPU, 1 CPU on one node; the largest node has 4 GPU'
    """
    needs = needs_of(placement)
    asked = placement.count
    fit = sum(_times(needs, node) for node in nodes)
    words = ", ".join(f"{amount:g} {name}" for name, amount in needs.items()) or "nothing"
    if fit == 0:
        seen = f"a replica needs {words} on one node; {_largest(needs, nodes)}"
    elif fit < asked:
        seen = f"{fit} of {asked} replicas fit at once ({words} each); the others wait for room"
    else:
        seen = f"all {asked} replicas fit ({words} each)" if asked > 1 else f"it fits ({words})"
    return Room(engine=engine, asked=asked, fit=fit, seen=seen)


def holds(placement: Placement, node: Have) -> bool:
    """Say whether a node can hold a replica."""
    return _times(needs_of(placement), node) > 0


def together(placements: Mapping[str, Placement], nodes: Sequence[Have]) -> str:
    """Say whether all engines fit at the same time; the largest are placed first, each where it leaves the least."""
    left = [dict(node) for node in nodes]
    waiting = []
    replicas = [(name, needs_of(one)) for name, one in placements.items() for _ in range(one.count)]
    for name, needs in sorted(replicas, key=lambda each: (-each[1].get("GPU", 0.0), -each[1].get("CPU", 0.0), each[0])):
        holders = [node for node in left if _times(needs, node) > 0]
        if not holders:
            waiting.append(name)
            continue
        node = min(holders, key=lambda one: (one.get("GPU", 0.0), one.get("CPU", 0.0)))
        for what, amount in needs.items():
            node[what] -= amount
    if not waiting:
        return f"all {len(replicas)} replicas of {len(placements)} engines fit at the same time"
    counts = ", ".join(f"{name} {waiting.count(name)}" for name in dict.fromkeys(waiting))
    return (
        f"{len(replicas) - len(waiting)} of {len(replicas)} replicas fit at the same time; waiting for room: {counts}"
    )


def _times(needs: Have, node: Have) -> int:
    if not needs:
        return 10**6
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needs.items())


def _largest(needs: Have, nodes: Sequence[Have]) -> str:
    """Say of each thing that no node has enough of how much the largest has; or that no node has all of it at once."""
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needs}
    short = [f"{most[name]:g} {name}" for name, amount in needs.items() if most[name] < amount]
    return f"the largest node has {', '.join(short)}" if short else "no node has all of it at once"
