"""Several requests at a time, in an order that helps the server, and replies held back until it was seen unchanged.

In: jobs in order, a worker, a check. Out: (index, result), each once.
May not know: HTTP, scores.

A reply is passed on only after a check that began after it arrived. So no reply of another model, loaded behind the
same address in the middle of a run, is ever taken for one of this engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TypeVar

Q = TypeVar("Q")
R = TypeVar("R")

CHECK_S = 20.0
"""Seconds a finished reply waits for a check, at most, while others are under way."""


def run_pool(
    jobs: Sequence[tuple[int, Q]],
    work: Callable[[Q], R],
    *,
    workers: int,
    check: Callable[[], None],
    check_every: int,
    stop: Callable[[], None],
) -> Iterator[tuple[int, R]]:
    """Yield (index, result) of each job.

    Args:
        jobs: index and question, in the order they are begun.
        work: answers one question, in a thread.
        workers: questions under way at once.
        check: raises if the replies since the last check may not be used.
        check_every: finished jobs between two checks.
        stop: called when the caller wants no more, so that waiting threads give up.

    Raises:
        Whatever `work` or `check` raises; results that no check has covered are dropped.
    """
    if not jobs:
        return
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="evalkit-server")
    running: dict[Future[R], int] = {}
    held: list[tuple[int, R]] = []
    waiting, checked_at = iter(jobs), time.monotonic()
    try:
        _fill(pool, running, waiting, work, 2 * workers)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            held += [(running.pop(future), future.result()) for future in done]
            _fill(pool, running, waiting, work, 2 * workers)
            if len(held) >= check_every or not running or time.monotonic() - checked_at >= CHECK_S:
                check()
                checked_at = time.monotonic()
                ready, held = held, []
                yield from ready
    finally:
        if running:
            stop()
        pool.shutdown(wait=False, cancel_futures=True)


def _fill(
    pool: ThreadPoolExecutor,
    running: dict[Future[R], int],
    waiting: Iterator[tuple[int, Q]],
    work: Callable[[Q], R],
    most: int,
) -> None:
    while len(running) < most:
        job = next(waiting, None)
        if job is None:
            return
        running[pool.submit(work, job[1])] = job[0]
