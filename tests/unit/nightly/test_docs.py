"""docs/nightly.md: its commands exist, its plan runs, its receiver accepts what is sent."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from evalkit.cli import main, program
from evalkit.configuration import validate
from evalkit.nightly.report import signature
from evalkit.nightly.watch import EXIT_CODES
from evalkit.suite import Suite

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "nightly.md").read_text()


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return [block for name, block in re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL) if name == language]


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
    for words in found:
        verb, command, arguments = program.resolve_command(click.Context(program), words)
        assert command.make_context(verb, list(arguments)).params


def test_the_plan_is_the_one_shown(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)  # no baseline was run here
    ((verb, suite, *options),) = [command for command in commands() if "--plan" in command]
    assert main([verb, str(ROOT / suite), *options, "--history", "none"]) == 0
    (shown,) = [block for block in blocks("") if block.startswith("modelopt-fp8-kv, mmlu")]
    # Another NumPy may draw other nights, so numbers are compared by their places alone.
    assert re.sub(r"[\d,.]+", "#", capsys.readouterr().out) == re.sub(r"[\d,.]+", "#", shown)


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
