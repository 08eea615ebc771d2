"""The engine that a probed session makes.

In: a session, how it is asked, its identity. Out: an `Engine` (`evalkit.adapters.base`).
May not know: recipes, tasks.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence

from evalkit.adapters.base import Failure, GenerateRequest, Generation, ScoreReply, ScoreRequest
from evalkit.adapters.trtllm.generating import Generator
from evalkit.adapters.trtllm.loading import Session
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.adapters.trtllm.probe import Methods
from evalkit.adapters.trtllm.scoring import Scorer
from evalkit.adapters.trtllm.tokenizer import LocalTokenizer
from evalkit.errors import EngineError
from evalkit.records import EngineIdentity


class TensorRTEngine:
    """A model in TensorRT-LLM that scores and generates.

    Args:
        session: the loaded model.
        identity: what it is.
        options: how it is asked.
        methods: what the probe has proved.
        local: the tokenizer.
        warnings: what was not proved about the model.
    """

    def __init__(
        self,
        session: Session,
        identity: EngineIdentity,
        options: TensorRTOptions,
        methods: Methods,
        local: LocalTokenizer,
        warnings: Sequence[str] = (),
    ) -> None:
        self.identity, self._warnings = identity, tuple(warnings)
        self._methods = methods
        self._session: Session | None = session
        self._scorer = Scorer(session, options, methods, local.tokenizer)
        self._counts = self._scorer.counts
        self._generator = Generator(session, options, local.tokenizer, local.ends)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the results may not rest on, and what has been counted so far."""
        counted = (f"{what}: {count}" for what, count in sorted(self._counts.items()))
        return (*self._warnings, *self._methods.warnings, *counted)

    @property
    def findings(self) -> dict[str, str]:
        """What the probe looked at, and what it saw."""
        return dict(self._methods.seen)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[tuple[int, ScoreReply | Failure]]:
        """Yield (index, reply or failure), requests with equal beginnings as neighbours.

        Raises:
            EngineError: a continuation cannot be scored by any method that was proved, or the library broke.
        """
        self._open()
        yield from self._scorer.score(requests)

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[tuple[int, Generation | Failure]]:
        """Yield (index, answer or failure), requests with equal beginnings as neighbours.

        Raises:
            UsageError: chat messages were given and there is no chat template.
            EngineError: the library broke.
        """
        self._open()
        yield from self._generator.generate(requests)

    def close(self) -> None:
        """Let the model go; calling it twice is harmless. The GPUs are free when its last engine is closed."""
        if self._session is None:
            return
        self._session = None
        del self._scorer, self._generator
        gc.collect()

    def _open(self) -> Session:
        if self._session is None:
            raise EngineError("the engine was closed; load it again")
        return self._session
