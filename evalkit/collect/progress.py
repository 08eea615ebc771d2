"""How far a run has come, for people.

In: counts as they happen. Out: a bar on a terminal, one line a minute elsewhere, both on stderr.
May not know: what is counted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

_LINE_EVERY_S = 60.0


class Progress:
    """Progress of one task.

    A terminal shows a bar with speed, remaining time, what cost nothing and failures; a log file gets the same in one
    line a minute and a last one.
    Tasks of several engines at the same time are bars below one another, one row each.
    """

    def __init__(
        self,
        label: str,
        *,
        total: int,
        done: int,
        shown: bool,
        stream: TextIO | None = None,
        status: Callable[[], str] = lambda: "",
    ) -> None:
        """Begin to show progress.

        Args:
            label: what is being done.
            total: how much there is.
            done: how much of it was done before; it is shown as reused.
            shown: False keeps silent.
            stream: where to write; stderr by default.
            status: tells how the engine's parts are doing, in a few words.
        """
        self._label, self._total, self._before, self._done = label, total, done, done
        self._stream, self._status = stream or sys.stderr, status
        self._failed, self._reused = 0, done
        self._begun = self._said = time.monotonic()
        self._said_done = -1
        self._lines = shown and not self._stream.isatty()
        self._bar = (
            tqdm(
                total=total,
                initial=done,
                desc=label,
                unit=" items",
                file=self._stream,
                mininterval=0.5,
                leave=True,
                dynamic_ncols=True,
            )
            if shown and self._stream.isatty()
            else None
        )

        if self._bar is not None and done:
            self._bar.set_postfix_str(", ".join(self._more()))

    def add(self, count: int, failed: int, reused: int = 0) -> None:
        """Count `count` more as done, `failed` of them without a reply and `reused` of them without being asked."""
        self._done += count
        self._failed += failed
        self._reused += reused
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(self._more()), refresh=False)
            self._bar.update(count)
        elif self._lines and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._say()

    def close(self) -> None:
        """Say the last word."""
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self._said_done != self._done:
            self._say()

    def _say(self) -> None:
        self._said, self._said_done = time.monotonic(), self._done
        rate = (self._done - self._before) / max(self._said - self._begun, 1e-9)
        left = f", {(self._total - self._done) / rate / 60:.0f} min left" if rate and self._done < self._total else ""
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"
        more = "".join(f", {part}" for part in self._more())
        self._stream.write(f"{self._label}: {self._done}/{self._total} items, {speed}{left}{more}\n")
        self._stream.flush()

    def _more(self) -> list[str]:
        """Return what there is to say besides how far it has come."""
        counts = ((self._reused, "reused"), (self._failed, "failed"))
        return [*(f"{count} {what}" for count, what in counts if count), *filter(None, [self._status()])]


def say_above_bars(line: str, stream: TextIO) -> None:
    """Write a line so that bars on the same terminal are drawn again below it."""
    tqdm.write(line, file=stream)
