"""How far a run has come, for people.

In: counts as they happen. Out: a bar on a terminal, one line a minute elsewhere, both on stderr.
May not know: what is counted.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

_LINE_EVERY_S = 60.0


class Progress:
    """Progress of one task.

    A terminal shows a bar with speed, remaining time and failures; a log file gets one line a minute and a last one.
    """

    def __init__(self, label: str, *, total: int, done: int, shown: bool, stream: TextIO | None = None) -> None:
        """Begin to show progress.

        Args:
            label: what is being done.
            total: how much there is.
            done: how much of it was done before.
            shown: False keeps silent.
            stream: where to write; stderr by default.
        """
        self._label, self._total, self._before, self._done = label, total, done, done
        self._stream = stream or sys.stderr
        self._failed = 0
        self._begun = self._said = time.monotonic()
        self._said_done = -1
        self._lines = shown and not self._stream.isatty()
        self._bar = (
            tqdm(total=total, initial=done, desc=label, unit=" items", file=self._stream, mininterval=0.5, leave=True)
            if shown and self._stream.isatty()
            else None
        )

    def add(self, count: int, failed: int) -> None:
        """Count `count` more as done, `failed` of them without a reply."""
        self._done += count
        self._failed += failed
        if self._bar is not None:
            if failed:
                self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
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
        failed = f", {self._failed} failed" if self._failed else ""
        speed = f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min"
        self._stream.write(f"{self._label}: {self._done}/{self._total} items, {speed}{left}{failed}\n")
        self._stream.flush()
