"""Results of requests."""

from __future__ import annotations

import queue
import threading
from dataclasses import field, make_dataclass
from typing import Any

from .. import faults
from ..eras import listed


def _field(default: Any) -> Any:
    return field(default_factory=list) if default == [] else field(default=default)


CompletionOutput = make_dataclass(
    "CompletionOutput",
    [(name, type_, _field(default)) for name, (type_, default) in listed("CompletionOutput").items()],
)


class RequestOutput:
    """A request under way; the result is filled in when it is asked for."""

    def __init__(self, request_id: int, prompt_token_ids: list[int], work: Any) -> None:
        self.request_id, self.prompt, self.prompt_token_ids = request_id, None, prompt_token_ids
        self.outputs: list[Any] = []
        self.context_logits: Any = None
        self.finished = False
        self._work = work

    def result(self, timeout: float | None = None) -> RequestOutput:
        if faults.silent_at is not None and self.request_id >= faults.silent_at:
            threading.Event().wait(None if faults.timeout_ignored else timeout)
            raise queue.Empty
        if not self.finished:
            self._work(self)
            self.finished = True
        return self
