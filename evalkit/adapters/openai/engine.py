"""The engine that a probed server makes.

In: a server, what it can do, its identity. Out: an `Engine` (`evalkit.adapters.base`).
May not know: recipes, tasks, which kind of server it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evalkit.adapters.base import Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest, Waste
from evalkit.adapters.openai.asking import Asker
from evalkit.adapters.openai.capabilities import Capabilities
from evalkit.adapters.openai.generating import Generator
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.pool import run_pool
from evalkit.adapters.openai.scoring import Scorer
from evalkit.adapters.openai.tokenizing import Tokenizer
from evalkit.errors import EngineError
from evalkit.records import EngineIdentity

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Served:
    """Everything that is needed to ask.

    Attributes:
        asker: the server and its model.
        can: what the probe has seen.
        tokenizer: the server's or one on this machine; None without.
        max_length: tokens a request may need; None where nobody says.
        check: raises if the server no longer runs the model it was probed with.
        owner: whatever must live as long as the server does (a process of ours).
    """

    asker: Asker
    can: Capabilities
    tokenizer: Tokenizer | None
    max_length: int | None
    check: Callable[[], None]
    owner: object = None


class ServerEngine:
    """A model behind an address that scores and generates.

    Args:
        served: the server.
        identity: what it is.
        options: how many requests at once, how often to check.
        warnings: what the results may not rest on.
    """

    def __init__(
        self, served: Served, identity: EngineIdentity, options: ServerOptions, warnings: Sequence[str] = ()
    ) -> None:
        self.identity = identity
        self._served: Served | None = served
        self._options, self._warnings = options, tuple(warnings)
        self._scorer = Scorer(served.asker, served.can, served.tokenizer, served.max_length)
        self._counts = self._scorer.counts
        self._generator = Generator(served.asker, served.can, served.tokenizer, served.max_length)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the results may not rest on, and what has been counted so far."""
        counts = (f"{what}: {count}" for what, count in sorted(self._counts.items()))
        return (*self._warnings, *counts)

    @property
    def on_waste(self) -> Waste | None:
        """Who is told what replies used that could not be read."""
        return self._live().asker.transport.on_waste

    @on_waste.setter
    def on_waste(self, waste: Waste | None) -> None:
        self._live().asker.transport.on_waste = waste

    @property
    def findings(self) -> dict[str, str]:
        """What the probe looked at, and what it saw."""
        return dict(self._live().can.seen)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Yield (index, reply or failure), neighbours in the server's order first.

        Raises:
            EngineError: items cannot be scored on this server, or it changed its model, or refuses the key.
        """
        served = self._live()
        if requests and served.can.scoring == "none":
            raise EngineError(
                f"{served.asker.transport}: {served.can.refusal}; next step: serve the model with log-probabilities "
                "(vLLM, SGLang, llama.cpp, trtllm-serve with the PyTorch backend), or choose tasks that generate"
            )
        # Equal beginnings become neighbours, so that a server's prefix cache is hit.
        jobs = sorted(enumerate(requests), key=lambda job: (job[1].context, job[0]))
        yield from self._run(served, jobs, self._scorer.score)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | Failure]]:
        """Yield (index, answer or failure), neighbours in the server's order first.

        Raises:
            EngineError: the server changed its model, or refuses the key.
            UsageError: the server lacks the endpoint that a prompt needs.
        """
        jobs = sorted(enumerate(requests), key=lambda job: (_beginning(job[1]), job[0]))
        yield from self._run(self._live(), jobs, self._generator.generate)

    def close(self) -> None:
        """Let the server go; calling it twice is harmless. A process of ours ends with its last engine."""
        if self._served is not None:
            self._served = None
            del self._scorer, self._generator

    def _run(self, served: Served, jobs: list[tuple[int, Q]], work: Callable[[Q], R]) -> Iterator[tuple[int, R]]:
        served.asker.transport.resume()
        return run_pool(
            jobs,
            work,
            workers=self._options.concurrency,
            check=served.check,
            check_every=self._options.check_every,
            stop=served.asker.transport.stop,
        )

    def _live(self) -> Served:
        if self._served is None:
            raise EngineError("the engine was closed; load it again")
        return self._served


def _beginning(request: GenerateRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "\0".join(message.content for message in request.prompt)
