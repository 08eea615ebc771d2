"""Several jobs at the same time, each in a thread; one that fails or a person who stops ends them all in good order.

In: jobs, and what makes those that wait stop. Out: all of them done, or the first error.
May not know: engines, run folders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from evalkit.errors import InterruptedRunError

_LOOK_S = 0.2


def run_together(
    jobs: Mapping[str, Callable[[], object]],
    stop: Callable[[], None],
    *,
    say: Callable[[str], None] = lambda _line: None,
    command: str = "",
) -> None:
    """Run all jobs at the same time.

    Args:
        jobs: name to job.
        stop: makes every job that waits for something raise `InterruptedRunError`, after it wrote what is finished.
        say: takes a line about each further job that failed.
        command: the command that goes on where these were stopped, for the error.

    Raises:
        InterruptedRunError: stopped on request (Ctrl-C); all jobs have ended.
        BaseException: the first error of a job; all jobs have ended.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(jobs)), thread_name_prefix="evalkit-engine") as pool:
        running: dict[Future[object], str] = {}
        try:
            for name, job in jobs.items():
                running[pool.submit(job)] = name
            _wait(running, lambda: _first_error(running) is not None)
            first = _first_error(running)
            if first is not None:
                stop()
            _wait(running)
        except KeyboardInterrupt:
            stop()
            _wait(running)
            raise InterruptedRunError(
                f"stopped on request: what was finished of {', '.join(jobs)} is on the disk; "
                f"next step: the same command resumes{f': {command}' if command else ''}"
            ) from None
    if first is None:
        first = _first_error(running)
    if first is None:
        return
    for future, name in running.items():
        error = future.exception()
        if error is not None and error is not first and not isinstance(error, InterruptedRunError):
            say(f"{name}: {error}")
    raise first


def _wait(running: Mapping[Future[object], str], enough: Callable[[], bool] = lambda: False) -> None:
    """Wait for all jobs, or until it is enough; Ctrl-C is heard between two looks, in whichever thread it arrived."""
    while not all(future.done() for future in running) and not enough():
        wait([future for future in running if not future.done()], timeout=_LOOK_S, return_when=FIRST_COMPLETED)


def _first_error(running: Mapping[Future[object], str]) -> BaseException | None:
    """Return an error that is no mere consequence of another one, if there is one."""
    errors = [error for future in running if future.done() and (error := future.exception()) is not None]
    return next((error for error in errors if not isinstance(error, InterruptedRunError)), next(iter(errors), None))
