"""One limit of speed for all replicas of all judges.

In: how many requests a minute may take, the time. Out: how long the next one has to wait.
May not know: what is asked. The clock is passed in.
"""

from __future__ import annotations

import threading

_SHARE_OF_A_MINUTE = 12


class RateLimit:
    """Requests spread evenly over time: in no minute more than the limit and one shard.

    Args:
        per_minute: requests a minute.
    """

    def __init__(self, per_minute: float) -> None:
        self.per_minute = per_minute
        self._free_at = float("-inf")
        self._lock = threading.Lock()

    @property
    def shard(self) -> int:
        """Requests of one shard, at most: what five seconds allow, so that a limit is no series of bursts."""
        return max(1, int(self.per_minute // _SHARE_OF_A_MINUTE))

    def wait_s(self, now: float) -> float:
        """Return how many seconds nothing may go."""
        with self._lock:
            return max(0.0, self._free_at - now)

    def take(self, requests: int, now: float) -> bool:
        """Count requests that go now; False, and nothing is counted, if they may not."""
        with self._lock:
            if now < self._free_at:
                return False
            self._free_at = max(now, self._free_at) + requests * 60.0 / self.per_minute
            return True
