"""What all tests need of the process they run in."""

from __future__ import annotations

import importlib.util
import os
import signal
from types import ModuleType

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--other-processor",
        action="store_true",
        help="multiply matrices in torch as another processor would; a test that fails with it alone rests on a number "
        "that this processor taught (tests/other_processor.py)",
    )


def pytest_configure(config):
    """Hear Ctrl-C even in a job of the background, which begins with it ignored and hands that on to its children."""
    never_by_the_clock()
    share_the_processor()
    if config.getoption("--other-processor"):
        simulate(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def share_the_processor():
    """Give each of several test processes its part of the processor, and the programs that it starts as well.

    Two processes whose products of matrices each take every core wait for one another more than they compute.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


def never_by_the_clock():
    """Let Hypothesis judge no example by how long it took: on a machine that is busy that is chance."""
    if importlib.util.find_spec("hypothesis") is None:
        return
    from hypothesis import HealthCheck, settings  # noqa: PLC0415 - not every install has it

    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def simulate(config):
    """Compute on the simulated other processor until the session ends."""
    simulation = importlib.import_module("other_processor").other_processor()
    simulation.__enter__()
    config.add_cleanup(lambda: simulation.__exit__(None, None, None))


@pytest.fixture(scope="session")
def other_processor() -> ModuleType:
    pytest.importorskip("torch")
    return importlib.import_module("other_processor")
