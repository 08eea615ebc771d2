"""docs/nightly.md: its commands exist, its plan runs, its receiver accepts what is sent."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from evalkit.cli import main, program
from evalkit.configuration import validate
from evalkit.nightly.outcome import EXIT_CODES
from evalkit.nightly.webhook import signature
from evalkit.suite import Suite

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "nightly.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("evalkit ")]


def test_every_command_is_one_that_evalkit_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("examples/nightly.yaml", "my-nightly.yaml", "outputs/my-suite/certificate.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = commands()
    assert len(found) >= 7
    for verb, *arguments in found:
        command = program.get_command(program.make_context("evalkit", [verb]), verb)
        assert command.make_context(verb, list(arguments)).params


def test_the_plan_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (planned,) = [command for command in commands() if "--plan" in command]
    assert main([*planned, "--history", "none"]) == 0
    out = capsys.readouterr().out
    assert "modelopt-fp8-kv, mmlu: a loss of 3 points or more on 1,4" in out
    assert "if nothing is lost: OK 98%, cap 2%, alarm 0.0% of nights" in out


def test_the_receiver_accepts_what_is_sent():
    space: dict = {}
    (code,) = blocks("python")
    exec(code, space)
    headers = {"X-Evalkit-Timestamp": "1700000000", "X-Evalkit-Signature-256": signature("s", "1700000000", b"{}")}
    assert space["genuine"]("s", headers, b"{}")
    assert not space["genuine"]("other", headers, b"{}")
    assert not space["genuine"]("s", headers, b"{} ")
    assert not space["genuine"]("s", {**headers, "X-Evalkit-Timestamp": "1700000001"}, b"{}")


def test_the_suite_of_ones_own_is_a_suite():
    (text,) = blocks("yaml")
    document = yaml.safe_load(text)
    shared = document.pop("engine")
    for engine in (document["baseline"], *document["candidates"]):
        engine.update(shared)
    assert validate(Suite, document, "docs/nightly.md").policy == "nightly"


def test_the_exit_codes_are_those_of_the_program():
    for outcome, code in EXIT_CODES.items():
        word = "undecided" if outcome.value == "UNDECIDED" else outcome.value
        assert re.search(rf"^\| {word} \| {int(code)} \|", TEXT, re.MULTILINE)


@pytest.mark.parametrize("target", re.findall(r"\]\(((?:\.\./)?[\w./-]+)\)", TEXT))
def test_every_link_leads_somewhere(target):
    assert (ROOT / "docs" / target).resolve().exists()
