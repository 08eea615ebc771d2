"""A month of nights through the real program: changes, an outage, kill -9, in SQLite and in PostgreSQL.

Real: the command line, lm-eval's task code, the scripted adapter behind an adapter of another distribution, run
folders, a PostgreSQL server. The "server" of the adapter says its version and may be out; no suite asks for either.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evalkit.cli import main
from evalkit.history import open_history, read_nights
from evalkit.nightly.result import read_result

pytestmark = [pytest.mark.system]

ROOT = Path(__file__).resolve().parents[2]
NIGHTS = [f"2026-03-{day:02d}" for day in range(1, 31)]

BACKEND = '''
"""An adapter of another distribution: a scripted engine behind a server with a version."""
import json, os, time
from dataclasses import replace
from pathlib import Path
from evalkit.adapters import scripted
from evalkit.adapters.base import Failure
from evalkit.errors import EngineError

SUMMARY = "a scripted engine behind a server"

class Behind:
    def __init__(self, engine, state):
        self.engine, self.state = engine, state
        self.identity = replace(
            engine.identity, adapter="month", versions={**engine.identity.versions, "backend": state["version"]}
        )
    def score(self, requests):
        for index, reply in self.engine.score(requests):
            time.sleep(self.state.get("delay_s", 0.0))
            every = self.state.get("lost_every")
            if self.state.get("out") or (every and index % every == 7):
                reply = Failure(kind="transport", message="connection refused")
            yield index, reply
    def generate(self, requests):
        return self.engine.generate(requests)
    def close(self):
        self.engine.close()

def load(spec, resources):
    state = json.loads(Path(os.environ["MONTH_SERVER"]).read_text())
    if state.get("gone"):
        raise EngineError("the server cannot be reached: connection refused")
    return Behind(scripted.load(spec, resources), state)
'''


def load(name: str):
    return importlib.import_module(name)


class Month:
    """A world with four builds of one candidate, and the files that a night changes."""

    def __init__(self, root: Path) -> None:
        self.tools = load("nightly_world")
        self.world = self.tools.World(root / "world", 1200)
        self.root = root
        self.plugin = root / "plugin"
        info = self.plugin / "month_backend-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: month-backend\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[evalkit.adapters]\nmonth = month_backend\n")
        (self.plugin / "month_backend.py").write_text(BACKEND)
        world = self.world
        self.builds = {
            "fp8": ("modelopt-fp8-kv", 2, world.key("fp8", world.flipped(losses=6, gains=6, seed=3))),
            "awq": ("int4-awq", 3, world.key("awq", world.flipped(losses=22, gains=20, seed=4))),
            "broken": ("int4-awq", 4, world.key("broken", world.flipped(losses=84, gains=6, seed=5))),
        }
        world.policy(overrides=["versions"])
        self.server(version="1.0")

    def ready(self, patch) -> None:
        """Let this process find the adapter and its server, and load each task once."""
        patch.syspath_prepend(str(self.plugin))
        patch.setenv("MONTH_SERVER", str(self.root / "server.json"))
        self.tools.remembered(patch)

    def server(self, **state) -> None:
        (self.root / "server.json").write_text(json.dumps(state))

    def suite(self, build: str) -> Path:
        recipe, seed, key = self.builds[build]
        return self.world.suite({"candidate": {"recipe": recipe, "seed": seed, "key": str(key)}}, adapter="month")

    def nights(self) -> Path:
        return self.world.root / "outputs" / "month" / "nights"


def build_of(day: int) -> str:
    return "fp8" if day < 12 else "broken" if day in (16, 17) else "awq"


def state_of(day: int) -> dict:
    return {"version": "1.0" if day < 25 else "1.1", "out": day == 20}


@pytest.fixture(scope="module")
def month(tmp_path_factory):
    pytest.importorskip("lm_eval")
    return Month(tmp_path_factory.mktemp("month"))


@pytest.fixture(scope="module")
def postgres():
    tools = load("postgres_server")
    programs = tools.binaries()
    if programs is None:
        pytest.skip("there is no PostgreSQL on this machine")
    server = tools.Server(programs)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def lived(month, postgres, tmp_path_factory):
    """Thirty nights, each kept in SQLite and, by the same command again, in PostgreSQL; (exit codes, both URLs)."""
    patch = pytest.MonkeyPatch()
    month.ready(patch)
    urls = {"sqlite": f"sqlite:///{month.root / 'month.sqlite'}", "postgresql": postgres.url}
    codes = {}
    for day, night in enumerate(NIGHTS, start=1):
        month.server(**state_of(day))
        suite = month.suite(build_of(day))
        command = ["nightly", str(suite), "--night", night, "--quiet", "--commit", f"c{day // 10}", "--history"]
        first = main([*command, urls["sqlite"]])
        # An INVALID night is asked again when it is repeated; any other is read.
        codes[day] = (first, main([*command, urls["postgresql"]]))
    patch.undo()
    return codes, urls


def rows(url: str):
    with open_history(url) as history:
        return read_nights(history, suite="month")


def test_alarms_come_when_they_should_and_only_then(lived):
    codes, _ = lived
    expected = {day: 1 if day in (16, 17) else 4 if day == 20 else 0 for day in codes}
    assert {day: pair[0] for day, pair in codes.items()} == expected
    assert {day: pair[1] for day, pair in codes.items()} == expected


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_history_has_every_night_once(lived, kind):
    found = rows(lived[1][kind])
    assert [row.night for row in found] == NIGHTS
    outcomes = {row.night: row.outcome for row in found}
    assert [night for night, outcome in outcomes.items() if outcome == "ALARM"] == ["2026-03-16", "2026-03-17"]
    assert [night for night, outcome in outcomes.items() if outcome == "INVALID"] == ["2026-03-20"]
    (outage,) = [row for row in found if row.outcome == "INVALID"]
    assert outage.reasons[0]["code"] == "engine"
    assert "connection refused" in outage.reasons[0]["message"]


def test_both_databases_tell_the_same_story(lived, capsys):
    pages = {}
    for kind, url in lived[1].items():
        capsys.readouterr()
        assert main(["nightly", "history", "--history", url, "--json"]) == 0
        pages[kind] = json.loads(capsys.readouterr().out)
    assert pages["sqlite"] == pages["postgresql"]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_history_page_tells_the_story(lived, kind, capsys, tmp_path):
    capsys.readouterr()
    picture = tmp_path / "month.svg"
    assert main(["nightly", "history", "--history", lived[1][kind], "--svg", str(picture)]) == 0
    page = " ".join(capsys.readouterr().out.split())
    assert "flips changed on night 2026-03-12" in page
    assert "recipe: modelopt-fp8-kv -> int4-awq" in page
    assert "difference changed on night 2026-03-16" in page
    assert "difference changed on night 2026-03-18" in page
    assert "night 2026-03-25 ran in another environment than the one before: versions.backend: 1.0 -> 1.1" in page
    assert "night 2026-03-20, INVALID" in page
    assert "changed on night 2026-03-20" not in page
    assert "changed on night 2026-03-25" not in page
    assert picture.read_text().startswith("<?xml")


def test_alarms_say_what_to_look_at_first(lived, month):
    report = (month.nights() / "2026-03-16" / "report.md").read_text()
    assert "What to look at first: candidate, mmlu" in report
    assert report.index("change of log p") < report.index("net loss first")
    result = read_result(month.nights() / "2026-03-16" / "candidate")
    found = result["endpoints"]["mmlu"]
    changes = [row["change"] for row in found["triage"]["largest"]]
    assert len(changes) == 10
    assert changes == sorted(changes)
    assert found["full"]["state"] == "FAIL"
    assert found["full"]["n"] == 1200
    assert found["confirm"]["used"] > 0
    assert sum(row["losses"] for row in found["triage"]["subjects"]) == 84


def program(month: Month, suite: Path, night: str, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "evalkit", "nightly", str(suite), "--night", night, *more]
    more = {"PYTHONPATH": str(month.plugin), "MONTH_SERVER": str(month.root / "server.json")}
    env = {**os.environ, **more, "PYTHONWARNINGS": "ignore"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def here(month, monkeypatch):
    """Run a night in this process."""
    month.ready(monkeypatch)
    return lambda suite, night, url: main(["nightly", str(suite), "--night", night, "--line", "--history", url])


def records(month: Month, night: str) -> int:
    file = month.nights() / night / "candidate" / "records" / "watch.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait_for(process, done) -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)


def test_an_outage_is_made_up_for_and_takes_the_invalid_night_s_place(lived, month, postgres, here):
    month.server(version="1.0")
    assert here(month.suite("awq"), "2026-03-20", postgres.url) == 0
    (night,) = [row for row in rows(postgres.url) if row.night == "2026-03-20"]
    assert (night.outcome, night.identity["recipe"]) == ("OK", "int4-awq")
    assert len(rows(postgres.url)) == len(NIGHTS)


def test_a_night_with_lost_answers_is_completed_by_the_same_command(month, postgres, here, lived):
    night, file = "2026-03-31", month.nights() / "2026-03-31" / "candidate" / "records" / "watch.jsonl"
    suite = month.suite("awq")
    month.server(version="1.1", lost_every=40)
    assert here(suite, night, postgres.url) == 4
    kept = {line for line in file.read_text().splitlines() if '"status":"ok"' in line}
    assert any('"status":"failed"' in line for line in file.read_text().splitlines())
    month.server(version="1.1")
    assert here(suite, night, postgres.url) == 0
    after = set(file.read_text().splitlines())
    assert kept < after  # what was answered is not asked again
    assert not [line for line in after if '"status":"failed"' in line]


def test_a_killed_night_goes_on_and_counts_once(lived, month, postgres, here):
    month.server(version="1.1", delay_s=0.004)
    suite, url, night = month.suite("awq"), postgres.url, "2026-04-01"
    process = program(month, suite, night, "--history", url, "--block", "64")
    wait_for(process, lambda: records(month, night) >= 64)
    kill(process)
    before = records(month, night)
    assert before >= 64
    assert night not in [row.night for row in rows(url)]
    month.server(version="1.1")
    assert here(suite, night, url) == 0
    broken = read_result(month.nights() / night / "candidate")["endpoints"]["mmlu"]
    assert broken["asked"] >= before
    assert [row.night for row in rows(url)].count(night) == 1
    # The same night, never stopped and in other blocks, ends with the same evidence, and is known.
    (month.nights() / night).rename(month.root / "kept-aside")
    assert here(suite, night, url) == 0
    whole = read_result(month.nights() / night / "candidate")["endpoints"]["mmlu"]
    assert whole["watch"] == broken["watch"]
    assert whole["asked"] != broken["asked"]
    assert [row.night for row in rows(url)].count(night) == 1


def test_a_killed_database_costs_no_night(lived, month, postgres, here):
    month.server(version="1.1", delay_s=0.002)
    suite, url, night = month.suite("awq"), postgres.url, "2026-04-02"
    known = len(rows(url))
    process = program(month, suite, night, "--history", url)
    wait_for(process, lambda: records(month, night) >= 32)
    postgres.kill()
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error  # the outcome of the night is its own
    assert "WARNING: history" in error
    postgres.start()
    assert len(rows(url)) == known
    month.server(version="1.1")
    assert here(suite, "2026-04-03", url) == 0
    found = [row.night for row in rows(url)]
    assert found.count(night) == found.count("2026-04-03") == 1
    assert len(found) == len(set(found)) == known + 2


def test_a_night_killed_while_it_writes_counts_once(lived, month, postgres, here, capsys):
    """Killed as soon as its result lies there: before, in, or after its writing to the database."""
    suite, url, night = month.suite("awq"), postgres.url, "2026-04-04"
    process = program(month, suite, night, "--history", url)
    wait_for(process, (month.nights() / night / "candidate" / "result.json").exists)
    kill(process)
    for _ in range(2):
        capsys.readouterr()
        assert here(suite, night, url) == 0
        assert capsys.readouterr().out.startswith(f"month, night {night}, margin 2 points: OK candidate")
        assert [row.night for row in rows(url)].count(night) == 1
