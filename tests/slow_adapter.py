"""An adapter for tests of clusters: the scripted engine, slowed down, and with one fault in some of its replicas.

It is installed as another distribution's adapter would be, through an entry point in a folder on the path. Its identity
is that of the scripted engine, so that its runs can be compared byte for byte with runs on one machine.

Options besides those of `scripted`: `delay_s`, and `trouble`: number of a replica to "hangs", "gives-nan" or
"dies-at-every-tenth".
"""

from __future__ import annotations

import math
import os
import re
import signal
import time

from evalkit.adapters import scripted
from evalkit.adapters.base import ScoreReply

SUMMARY = "the scripted engine, slow, for tests"

DISTRIBUTION = {
    "METADATA": "Metadata-Version: 2.1\nName: slow-engines\nVersion: 1.0\n",
    "entry_points.txt": "[evalkit.adapters]\nslow = slow_adapter\n",
}


def load(spec, resources):
    options = dict(spec.options)
    delay_s, trouble = options.pop("delay_s", 0.0), options.pop("trouble", {})
    engine = scripted.load(spec.model_copy(update={"options": options}), resources)
    return SlowEngine(engine, delay_s, trouble.get(replica_number()))


def replica_number() -> str | None:
    """Return which replica this process is; None outside a cluster."""
    try:
        import ray  # noqa: PLC0415

        name = ray.get_runtime_context().get_actor_name() or ""
    except Exception:
        return None
    found = re.search(r"replica (\d+)", name)
    return found[1] if found else None


class SlowEngine:
    def __init__(self, engine, delay_s, trouble):
        self.identity = engine.identity
        self._engine, self._delay_s, self._trouble, self._count = engine, delay_s, trouble, 0

    def score(self, requests):
        return self._slowly(self._engine.score(requests))

    def generate(self, requests):
        return self._slowly(self._engine.generate(requests))

    def close(self):
        self._engine.close()

    def _slowly(self, replies):
        for index, reply in replies:
            self._count += 1
            time.sleep(self._delay_s)
            if self._trouble == "hangs" and self._count > 5:
                time.sleep(10_000)
            if self._trouble == "dies-at-every-tenth" and self._count % 10 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            yield index, broken(reply) if self._trouble == "gives-nan" else reply


def broken(reply):
    if not isinstance(reply, ScoreReply):
        return reply
    return ScoreReply(logprobs=(math.nan,) * len(reply.logprobs), greedy=reply.greedy, tokens=reply.tokens)
