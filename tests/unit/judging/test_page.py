"""docs/mt-bench.md: its commands are evalkit's, its files are accepted, its numbers follow from one another."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from evalkit.cli import program
from evalkit.cli.qualify import command as qualify
from evalkit.definitions import find_definitions
from evalkit.judging.plan import ORDERS
from evalkit.judging.probing import CHOICE_PLANTS, RATING_PLANTS, REPEATS, TWINS
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
        verb, command, arguments = program.resolve_command(click.Context(program), shlex.split(line)[1:])
        assert command is not None
        made = command.make_context(verb, list(arguments))
        assert made.params
        assert (made.command is qualify) == (verb == "judge qualify")


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


PLANS = [  # engines, judgments of each answer, of each pair, judges that rate, trials of judges that compare
    (2, 3, 0, 1, 0),
    (2, 3, 1, 1, 1),
    (4, 3, 0, 1, 0),
    (4, 3, 3, 1, 1),
    (4, 3, 0, 3, 0),
]


def table(begin: str) -> list[list[str]]:
    """The rows of the table whose header begins like this."""
    lines = TEXT[TEXT.index(begin) :].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def assumed(pattern: str) -> list[float]:
    """Numbers that the page states in words."""
    (found,) = re.findall(pattern, TEXT)
    return [float(number.replace(",", "")) for number in (found if isinstance(found, tuple) else (found,))]


def test_the_costs_follow_from_what_is_assumed():
    single, pair, verdict = assumed(
        r"one answer has ([\d,]+) tokens,\s+one about a pair ([\d,]+), a rating with its reasons\s+([\d,]+)"
    )
    gpus, reads, writes = assumed(r"a judge on (\d+) GPUs that reads ([\d,]+) tokens per\s+second and writes ([\d,]+)")
    header, rows = TEXT[TEXT.index("| plan |") :].split("\n")[0], table("| plan |")
    prices = [(float(read), float(written)) for read, written in re.findall(r"\$ at ([\d.]+) / ([\d.]+)", header)]
    assert len(prices) == 3
    assert len(rows) == len(PLANS)
    one, both = REPEATS + len(TWINS) + 1 + len(RATING_PLANTS), ORDERS * (len(TWINS) + REPEATS + len(CHOICE_PLANTS))
    for row, (engines, judgments, games, judges, trials) in zip(rows, PLANS, strict=True):
        ratings = judges * (160 * judgments * engines + one * 30)
        pairs = 320 * games * (engines - 1) + trials * both * 30
        read, written = ratings * single + pairs * pair, (ratings + pairs) * verdict
        hours = gpus * (read / reads + written / writes) / 3600
        assert row[1] == f"{ratings + pairs:,}"
        assert row[2:4] == [f"{read / 1e6:.2f}", f"{written / 1e6:.2f}"]
        costs = [(read * prompt + written * answer) / 1e6 for prompt, answer in prices]
        assert [float(cell) for cell in row[4:]] == [
            float(f"{value:.{3 if value > 99.5 else 2}g}") for value in (*costs, hours)
        ]
    busy, speed, told = assumed(
        r"on (\d+) GPUs that writes ([\d,]+) tokens (?:a|per)\s+second is busy for ([\d.]+) GPU hours"
    )
    assert told == pytest.approx(160 * 1024 / speed * busy / 3600, abs=0.005)


def test_what_each_part_asks_and_reads_follows_too():
    rows = {row[0]: row[1:] for row in table("| what | questions")}
    assert rows["ratings"] == [
        "160 x G x J x E",
        *(f"{160 * size / 1e6:.2f} million x G x J x E" for size in (950, 200)),
    ]
    games = "x G x J x (E - 1)"
    sizes = [f"{320 * size / 1e6:.2f} million {games}" for size in (1125, 200)]
    assert rows["pairs against the baseline"] == [f"320 {games}", *sizes]
    assert rows["trial of a judge that rates, 30 answers"][1:] == [
        f"{390 * size / 1e6:.2f} million" for size in (950, 200)
    ]
    compares = rows["trial of a judge that compares, 30 answers"]
    assert compares == ["24 x 30", *(f"{720 * size / 1e6:.2f} million" for size in (1125, 200))]


def test_the_powers_are_those_of_the_test():
    sentence = TEXT.split("passes with probability")[1][:40]
    said = [float(found) for found in re.findall(r"0\.\d\d(?=\D)", sentence)]
    powers = [round(noncentral_power_t(80, sd, 0.3, 0.05), 2) for sd in (1.0, 1.2, 1.4)]
    assert said == powers


def test_the_trial_asks_as_often_as_the_page_says():
    assert REPEATS + len(TWINS) + 1 + len(RATING_PLANTS) == 13
