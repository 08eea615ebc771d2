"""The verb `plan`: what it reads, what it prints, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit import cli
from evalkit.errors import ExitCode

POLICY = """\
policy_version: 1
name: small
tier: test
assay: {required: [aa, control], control_loss_points: 8.0}
endpoints:
  mmlu: {kind: paired_proportion, task: mmlu-cloze, metric: acc_norm, protocol: cloze-0shot, gating: true,
         alpha: 0.025, margins_points: [3.0]}
"""
SUITE = """\
name: trial
policy: ./policy.yaml
engine: {adapter: scripted, model: tiny}
baseline: {name: official}
candidates: [{name: one}, {name: two}]
tasks: [mmlu-cloze]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    (tmp_path / "policy.yaml").write_text(POLICY)
    path = tmp_path / "suite.yaml"
    path.write_text(SUITE + f"outputs: {tmp_path / 'outputs'}\n")
    return path


def planned(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, object]:
    assert cli.main(["plan", *argv, "--json"]) == ExitCode.CERTIFIED
    return json.loads(capsys.readouterr().out)


def test_a_suite_gives_policy_and_number_of_recipes(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(capsys, str(suite), "--items", "mmlu=1400")
    assert (plan["policy"], plan["recipes"]) == ("small", 2)
    assert plan["endpoints"][0]["size"] == 1400
    assert planned(capsys, str(suite), "--items", "mmlu=1400", "--recipes", "5")["recipes"] == 5


def test_what_a_suite_lacks_for_a_verdict_is_said(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(planned(capsys, str(suite), "--items", "mmlu=5000")["warnings"])
    assert "run twice" in text
    assert "no controls" in text
    whole = suite.with_name("whole.yaml")
    whole.write_text(suite.read_text() + "rerun: {}\ncontrols: [{name: broken}]\n")
    plan = planned(capsys, str(whole), "--items", "mmlu=5000")
    assert plan["warnings"] == []
    assert plan["promises"] is True


def test_without_a_size_nothing_is_planned(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", str(suite)]) == ExitCode.USAGE
    assert "--items mmlu=N" in capsys.readouterr().err


def test_strict_exits_with_3_when_nothing_can_be_promised(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "--policy", str(suite.with_name("policy.yaml")), "--items"]
    assert cli.main([*argv, "mmlu=400", "--strict"]) == ExitCode.INCONCLUSIVE
    assert cli.main([*argv, "mmlu=400"]) == ExitCode.CERTIFIED
    assert cli.main([*argv, "mmlu=5000", "--strict"]) == ExitCode.CERTIFIED
    capsys.readouterr()


def test_a_policy_that_could_never_certify_is_refused(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "--policy", str(suite.with_name("policy.yaml")), "--items", "mmlu=124"]
    assert cli.main(argv) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert "at least 125 are needed" in captured.out
    assert "no recipe could ever be certified" in captured.err


@pytest.mark.parametrize("example", ["llama-3.1-405b-h200", "llama-3.1-405b-ray", "cpu-demo", "cpu-qwen"])
def test_equal_recipes_of_every_shipped_suite_are_certified_four_times_in_five(
    example: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # elsewhere a suite's outputs may be there already, whose sizes are taken
    found = planned(capsys, str(Path(__file__).parents[3] / "examples" / f"{example}.yaml"))
    assert found["promises"] is True
    assert found["certify_power"] >= 0.8
    assert bool(found["assumptions"]) is example.startswith("llama")


def test_warnings_are_loud_in_text_and_beside_json(suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["plan", "--policy", str(suite.with_name("policy.yaml")), "--items", "mmlu=90"]
    cli.main(argv)
    text = capsys.readouterr().out
    assert "NO VERDICT CAN BE PROMISED" in text
    assert "WARNING: mmlu: with 90 items even a perfect copy cannot pass a margin of 3 points" in text
    cli.main([*argv, "--json"])
    both = capsys.readouterr()
    assert json.loads(both.out)["promises"] is False
    assert "WARNING: mmlu" in both.err


def test_a_weaker_policy_in_the_standard_s_words_is_told_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[3] / "evalkit" / "policy" / "library" / "release.yaml").read_text("utf-8")
    (tmp_path / "p.yaml").write_text(text.replace("family_alpha: 0.05 ", "family_alpha: 0.15 "), "utf-8")
    assert cli.main(["plan", "--policy", str(tmp_path / "p.yaml"), "--recipes", "2"]) == 0
    said = "CAUTION, weaker-than-standard: policy 'release' uses the words"
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(said)
    assert "alpha of the family 0.15 (standard: 0.05)" in first
    assert cli.main(["plan", "--policy", "release", "--recipes", "2"]) == 0
    assert "CAUTION" not in capsys.readouterr().out


def test_the_plot_has_at_most_twelve_lines_and_shows_pass_and_fail(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["plan", "--policy", "release"])
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("mmlu, margin 1 points"))
    plot = lines[start : lines.index("", start)]
    assert len(plot) <= 12
    top = plot[1]
    assert top.count("x") >= 2
    assert top.rindex("*") > top.rindex("x")
    assert all(len(line) <= 120 for line in plot)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--policy", "no-such-policy"],
        ["--policy", "release", "--items", "mmlu"],
        ["--policy", "release", "--items", "mmlu=many"],
        ["--policy", "release", "--discordance", "six"],
        ["--policy", "release", "--discordance", "0.1", "--discordance", "0.2"],
        ["--policy", "release", "--discordance", "2"],
        ["--policy", "release", "--discordance", "mmul=0.1"],
        ["--policy", "release", "--sd", "mt_bench=0"],
        ["--policy", "release", "--recipes", "0"],
    ],
)
def test_wrong_requests_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", *argv]) == ExitCode.USAGE
    assert capsys.readouterr().err


def test_a_share_may_be_for_one_endpoint_or_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    for share in ("0.03", "mmlu=0.03"):
        plan = planned(capsys, "--policy", "release", "--discordance", share, "--sd", "mt_bench=1.0")
        assert [one["spread"] for one in plan["endpoints"]] == [0.03, 1.0]
        assert plan["promises"] is True


def test_planning_starts_without_heavy_packages() -> None:
    code = (
        "import sys; from evalkit import cli; cli.main(['plan', '--policy', 'release', '--json']); "
        "print([m for m in ('torch', 'lm_eval', 'transformers', 'scipy.stats', 'pandas') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


JUDGED = """\
name: judged
policy: release
engine: {adapter: scripted, model: tiny}
baseline: {name: official}
rerun: {}
candidates: [{name: one}]
controls: [{name: broken}]
tasks: [mmlu, mt-bench]
judge: {profile: evalkit-structured, repeats: 3, engine: {}, qualify: QUALIFY}
"""


@pytest.mark.parametrize(
    ("qualify", "said"),
    [("null", "the suite tries none"), ("19", "tried on 20 questions, the suite tries them on 19"), ("20", "")],
)
def test_a_judge_that_could_not_qualify_is_said_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], qualify: str, said: str
) -> None:
    file = tmp_path / "suite.yaml"
    file.write_text(JUDGED.replace("QUALIFY", qualify))
    warnings = planned(capsys, str(file), "--sd", "mt_bench=0.9", "--discordance", "0.01")["warnings"]
    found = [warning for warning in warnings if "judges" in warning]
    assert len(found) == bool(said)
    assert all(said in warning and "every verdict is INVALID" in warning for warning in found)
