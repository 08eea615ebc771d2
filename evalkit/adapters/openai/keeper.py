"""Keeps one server: runs its command, and ends it and all its children when evalkit ends, however that happens.

In: the command as arguments; stdin, which stays open for as long as evalkit lives. Out: the server's own exit code.
Must not depend on: evalkit; it is run as a program, with the standard library alone.

A killed parent cannot end its children. So the keeper leads a session of its own, waits for the end of stdin, then asks
everything in the session to end, and ends it by force after a while, itself last.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

PATIENCE_S = 10.0
"""Seconds from the request to end to its end by force: vLLM's workers take some."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the command, and end it with stdin."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to the whole group, this process included
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_follow)  # noqa: PLW1509, S603
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)
    threading.Thread(target=_watch, daemon=True).start()
    code = server.wait()
    _end_all(only_children=True)
    os._exit(code if code >= 0 else 128 - code)


def _follow() -> None:
    """In the server before it begins: default signals, and its end with the keeper's, where the system knows that."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (AttributeError, OSError):
        return  # not Linux: the end of stdin has to do


def _watch() -> None:
    while os.read(0, 4096):
        continue
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE_S)
    _end_all()


def _end_all(*, only_children: bool = False) -> None:
    """Kill what is left of the session, groups that its members made for themselves too."""
    own = os.getpid()
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208
        if entry.isdigit() and int(entry) != own:
            try:
                if os.getsid(int(entry)) == own:
                    os.kill(int(entry), signal.SIGKILL)
            except OSError:
                continue
    if not only_children:
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
