"""Results of requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class CompletionOutput:
    index: int = 0
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[Any] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: Any = None
    generation_logits: Any = None


class RequestOutput:
    """A request under way; the result is filled in when it is asked for."""

    def __init__(self, request_id: int, prompt_token_ids: list[int], work: Any) -> None:
        self.request_id, self.prompt, self.prompt_token_ids = request_id, None, prompt_token_ids
        self.outputs: list[CompletionOutput] = []
        self.context_logits: Any = None
        self.finished = False
        self._work = work

    def result(self, timeout: float | None = None) -> RequestOutput:
        if not self.finished:
            self._work(self)
            self.finished = True
        return self
