"""The files to copy: each read, and run as far as a machine without a scheduler allows."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from evalkit.cli.nightly import command
from evalkit.nightly import open_night
from evalkit.nightly.night import NightSettings
from evalkit.policy import load_policy
from evalkit.suite import load_suite

ROOT = Path(__file__).resolve().parents[3]
CI = ROOT / "examples" / "ci"

FAKE = """#!/usr/bin/env bash
echo "$0 $*" >> "$FAKE_LOG"
env | grep -E '^EVALKIT_' | sort >> "$FAKE_LOG.env"
if [ -n "$FAKE_WAIT" ]; then
  trap 'echo interrupted >> "$FAKE_LOG"; exit 5' INT
  echo waiting >> "$FAKE_LOG"
  for _ in $(seq 600); do sleep 0.05; done
fi
while [ $# -gt 0 ]; do
  if [ "$1" = --junit ] && [ -z "$FAKE_BROKEN" ]; then echo "<testsuites/>" > "$2"; fi
  shift
done
exit "${FAKE_CODE:-0}"
"""


@pytest.fixture
def fake(tmp_path):
    """An `evalkit` that writes down how it was called and ends with $FAKE_CODE."""
    home = tmp_path / "home"
    (home / "venv" / "bin").mkdir(parents=True)
    for name in ("evalkit", "pip"):
        program = home / "venv" / "bin" / name
        program.write_text(FAKE)
        program.chmod(0o755)
    env = {**os.environ, "EVALKIT_HOME": str(home), "FAKE_LOG": str(tmp_path / "log"), "FAKE_WAIT": ""}
    return home, env, tmp_path


def run(*command: str, **given) -> subprocess.CompletedProcess:
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=600, **given)


def options_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


KNOWN = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_suite_makes_a_night():
    suite = load_suite(ROOT / "examples" / "nightly.yaml")
    night = open_night(suite, load_policy(suite.policy), NightSettings(night="n", started_at=""))
    assert list(night.endpoints) == ["mmlu"]
    assert night.tasks == ("mmlu-cloze-demo",)
    assert not night.policy.certifies


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load((CI / "github-actions.yaml").read_text())


def test_the_workflow_has_the_form_of_one(workflow):
    # YAML 1.1 reads the key `on` as true; GitHub reads it as a word.
    triggers = workflow[True]
    assert re.fullmatch(r"(\S+ ){4}\S+", triggers["schedule"][0]["cron"])
    assert set(triggers) == {"schedule", "workflow_dispatch"}
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    (job,) = workflow["jobs"].values()
    assert "self-hosted" in job["runs-on"]
    assert job["permissions"] == {"contents": "read"}
    assert 0 < job["timeout-minutes"] <= 360
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert set(step) <= {"name", "id", "uses", "run", "if", "with", "env"}
        if "uses" in step:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", step["uses"])
    text = (CI / "github-actions.yaml").read_text()
    for expression in re.findall(r"\$\{\{ (.*?) \}\}", text):
        assert re.match(r"(secrets|github|inputs|runner|steps)\.", expression)


def test_no_secret_is_on_a_command_line(workflow):
    (job,) = workflow["jobs"].values()
    for step in job["steps"]:
        assert "secrets." not in step.get("run", "")


def run_step(workflow, name, env, **expressions):
    (job,) = workflow["jobs"].values()
    (step,) = [step for step in job["steps"] if step.get("name") == name]
    script = step["run"]
    for expression, value in expressions.items():
        script = script.replace("${{ " + expression.replace("__", ".") + " }}", value)
    assert "${{" not in script
    return run("bash", "-e", "-c", script, env=env)


@pytest.mark.parametrize(
    ("code", "regression", "judged"), [(0, 0, 0), (1, 1, 1), (3, 0, 1), (4, 0, 1), (5, 0, 1), (2, 0, 1)]
)
def test_the_workflow_fails_the_step_that_says_why(workflow, fake, code, regression, judged):
    _, env, tmp_path = fake
    env |= {
        "FAKE_CODE": str(code),
        "SUITE": "suite.yaml",
        "GITHUB_WORKSPACE": "/workspace",
        "GITHUB_OUTPUT": str(tmp_path / "output"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
        "RUNNER_TEMP": str(tmp_path),
        "NIGHT": "2026-03-01",
        "EVALKIT_WEBHOOK": "http://x",
        "WEBHOOK_SECRET": "s",
    }
    assert run_step(workflow, "Watch", env).returncode == 0
    assert (tmp_path / "output").read_text() == f"code={code}\n"
    called = (tmp_path / "log").read_text()
    assert called.split()[1:3] == ["nightly", "/workspace/suite.yaml"]
    assert options_of(called) <= KNOWN
    assert "--night 2026-03-01" in called
    assert "--webhook-secret WEBHOOK_SECRET" in called
    given = {"steps__watch__outputs__code": str(code)}
    assert run_step(workflow, "No regression", env, **given).returncode == regression
    assert run_step(workflow, "The night could be judged, and decides", env, **given).returncode == (
        judged if code != 1 else 1
    )


def test_a_broken_interpreter_is_no_alarm(workflow, fake):
    _, env, tmp_path = fake
    env |= {"FAKE_CODE": "1", "FAKE_BROKEN": "1", "SUITE": "s.yaml", "GITHUB_WORKSPACE": "/w", "NIGHT": ""}
    env |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STEP_SUMMARY": "/s", "RUNNER_TEMP": str(tmp_path)}
    (tmp_path / "junit.xml").write_text("<of the night before/>")
    assert run_step(workflow, "Watch", env | {"EVALKIT_WEBHOOK": "", "WEBHOOK_SECRET": ""}).returncode == 0
    assert (tmp_path / "output").read_text() == "code=5\n"
    done = run("bash", str(CI / "slurm.sh"), env=env)
    assert done.returncode == 5
    assert "ALARM" not in done.stdout


def test_the_workflow_asks_for_no_more_than_there_is(workflow, fake):
    _, env, tmp_path = fake
    env |= {"SUITE": "s.yaml", "GITHUB_WORKSPACE": "/w", "GITHUB_OUTPUT": str(tmp_path / "output"), "NIGHT": ""}
    env |= {"GITHUB_STEP_SUMMARY": "/s", "RUNNER_TEMP": "/t", "EVALKIT_WEBHOOK": "", "WEBHOOK_SECRET": ""}
    run_step(workflow, "Watch", env)
    assert options_of((tmp_path / "log").read_text()) == {"--junit", "--summary"}


def test_shell_scripts_are_shell_scripts(workflow):
    (job,) = workflow["jobs"].values()
    scripts = [step["run"] for step in job["steps"] if "run" in step] + [(CI / "slurm.sh").read_text()]
    for script in scripts:
        checked = run("bash", "-n", input=script)
        assert checked.returncode == 0, checked.stderr
    if shutil.which("shellcheck"):
        checked = run("shellcheck", str(CI / "slurm.sh"))
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("code", [0, 1, 3, 4, 5])
def test_the_slurm_script_passes_the_exit_code_on(fake, code):
    home, env, tmp_path = fake
    env |= {"FAKE_CODE": str(code), "EVALKIT_NIGHT": "2026-03-01", "EVALKIT_SITE": "h200"}
    done = run("bash", str(CI / "slurm.sh"), env=env)
    assert done.returncode == code
    called = (tmp_path / "log").read_text()
    assert called.split()[1:3] == ["nightly", f"{home}/suites/nightly.yaml"]
    assert options_of(called) <= KNOWN
    assert "--site h200 --night 2026-03-01" in called
    assert f"EVALKIT_CACHE={home}/cache" in (tmp_path / "log.env").read_text()


def test_a_requeued_slurm_job_goes_on_with_its_own_night(fake):
    _, env, tmp_path = fake
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho 2026-03-11T23:30:00\n")
    squeue.chmod(0o755)
    env |= {"PATH": f"{squeue.parent}:{env['PATH']}", "SLURM_JOB_ID": "7", "TZ": "UTC"}
    assert run("bash", str(CI / "slurm.sh"), env=env).returncode == 0
    assert "--night 2026-03-11" in (tmp_path / "log").read_text()


def test_slurm_s_warning_reaches_evalkit(fake):
    _, env, tmp_path = fake
    job = subprocess.Popen(
        ["bash", str(CI / "slurm.sh")], env={**env, "FAKE_WAIT": "1"}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while not (tmp_path / "log").exists() or "waiting" not in (tmp_path / "log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    out, _ = job.communicate(timeout=600)
    assert job.returncode == 5
    assert "interrupted" in (tmp_path / "log").read_text()
    assert "goes on" in out


def test_slurm_directives_are_well_formed():
    lines = (CI / "slurm.sh").read_text().splitlines()
    directives = [line for line in lines if line.startswith("#SBATCH")]
    assert len(directives) >= 5
    assert all(re.match(r"#SBATCH --[a-z-]+(=\S+)?(\s+#.*)?$", line) for line in directives)
    first_command = next(at for at, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first_command for line in directives)  # Slurm reads none after the first command


def unit(name: str) -> dict[str, list[tuple[str, str]]]:
    sections: dict[str, list[tuple[str, str]]] = {}
    for line in (CI / name).read_text().splitlines():
        if line.startswith("["):
            found = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            found.append(tuple(line.split("=", 1)))
    return sections


def test_the_service_calls_what_there_is():
    service = dict(unit("evalkit-nightly.service")["Service"])
    assert options_of(service["ExecStart"]) <= KNOWN
    assert service["Type"] == "oneshot"
    assert dict(unit("evalkit-nightly.timer")["Timer"])["Persistent"] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_both_units(tmp_path):
    text = (CI / "evalkit-nightly.service").read_text()
    text = text.replace("/opt/evalkit/bin/evalkit", "/bin/true").replace("User=evalkit", "User=root")
    (tmp_path / "evalkit-nightly.service").write_text(text)
    shutil.copy(CI / "evalkit-nightly.timer", tmp_path)
    units = [str(tmp_path / f"evalkit-nightly.{kind}") for kind in ("service", "timer")]
    checked = run("systemd-analyze", "verify", *units)
    complaints = [line for line in checked.stderr.splitlines() if "evalkit-nightly" in line]
    assert (checked.returncode, complaints) == (0, [])
    broken = text.replace("Type=oneshot", "Type=sometimes")
    (tmp_path / "evalkit-nightly.service").write_text(broken)
    checked = run("systemd-analyze", "verify", *units)
    assert "sometimes" in checked.stderr  # it would have complained


def test_a_schedule_systemd_can_read():
    calendar = dict(unit("evalkit-nightly.timer")["Timer"])["OnCalendar"]
    assert re.fullmatch(r"\*-\*-\* \d\d:\d\d:\d\d UTC", calendar)
    if shutil.which("systemd-analyze"):
        done = run("systemd-analyze", "calendar", calendar)
        assert done.returncode == 0, done.stderr
