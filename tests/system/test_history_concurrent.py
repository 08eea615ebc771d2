"""Several machines write to one database at once, from the first table on: nothing is lost, nothing counted twice."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.history import open_history, read_nights

pytestmark = [pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
WRITERS, NIGHTS = 4, 12

WRITER = f"""
import sys
from evalkit.history import ComparisonEntry, IdentityEntry, NightEntry, RunEntry, open_history, write_night

url, writer = sys.argv[1], int(sys.argv[2])
names = ("adapter", "model", "recipe", "fidelity", "device")

def identity(name):
    return IdentityEntry(sha256=(name * 64)[:64], document={{**dict.fromkeys(names, name), "recipe_sha256": None}})

def entry(label, recipe, candidate, baseline):
    comparison = ComparisonEntry(
        endpoint="mmlu", task="mmlu", metric="acc", scope="watch", unit="proportion", baseline=baseline, n=10,
        counts=[10, 0, 0, 0], baseline_value=1.0, candidate_value=1.0, difference=0.0, lower=None, upper=None,
        level=None, method=None,
    )
    run = RunEntry(
        suite="s", site="default", name=recipe, night=label, identity=candidate, evalkit="1", policy_sha256=None,
        records_sha256={{}}, at=label,
    )
    return NightEntry(
        suite="s", site="default", night=label, recipe=recipe, endpoint="mmlu", run=run, outcome="OK", state="OK",
        confirm=None, full=None, reasons=[], asked=10, used=10, log_e=3.0, log_e_loss=0.0, seed=3, order_sha256=label,
        comparisons=[comparison], verdict=None, started_at=label, finished_at=label, environment={{}}, subjects=[],
    )

print("ready", flush=True)
sys.stdin.readline()
with open_history(url) as history:
    written = []
    for at in range({NIGHTS}):
        # Every writer brings a night of its own, and one that all the others bring too; half of them name the engines
        # the other way round.
        left, right = (identity("a"), identity("b")) if writer % 2 else (identity("b"), identity("a"))
        written.append(write_night(history, entry(f"n{{at:02d}}", f"own-{{writer}}", left, right)).value)
        written.append(write_night(history, entry(f"n{{at:02d}}", "shared", identity("a"), identity("b"))).value)
    print(written.count("new"), written.count("known"), flush=True)
"""


def load(name: str):
    return importlib.import_module(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'history.sqlite'}"
        return
    tools = load("postgres_server")
    programs = tools.binaries()
    if programs is None:
        pytest.skip("there is no PostgreSQL on this machine")
    server = tools.Server(programs)
    server.start()
    yield server.url
    server.stop()


def test_concurrent_writers_lose_nothing_and_count_nothing_twice(url):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(at)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for at in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all at once, into a database without a table
        writer.stdin.write("go\n")
        writer.stdin.flush()
    found = [writer.communicate(timeout=600) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * WRITERS, [error for _, error in found]
    new, known = (sum(int(out.split()[at]) for out, _ in found) for at in (0, 1))
    assert (new, known) == ((WRITERS + 1) * NIGHTS, (WRITERS - 1) * NIGHTS)
    with open_history(url) as history:
        rows = read_nights(history)
    keys = [(row.night, row.recipe) for row in rows]
    assert len(keys) == len(set(keys)) == (WRITERS + 1) * NIGHTS
    assert all(row.watched is not None for row in rows)
