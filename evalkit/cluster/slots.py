"""A replica as the dispatcher sees it: what it is doing, what it has done, what became of it.

In: what happens to a replica. Out: its state in words and numbers.
May not know: what is asked, which shard is next.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum

from evalkit.cluster.sharding import Shard
from evalkit.records import EngineIdentity, canonical_json, parse_object

IN_FLIGHT = 2
"""Shards handed to a replica at once: one at work, one that waits, so that it never idles."""


class State(Enum):
    """What a replica is doing."""

    PENDING = "pending"  # until a node has room
    LOADING = "loading"
    READY = "ready"
    GONE = "gone"  # for good


@dataclass(kw_only=True, eq=False, slots=True)
class Piece:
    """A shard on its way to an answer.

    Attributes:
        members: positions of its requests.
        lost: causes for which replicas were lost with this piece in hand, since it was cut.
        avoid: replicas that had it before.
        second: for a second opinion: request to (the first reply, who gave it).
    """

    members: Shard
    lost: list[str] = field(default_factory=list)
    avoid: set[int] = field(default_factory=set)
    second: Mapping[int, tuple[object, int]] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False, slots=True)
class Flight:
    """A piece in the hands of a replica.

    Attributes:
        ticket: number of this flight.
        piece: what is asked.
        work: what it is part of; None once nobody wants the answer any more.
        began_at: when the replica came to it, seconds; None while it waits behind another.
    """

    ticket: int
    piece: Piece
    work: object = None
    began_at: float | None = None


@dataclass(kw_only=True, eq=False, slots=True)
class Slot:
    """One replica, through all its starts.

    Attributes:
        number: from 0.
        state: what it is doing.
        node: where it is, or was last.
        flights: what it has in hand, in order.
        answered: requests it has answered.
        ready_at: when it became ready; None before.
        disproved: replies with a non-finite number for which another replica gave a finite one.
        lost: cause to how often it was lost.
        failed_loads: loads in a row that failed.
        ends: how often it was ended, by whatever.
        why: why it is gone.
        warnings: what its engine says its results may not rest on.
    """

    number: int
    state: State = State.PENDING
    node: str = "no node yet"
    flights: deque[Flight] = field(default_factory=deque)
    answered: int = 0
    ready_at: float | None = None
    disproved: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    failed_loads: int = 0
    ends: int = 0
    why: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether it may be given work."""
        return self.state is State.READY

    @property
    def place(self) -> str:
        """The replica and its node, in words."""
        return f"replica {self.number} on {self.node}"

    def rate(self, now: float) -> float:
        """Requests a second since it became ready."""
        return self.answered / max(now - self.ready_at, 1e-9) if self.ready_at is not None else 0.0

    def take(self, flight: Flight, now: float) -> None:
        """Note a piece that was handed over."""
        if not self.flights:
            flight.began_at = now
        self.flights.append(flight)

    def land(self, ticket: int, now: float) -> Flight | None:
        """Note that a flight is over and return it; None if there is no such flight."""
        found = next((flight for flight in self.flights if flight.ticket == ticket), None)
        if found is not None:
            self.flights.remove(found)
            if self.flights and self.flights[0].began_at is None:
                self.flights[0].began_at = now
        return found


def differences(first: EngineIdentity, other: EngineIdentity) -> list[str]:
    """Return every field in which two identities differ, with both values.

    Lists and tuples are the same thing here, as on the disk.
    """
    left, right = dict(_leaves("", _plain(first))), dict(_leaves("", _plain(other)))
    return [
        f"{name}: {left.get(name, 'absent')!r} and {right.get(name, 'absent')!r}"
        for name in sorted(left.keys() | right.keys())
        if left.get(name, "absent") != right.get(name, "absent")
    ]


def _plain(identity: EngineIdentity) -> dict[str, object]:
    return dict(parse_object(canonical_json(asdict(identity)), "identity"))


def _leaves(name: str, value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [leaf for key, inner in value.items() for leaf in _leaves(f"{name}.{key}".lstrip("."), inner)]
    return [(name, value)]
