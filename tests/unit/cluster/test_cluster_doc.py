"""docs/cluster.md: its commands exist, its section is one, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from evalkit import cli
from evalkit.configuration import validate
from evalkit.store.mirror import mirror
from evalkit.store.mirror.lease import TTL_S
from evalkit.suite import Execution

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "cluster.md").read_text("utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("evalkit ")
]


@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_a_command_is_one(argv, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, verb, rest = cli.program.resolve_command(click.Context(cli.program), list(argv))
    with click.Context(verb) as context:
        verb.parse_args(context, rest)  # an unknown option, or a suite that is not there, raises


def test_every_verb_that_the_page_names_takes_a_url():
    (named,) = re.findall(r"on the command line of (.*?), may be any URL", PAGE.replace("\n", " "))
    verbs = re.findall(r"`([\w ]+)`", named)
    assert len(verbs) == 8
    for name in verbs:
        verb = cli.program.get_command(click.Context(cli.program), name)
        assert any(type(parameter.type).__name__ == "Place" for parameter in verb.params), name
        assert "--spool" in [option for parameter in verb.params for option in parameter.opts]


def test_its_section_is_valid_and_plans_run_anywhere(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    section = yaml.safe_load(block.replace("  on: ray", '  "on": ray'))
    execution = validate(Execution, section["execution"], "docs/cluster.md")
    assert execution.placement("int4-awq").replicas == 4
    assert execution.placement("judge").count == 2
    assert cli.main(["plan", "examples/llama-3.1-405b-ray.yaml"]) == 0
    assert "14042" in capsys.readouterr().out


def test_its_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
    headings = re.findall(r"^## (.*)$", (ROOT / "docs" / "performance.md").read_text("utf-8"), re.MULTILINE)
    assert "Many replicas" in headings


def test_it_says_the_times_that_the_code_keeps():
    assert (mirror.SEND_S, mirror.LAG_S, TTL_S) == (2.0, 600.0, 120.0)
    for words in ("every two seconds", "ten minutes", "up to two minutes"):
        assert words in PAGE
