"""A cluster that is only a calendar: replicas answer, crash and hang as a test says, and nobody waits for anything."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from evalkit.adapters.base import ScoreReply, ScoreRequest
from evalkit.cluster.crew import Crew
from evalkit.cluster.fleet import Fleet
from evalkit.cluster.transport import Answered, Loaded, Lost, NotLoaded, Placed, Terms, Trouble
from evalkit.records import EngineIdentity, text_digest


def identity(**changes: Any) -> EngineIdentity:
    values = {
        "adapter": "scripted", "model": "m", "weights_sha256": "w", "recipe": "none", "recipe_sha256": None,
        "fidelity": "simulated", "quantization": {"algorithm": "none"}, "dtype": "float64", "tokenizer_sha256": "t",
        "chat_template_sha256": None, "versions": {"evalkit": "0"}, "device": "none", "options": {"length": 8},
    }  # fmt: skip
    return EngineIdentity(**{**values, **changes})


def request(number: int) -> ScoreRequest:
    return ScoreRequest(context=f"{number}", continuations=(" a", " b"))


def right(asked: ScoreRequest) -> ScoreReply:
    value = -1 - int(text_digest(asked.context)[:4], 16) / 65536
    return ScoreReply(logprobs=(value, value - 1), greedy=(True, False), tokens=(1, 1))


@dataclass(frozen=True)
class Fault:
    """What happens in place of replies: "crash", "node", "out-of-memory", "hang", or `Trouble` that is raised."""

    cause: str
    after: int = 0
    trouble: Trouble | None = None


@dataclass(eq=False)
class Life:
    replica: int
    start: int
    alive: bool = True
    free_at: float = 0.0


class CalendarTransport:
    """A transport without a cluster.

    Args:
        answer: (replica, start, requests) to replies, or to a `Fault`; by default the right replies.
        load: (replica, start) to an identity, or to `Trouble`, or None for never.
        load_s, item_s: how long things take.
    """

    def __init__(self, answer=None, load=None, *, load_s: float = 10.0, item_s: float = 0.5) -> None:
        self.answer = answer or (lambda replica, start, requests: [right(one) for one in requests])
        self.load = load or (lambda replica, start: identity())
        self.load_s, self.item_s = load_s, item_s
        self.time = 0.0
        self.closed = False
        self.sent: list[tuple[int, int, tuple[str, ...]]] = []
        self.starts: dict[int, int] = {}
        self.most_in_flight = 0
        self._lives: dict[int, Life] = {}
        self._in_flight: dict[int, int] = {}
        self._calendar: list[Any] = []
        self._order = itertools.count()

    def start(self, replica):
        self.starts[replica] = self.starts.get(replica, 0) + 1
        life = self._lives[replica] = Life(replica, self.starts[replica])
        self._in_flight[replica] = 0
        self._at(self.time, life, Placed(replica=replica, node=f"node {replica}"))
        loaded = self.load(replica, life.start)
        if isinstance(loaded, Trouble):
            self._at(self.time + self.load_s, life, NotLoaded(replica=replica, trouble=loaded))
        elif loaded is not None:
            self._at(self.time + self.load_s, life, Loaded(replica=replica, identity=loaded))

    def send(self, replica, ticket, call, requests):
        life = self._lives[replica]
        assert life.alive
        self.sent.append((replica, life.start, tuple(one.context for one in requests)))
        self._in_flight[replica] += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight[replica])
        begin = max(self.time, life.free_at)
        said = self.answer(replica, life.start, requests)
        if not isinstance(said, Fault):
            life.free_at = begin + self.item_s * len(requests)
            self._at(life.free_at, life, Answered(replica=replica, ticket=ticket, replies=list(enumerate(said))))
            return
        life.free_at = begin + self.item_s * said.after
        if said.trouble is not None:
            some = [(place, right(one)) for place, one in enumerate(requests[: said.after])]
            news = Answered(replica=replica, ticket=ticket, replies=some, trouble=said.trouble)
            self._at(life.free_at, life, news)
        elif said.cause == "hang":
            life.free_at = float("inf")
        else:
            self._at(life.free_at, life, Lost(replica=replica, cause=said.cause, message="it is gone"))

    def stop(self, replica):
        self._lives[replica].alive = False
        self._in_flight[replica] = 0

    def wait(self, timeout_s):
        limit = self.time + timeout_s
        found = []
        while self._calendar and self._calendar[0][0] <= limit:
            when, _, life, news = self._calendar[0]
            if not life.alive:
                heapq.heappop(self._calendar)
                continue
            if found and when > self.time:
                break
            heapq.heappop(self._calendar)
            self.time = max(self.time, when)
            found.append(news)
            if isinstance(news, Lost):
                life.alive = False
            elif isinstance(news, Answered):
                self._in_flight[life.replica] -= 1
        if not found:
            self.time = limit
        return found

    def now(self):
        return self.time

    def close(self):
        self.closed = True

    def _at(self, when, life, news):
        if when != float("inf"):
            heapq.heappush(self._calendar, (when, next(self._order), life, news))


def make_kit():
    """Everything a test of the dispatcher needs."""

    def fleet(transport, *, limit=None, say=lambda _line: None, stopped=lambda: False, **terms):
        crew = Crew(transport, Terms(**{"name": "e", "replicas": 2, **terms}), say, stopped)
        crew.open()
        return Fleet(crew, limit)

    return SimpleNamespace(
        transport=CalendarTransport, fault=Fault, fleet=fleet, request=request, right=right, identity=identity
    )


@pytest.fixture(scope="session")
def kit():
    return make_kit()
