"""What all tests need of the process they run in."""

from __future__ import annotations

import signal


def pytest_configure():
    """Hear Ctrl-C even in a job of the background, which begins with it ignored and hands that on to its children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
