"""Every node of a cluster looked at before work starts, and what is wrong with them.

In: an execution section, engines. Out: one report a node, and remarks with a next step.
Must not depend on: how remarks are shown; how an engine is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evalkit import __version__
from evalkit.cluster import looking
from evalkit.cluster.ray_transport import connect, ray_module
from evalkit.suite import Execution, Placement

# Can a cluster hold what an execution section asks for? Said before anything is started.


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


PACKAGES = ("evalkit-quant", "ray", "torch", "transformers", "tensorrt-llm", "vllm", "nvidia-modelopt", "lm-eval")
"""Distributions that are part of what an engine is; two nodes that differ in one hold two different engines."""

ANSWER_S = 90.0
FREE_BYTES_ADVISED = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """One node.

    Attributes:
        name: host, and the beginning of Ray's name for the node.
        resources: as it was started with.
        row: what `looking.look` saw; empty if it did not answer.
        fault: why it did not answer; "" if it did.
    """

    name: str
    resources: Mapping[str, float]
    row: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """Versions of what is installed there, Python's own among them."""
        found = {name: version for name, version in self.row.get("versions", {}).items() if version is not None}
        return {"python": self.row["python"], **found} if self.row else {}


@dataclass(frozen=True, kw_only=True)
class Remark:
    """One thing that was looked at.

    Attributes:
        where: node or engine.
        what: what was looked at.
        state: "ok", "note", or "gap": something will not work until `next_step` is done.
        seen: what was found.
        next_step: what to do about a gap; "" otherwise.
    """

    where: str
    what: str
    state: Literal["ok", "note", "gap"]
    seen: str
    next_step: str = ""


def look_at_nodes(execution: Execution, models: Mapping[str, str], urls: Sequence[str] = ()) -> list[NodeReport]:
    """Connect to a cluster and look at every living node, all at the same time.

    Args:
        execution: names the cluster.
        models: engine to its model.
        urls: servers that must be reached.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: there is no cluster at the address.
    """
    session = connect(execution.address)
    try:
        return _reports(models, urls)
    finally:
        session.close()


def _reports(models: Mapping[str, str], urls: Sequence[str]) -> list[NodeReport]:
    ray = ray_module()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    nodes = [node for node in ray.nodes() if node["Alive"]]
    ray.cloudpickle.register_pickle_by_value(looking)  # a node without evalkit can then say so itself
    try:
        remote = ray.remote(looking.look)
        asked = {}
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            options = remote.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
            asked[options.remote(list(PACKAGES), "", dict(models), list(urls))] = node
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    finally:
        ray.cloudpickle.unregister_pickle_by_value(looking)
    finished = set(done)
    return sorted((_report(node, ref if ref in finished else None) for ref, node in asked.items()), key=_by_name)


def _by_name(report: NodeReport) -> str:
    return report.name


def _report(node: Mapping[str, Any], ref: Any) -> NodeReport:
    ray = ray_module()
    name = f"{node.get('NodeManagerHostname') or node['NodeManagerAddress']} ({node['NodeID'][:8]})"
    resources = {key: float(amount) for key, amount in node["Resources"].items()}
    if ref is None:
        return NodeReport(name=name, resources=resources, fault=f"no answer in {ANSWER_S:g} s")
    try:
        return NodeReport(name=name, resources=resources, row=ray.get(ref))
    except ray.exceptions.RayError as error:
        return NodeReport(name=name, resources=resources, fault=str(error).strip().splitlines()[-1])


def remarks(
    reports: Sequence[NodeReport], placements: Mapping[str, Placement], *, concurrent: bool = False
) -> list[Remark]:
    """Say what is on each node, where nodes differ, and whether the engines find room.

    Args:
        reports: of all nodes.
        placements: engine to what its replicas need; empty where only the nodes are of interest.
        concurrent: whether all engines are to run at the same time.
    """
    found = [remark for report in reports for remark in _of_node(report, placements)]
    found += _differences(reports)
    nodes = [report.resources for report in reports]
    found += [_of_room(room_for(name, placement, nodes)) for name, placement in placements.items()]
    if concurrent and len(placements) > 1:
        seen = together(placements, nodes)
        found.append(Remark(where="cluster", what="room for all engines", state="note", seen=seen))
    return found


def _of_node(report: NodeReport, placements: Mapping[str, Placement]) -> Iterator[Remark]:
    if report.fault:
        yield Remark(
            where=report.name,
            what="node",
            state="gap",
            seen=report.fault,
            next_step="see Ray's logs of that node, or take it out of the cluster",
        )
        return
    row = report.row
    versions = report.versions
    if "evalkit-quant" not in versions:
        yield Remark(
            where=report.name,
            what="evalkit",
            state="gap",
            seen=f"evalkit is not installed in the Python {row['python']} that Ray was started from",
            next_step=f"pip install evalkit-quant=={__version__} there, with the extra that the adapter needs",
        )
    seen = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Remark(where=report.name, what="versions", state="ok", seen=seen)
    yield _gpus(report)
    yield _disk(report)
    for kind in ("models", "urls"):
        for name, (state, seen) in row[kind].items():
            if kind == "models" and not holds(placements[name], report.resources):
                continue  # no replica of it will ever be here
            yield Remark(
                where=report.name,
                what=f"{kind[:-1]} of {name}" if kind == "models" else "server",
                state=state,
                seen=seen,
                next_step=_ACCESS[kind] if state == "gap" else "",
            )


_ACCESS = {
    "models": "put the model on a file system that every node sees, or give the node access to the hub (HF_TOKEN)",
    "urls": "start the server, or open the way to it from this node",
}


def _gpus(report: NodeReport) -> Remark:
    gpus, known = report.row["gpus"], report.resources.get("GPU", 0.0)
    if isinstance(gpus, str):
        return Remark(where=report.name, what="GPUs", state="gap", seen=gpus, next_step="repair the node's driver")
    names = ", ".join(f"{count} x {gpu}" for gpu, count in Counter(gpus).items()) or "none"
    if len(gpus) != known:
        seen = f"{names}; Ray knows of {known:g}"
        return Remark(where=report.name, what="GPUs", state="note", seen=seen)
    return Remark(where=report.name, what="GPUs", state="ok", seen=names)


def _disk(report: NodeReport) -> Remark:
    free, cache = report.row["free_bytes"], report.row["cache"]
    if free is None:
        step = "make it writable, or name another folder in EVALKIT_CACHE there"
        return Remark(where=report.name, what="cache", state="gap", seen=f"{cache} cannot be written", next_step=step)
    seen = f"{cache}: {free / 2**30:.1f} GiB free"
    if free < FREE_BYTES_ADVISED:
        return Remark(where=report.name, what="cache", state="gap", seen=seen, next_step="free some disk space there")
    return Remark(where=report.name, what="cache", state="ok", seen=seen)


def _differences(reports: Sequence[NodeReport]) -> Iterator[Remark]:
    """Say in which versions nodes differ; a package that only some have is a note, for a head node needs no torch."""
    answered = [report for report in reports if report.row]
    for package in ("python", *PACKAGES):
        owners: dict[str, list[str]] = {}
        for report in answered:
            if package in report.versions:
                owners.setdefault(report.versions[package], []).append(report.name)
        if len(owners) > 1:
            seen = "; ".join(f"{version} on {', '.join(names)}" for version, names in sorted(owners.items()))
            yield Remark(
                where="cluster",
                what=package,
                state="gap",
                seen=f"nodes differ: {seen}",
                next_step="install the same version everywhere, or start equal nodes with a custom resource of their "
                "own and name it in execution.engines: replicas that are not one and the same engine are refused",
            )
        elif owners and sum(map(len, owners.values())) < len(answered):
            (names,) = owners.values()
            seen = f"only on {', '.join(names)}"
            yield Remark(where="cluster", what=package, state="note", seen=seen)


def _of_room(room: Room) -> Remark:
    if room.fit:
        state: Literal["ok", "note"] = "ok" if room.fit >= room.asked else "note"
        return Remark(where=room.engine, what="room", state=state, seen=room.seen)
    return Remark(
        where=room.engine,
        what="room",
        state="gap",
        seen=room.seen,
        next_step="add such a node, ask for less in execution.engines, or serve the model over several nodes and name "
        "the server's address in urls",
    )
