"""How much an engine may ask of a server.

In: limits. Out: an error once they are reached.
May not know: what is asked.
"""

from __future__ import annotations

import threading

from evalkit.errors import EngineError


class Budget:
    """Counts requests and tokens of all threads.

    Args:
        requests: requests that may be sent; None for no limit.
        tokens: tokens the server may count; None for no limit.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._limits = (requests, tokens)
        self._lock = threading.Lock()
        self.requests = 0
        self.tokens = 0

    def take_request(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            EngineError: the budget is spent.
        """
        with self._lock:
            for name, spent, limit in zip(
                ("max_requests", "max_total_tokens"), (self.requests, self.tokens), self._limits, strict=True
            ):
                if limit is not None and spent >= limit:
                    raise EngineError(
                        f"the budget is spent: {spent} of {name} {limit}; finished records are kept; "
                        f"next step: raise {name} and repeat the same command, which resumes"
                    )
            self.requests += 1

    def add_tokens(self, count: int) -> None:
        """Count tokens that a server says it has processed."""
        with self._lock:
            self.tokens += count
