"""What is still to be answered, in pieces, and what becomes of pieces that do harm.

In: requests, replies, losses. Out: each request answered exactly once, whatever happens on the way.
Must not depend on: clocks, how replicas are started.

A piece that was in hand when two replicas were lost is divided into single requests: every further loss costs the
loading of a model, so the request that does the harm is found with as few losses as can be.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from enum import Enum

from evalkit.adapters.base import Failure, ScoreReply
from evalkit.cluster.transport import Call, Request, Shard, cut
from evalkit.records import EngineIdentity, canonical_json, parse_object

# A replica as the dispatcher sees it: what it is doing, what it has done, what became of it.


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
        """Requests per second since it became ready."""
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


LOSSES = 2
"""Replicas that a piece may cost before it is divided, and a single request before it is given up."""


class Work:
    """One call of an engine: requests on their way to replies.

    Attributes:
        call: "score" or "generate".
        requests: what is asked.
        queue: pieces that nobody has in hand.
        divided: pieces that were divided.
        given_up: requests that were given up.
    """

    def __init__(self, call: Call, requests: Sequence[Request], limit: int, workers: int) -> None:
        self.call: Call = call
        self.requests = requests
        self.queue = deque(Piece(members=shard) for shard in cut(requests, limit, workers))
        self.divided = self.given_up = 0
        self._doubted = False
        self._left = set(range(len(requests)))
        self._answers: deque[tuple[int, object]] = deque()

    @property
    def open(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self._left)

    def answers(self) -> Iterator[tuple[int, object]]:
        """Yield what was settled since the last call."""
        while self._answers:
            yield self._answers.popleft()

    def choose(self, replica: int, ready: Set[int]) -> Piece | None:
        """Take the next piece that a replica may have; another replica than before, where there is one."""
        for place, piece in enumerate(self.queue):
            if replica not in piece.avoid or not (piece.second or ready - piece.avoid):
                del self.queue[place]
                return piece
        return None

    def settle(self, piece: Piece, replies: Mapping[int, object], replica: int, *, others: bool) -> list[int]:
        """Take replies to a piece; what is not finite is asked once more, of another replica, where there is one.

        Args:
            piece: what was asked.
            replies: request to reply.
            replica: who gave them.
            others: whether another replica is ready.

        Returns:
            For each reply that was disproved, the replica that had given it.
        """
        disproved: list[int] = []
        doubtful: dict[int, tuple[object, int]] = {}
        for index, reply in replies.items():
            if index in piece.second:
                first, giver = piece.second[index]
                confirmed = isinstance(reply, Failure) or broken(reply)
                disproved += [] if confirmed else [giver]
                self._answer(index, first if confirmed else reply)
            elif others and broken(reply):
                doubtful[index] = (reply, replica)
            else:
                self._answer(index, reply)
        if doubtful:
            self._doubted = True
            members = tuple(sorted(doubtful))
            self.queue.appendleft(Piece(members=members, avoid={replica}, second=doubtful))
        return disproved

    def believe_alone(self, ready: Set[int]) -> None:
        """Settle what waits for a second opinion that nobody is left to give: the first one stands."""
        if not self._doubted:
            return
        for piece in [piece for piece in self.queue if piece.second and not ready - piece.avoid]:
            self.queue.remove(piece)
            for index, (first, _) in piece.second.items():
                self._answer(index, first)

    def put_back(self, pieces: Iterable[Piece]) -> None:
        """Take back pieces that a replica had in hand without working on them."""
        self.queue.extendleft(reversed(list(pieces)))

    def rest(self, piece: Piece, replies: Iterable[int]) -> Piece | None:
        """Return what of a piece is unanswered."""
        answered = set(replies)
        members = tuple(index for index in piece.members if index not in answered)
        second = {index: told for index, told in piece.second.items() if index not in answered}
        rest = Piece(members=members, lost=list(piece.lost), avoid=set(piece.avoid), second=second)
        return rest if members else None

    def blame(self, piece: Piece, cause: str, replica: int) -> None:
        """Note that a replica was lost while it worked on a piece, and decide what becomes of the piece."""
        piece.lost.append(cause)
        if not piece.second:
            piece.avoid = {replica}
        if len(piece.lost) < LOSSES:
            self.queue.appendleft(piece)
        elif len(piece.members) == 1:
            self._give_up(piece)
        else:
            self.divided += 1
            self.put_back(
                Piece(
                    members=(index,),
                    avoid=set(piece.avoid),
                    second={index: piece.second[index]} if index in piece.second else {},
                )
                for index in piece.members
            )

    def _give_up(self, piece: Piece) -> None:
        (index,) = piece.members
        if index in piece.second:
            self._answer(index, piece.second[index][0])
            return
        self.given_up += 1
        message = f"{len(piece.lost)} replicas were lost while this item alone was at work: {', '.join(piece.lost)}"
        self._answer(index, Failure(kind="engine", message=message))

    def _answer(self, index: int, reply: object) -> None:
        if index in self._left:
            self._left.remove(index)
            self._answers.append((index, reply))


def broken(reply: object) -> bool:
    """Whether a reply holds a number that is not finite, or says so."""
    if isinstance(reply, ScoreReply):
        return not all(map(math.isfinite, reply.logprobs))
    return isinstance(reply, Failure) and reply.kind == "non-finite"
