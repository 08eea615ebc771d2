"""Every file under examples/ and every minimal version: no known hole, nothing more than is needed.

The rules are for whatever lies there, so a new example is held to them without a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(path for path in (ROOT / "examples").rglob("*") if path.is_file())
DOCUMENTS = [(path, yaml.safe_load(path.read_text())) for path in FILES if path.suffix in (".yaml", ".yml")]
WORKFLOWS = [(path, found) for path, found in DOCUMENTS if "jobs" in found]
MANIFESTS = [(path, found) for path, found in DOCUMENTS if "apiVersion" in found]
SCRIPTS = [path for path in FILES if path.suffix == ".sh"]

ACTIONS = {
    "actions/checkout@d23441a48e516b6c34aea4fa41551a30e30af803": "v6.1.0",
    "actions/upload-artifact@b7c566a772e6b6bfb58ed0dc250532a479d7789f": "v6.0.0",
}
"""Commits of actions, as the tags of their own repositories name them."""

FLOORS = {
    "aiohttp": ("3.14.3", "unpacked bodies without a limit, header smuggling (CVE-2025-69223, CVE-2026-69244)"),
    "cryptography": ("50.0", "points of curves unchecked (CVE-2026-26007), a padding oracle (CVE-2026-69247)"),
    "flask-cors": ("6.0", "paths matched wrongly (CVE-2024-6839, -6844, -6866)"),
    "h11": ("0.16", "chunked bodies read leniently: request smuggling (CVE-2025-43859)"),
    "jinja2": ("3.1.6", "chat templates break out of the sandbox (CVE-2024-56201, -56326, CVE-2025-27516)"),
    "mlflow-skinny": ("3.5", "requests of strangers by DNS rebinding (CVE-2025-14279)"),
    "pillow": ("12.3", "images write out of bounds or unpack without a limit (CVE-2026-25990, CVE-2026-40192)"),
    "pyarrow": ("23.0.1", "memory that was freed is read (CVE-2026-25087), code in a file (CVE-2023-47248)"),
    "pytest": ("9.0.3", "folder of tests that others can write (CVE-2025-71176)"),
    "pyyaml": ("6.0", "objects made while loading (CVE-2020-14343)"),
    "ray": (
        "2.54",
        "jobs and deletions by strangers (CVE-2025-62593, CVE-2026-27482); no token before 2.52",
    ),
    "requests": ("2.33", "logins sent to other hosts (CVE-2024-47081)"),
    "torch": ("2.10", "pickles under weights_only (CVE-2025-32434, CVE-2026-24747)"),
    "tqdm": ("4.66.3", "arguments run as code (CVE-2024-34062)"),
    "transformers": ("5.0", "pickled state files, patterns without end (CVE-2025-14920 and its neighbours)"),
    "urllib3": ("2.6.3", "replies unpacked without a limit (CVE-2025-66418, -66471, CVE-2026-21441)"),
    "xllamacpp": ("2026.4", "GGUF headers that overflow (CVE-2025-53630, CVE-2026-27940)"),
}
"""First version without holes that were known when this was written, and what an older one lets in."""


def walk(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    yield at, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from walk(one, f"{at}/{key}")


def jobs() -> Iterator[tuple[Path, dict[str, Any], dict[str, Any]]]:
    for path, found in WORKFLOWS:
        for job in found["jobs"].values():
            yield path, found, job


def test_there_is_something_to_look_at():
    assert WORKFLOWS
    assert MANIFESTS
    assert len(SCRIPTS) >= 2


def test_actions_are_named_by_a_commit_that_is_known():
    for path, _, job in jobs():
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert used
        for name in used:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name), (path, name)
            assert f"{name} " in path.read_text()
            assert re.search(rf"{re.escape(name)} +# {re.escape(ACTIONS[name])}\b", path.read_text()), (path, name)


def test_a_workflow_may_do_nothing_and_a_job_only_read():
    for path, whole, job in jobs():
        assert whole["permissions"] == {}, path
        assert set(job["permissions"].values()) <= {"read", "none"}, path
        assert "pull_request_target" not in (whole.get(True) or whole.get("on")), path


def test_secrets_are_in_the_environment_of_the_step_that_needs_them():
    for path, whole, job in jobs():
        holders = {at for at, value in walk(whole) if isinstance(value, str) and "secrets." in value}
        steps = {at for at in holders if re.fullmatch(r"/jobs/[^/]+/steps/\d+/env/\w+", at)}
        assert holders == steps, (path, holders - steps)
        assert len({at.rsplit("/env/", 1)[0] for at in steps}) <= 1, path
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, path


def test_no_words_of_others_are_in_a_script():
    safe = re.compile(r"steps\.\w+\.outputs\.code")
    for path, _, job in jobs():
        for step in job["steps"]:
            for expression in re.findall(r"\$\{\{ (.*?) \}\}", step.get("run", "")):
                assert safe.fullmatch(expression), (path, expression)


def test_packages_are_installed_by_digest():
    for path in (path for path, *_ in jobs()):
        for line in re.findall(r"^.*\bpip\"? install.*$", path.read_text(), re.MULTILINE):
            assert "--require-hashes" in line, (path, line)
            assert "--upgrade" not in line, (path, line)


def pods() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path, found in MANIFESTS:
        for at, value in walk(found):
            if at.endswith("/spec") and isinstance(value, dict) and "containers" in value:
                yield path, value


def test_no_pod_runs_as_root_or_talks_to_kubernetes():
    found = list(pods())
    assert len(found) == 3
    for path, pod in found:
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, path
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False, path
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod.get("volumes", ()))
        for container in (*pod["containers"], *pod.get("initContainers", ())):
            inner = container["securityContext"]
            assert inner["allowPrivilegeEscalation"] is False, path
            assert inner["capabilities"] == {"drop": ["ALL"]}, path
            assert not inner.get("privileged", False)
            assert re.search(r"[:@](?!latest\b)[\w.:-]+$", container["image"].rpartition("/")[2]), container["image"]


def test_whoever_starts_ray_asks_for_a_token():
    seen = 0
    for path, found in MANIFESTS:
        for _, value in walk(found):
            if isinstance(value, dict) and "headGroupSpec" in value:
                seen += 1
                assert value["authOptions"] == {"mode": "token"}, path
                assert Version(value["rayVersion"]) >= Version(FLOORS["ray"][0]), path
    for path in SCRIPTS:
        text = path.read_text()
        if 'ray" start' in text or "ray start" in text:
            seen += 1
            first = text.index('ray" start')
            assert 0 < text.index("export RAY_AUTH_MODE=token") < first, path
            assert 0 < text.index("umask 077") < text.index('> "$RAY_AUTH_TOKEN_PATH"') < first, path
            assert not re.search(r"RAY_AUTH_TOKEN=", text), "a token on a command line or in a file of everybody's"
    assert seen == 2


def test_a_verdict_of_code_1_has_more_than_a_code_behind_it():
    """A broken interpreter, and a library that ends the process while it is loaded, end with 1 as well."""
    for path in (*SCRIPTS, *(path for path, *_ in WORKFLOWS)):
        text = path.read_text()
        assert re.search(r"if \[ \"\$code\" (-eq|=) 1 \].*; then code=5; fi", text), path


def test_a_unit_of_systemd_has_a_user_and_no_way_to_more():
    units = [path for path in FILES if path.suffix == ".service"]
    assert units
    for path in units:
        lines = path.read_text().splitlines()
        (user,) = [line.partition("=")[2] for line in lines if line.startswith("User=")]
        assert user not in ("", "root", "0")
        assert {"NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes"} <= set(lines)


def test_no_example_holds_a_password():
    shape = re.compile(r"(?i)(AKIA[0-9A-Z]{16}|hf_\w{20}|sk-\w{20}|ghp_\w{20}|://[^/\s:@]+:(?!password@)[^/\s@]+@)")
    for path in FILES:
        assert not shape.search(path.read_text()), path


def requirements() -> Iterator[Requirement]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lists = [found["project"]["dependencies"], *found["project"]["optional-dependencies"].values()]
    for entry in (one for part in [*lists, *found["dependency-groups"].values()] for one in part):
        yield Requirement(entry)


@pytest.mark.parametrize("name", FLOORS)
def test_no_minimal_version_has_a_known_hole(name):
    asked = [one for one in requirements() if one.name.lower() == name]
    assert asked, f"{name} is asked for by nobody: take it out of FLOORS"
    for one in asked:
        floors = [Version(spec.version) for spec in one.specifier if spec.operator in (">=", "==")]
        assert floors
        assert max(floors) >= Version(FLOORS[name][0]), f"{one}: {FLOORS[name][1]}"


def test_the_tested_versions_satisfy_what_is_asked_for():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            one = Requirement(line)
            pinned[one.name.lower()] = next(iter(one.specifier)).version
    for one in requirements():
        version = pinned.get(one.name.lower())
        assert version is None or one.specifier.contains(version), f"{one}: constraints.txt has {version}"
