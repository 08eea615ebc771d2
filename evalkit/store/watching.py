"""Who hears of a write: folders that are sent elsewhere while they are written.

In: the paths that the store has just written. Out: a call to whoever watches a folder above them.
May not know: where anything is sent.

One process has one set of watchers. A run in a local folder has none, and pays one look into an empty tuple.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class Watcher(Protocol):
    """What hears of writes below a folder. A call that raises stops whoever writes; the write itself is done."""

    root: Path

    def grown(self, path: Path, size: int) -> None:
        """Hear that lines were appended to a file and flushed; it has `size` bytes now."""

    def replaced(self, path: Path) -> None:
        """Hear that a file is there anew, or was cut."""


_watchers: tuple[Watcher, ...] = ()


def watch(watcher: Watcher) -> None:
    """Let somebody hear of every write below its `root`."""
    global _watchers  # noqa: PLW0603 (the store writes by path alone, so who watches a path is known to the process)
    _watchers = (*_watchers, watcher)


def unwatch(watcher: Watcher) -> None:
    """Forget a watcher; one that is not there is no fault."""
    global _watchers  # noqa: PLW0603
    _watchers = tuple(one for one in _watchers if one is not watcher)


def grown(path: Path, size: int) -> None:
    """Tell that lines were appended to a file and flushed; it has `size` bytes now."""
    for watcher in _watchers:
        if path.absolute().is_relative_to(watcher.root):
            watcher.grown(path.absolute(), size)


def replaced(path: Path) -> None:
    """Tell that a file is there anew, or was cut."""
    for watcher in _watchers:
        if path.absolute().is_relative_to(watcher.root):
            watcher.replaced(path.absolute())
