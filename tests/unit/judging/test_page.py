"""docs/mt-bench.md: its commands are evalkit's, its files are accepted, its numbers follow from one another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from evalkit.cli import program
from evalkit.cli.judge_qualify import command as qualify
from evalkit.definitions import find_definitions
from evalkit.judging.probing import REPEATS
from evalkit.judging.twins import RATING_PLANTS, TWINS
from evalkit.policy import JudgeRules
from evalkit.statistics.paired_means import noncentral_power_t
from evalkit.suite import JudgeSpec

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "mt-bench.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return [block for name, block in re.findall(r"```(\w*)\n(.*?)```", TEXT, re.DOTALL) if name == language]


def test_every_command_is_one_that_evalkit_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("suite.yaml", "data/mt_bench/x", "outputs/fp8/x", "outputs/int4/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("official", "candidate"):
        (tmp_path / "outputs/my-suite" / name).mkdir(parents=True)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("evalkit ")]
    assert len(lines) >= 10
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        command = program.get_command(program.make_context("evalkit", [verb]), verb)
        assert command is not None
        made = command.make_context(verb, list(arguments))
        assert made.params
        assert (made.command is qualify) == (arguments[:1] == ["qualify"])


def test_the_files_shown_are_accepted():
    rules, suite = (yaml.safe_load(block)["judge"] for block in blocks("yaml"))
    shown = JudgeRules.model_validate(rules)
    assert shown.bars == JudgeRules().bars, "the bars shown are the ones that hold without a word"
    for place, engine in enumerate([suite["engine"], *(one["engine"] for one in suite["panel"])]):
        engine["name"] = f"judge-{place}"
    found = JudgeSpec.model_validate(suite)
    judges = find_definitions().judges()
    assert {found.profile, found.pairwise, *(one.profile for one in found.panel)} <= set(judges)


def test_every_profile_is_explained():
    (table,) = re.findall(r"\| profile \| for .*?\n\n", TEXT, re.DOTALL)
    assert set(re.findall(r"`([\w-]+)`", table)) == set(find_definitions().judges())


def test_the_powers_are_those_of_the_test():
    sentence = TEXT.split("passes with probability")[1][:40]
    said = [float(found) for found in re.findall(r"0\.\d\d(?=\D)", sentence)]
    powers = [round(noncentral_power_t(80, sd, 0.3, 0.05), 2) for sd in (1.0, 1.2, 1.4)]
    assert said == powers


def test_the_trial_asks_as_often_as_the_page_says():
    assert REPEATS + len(TWINS) + 1 + len(RATING_PLANTS) == 13
