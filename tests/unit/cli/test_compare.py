"""The verb `compare`: two run folders, every task both have, no verdict."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit import cli
from evalkit.errors import ExitCode

FILE = Path(__file__).resolve().parents[2] / "synthetic_runs.py"

FOREIGN = ("torch", "transformers", "lm_eval", "modelopt", "vllm", "tensorrt_llm", "datasets")
HTTP = ("requests", "httpx", "aiohttp", "urllib3", "openai", "http.client", "urllib.request", "huggingface_hub")

Write = Callable[..., str]


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


@pytest.fixture
def write(made: ModuleType, tmp_path: Path) -> Write:
    """Write a run of 40 items and four judged questions, or what is given instead; return its folder."""

    def written(name: str, seed: int, **parts: Any) -> str:
        base = np.tile([1.0, 1.0, 1.0, 0.0], 10)
        given = {"marks": base, "scores": np.arange(8.0).reshape(4, 2, 1) % 5 + seed, **parts}
        return str(made.write_run(tmp_path / name, made.make_run(name, seed=seed, **given)))

    return written


def test_every_task_both_runs_have_is_compared(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", write("official", 1), write("new", 2)]) == 0
    out = capsys.readouterr().out
    assert "mmlu (protocol ll-5shot" in out
    assert "mt-bench (protocol mt-bench-greedy" in out
    assert "candidate new (recipe new" in out
    assert "CERTIFIED" not in out


def test_the_difference_is_candidate_minus_baseline(
    made: ModuleType, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    worse = np.tile([1.0, 1.0, 1.0, 0.0], 10)
    worse[:2] = 0.0
    assert cli.main(["compare", write("official", 1), write("new", 2, marks=worse), "--task", "mmlu", "--json"]) == 0
    (comparison,) = json.loads(capsys.readouterr().out)
    assert comparison["proportion"]["effects"]["difference"] == pytest.approx(-2 / 40)


def test_json_holds_one_comparison_for_each_task_and_no_nan(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", write("official", 1), write("new", 2), "--json"]) == 0

    def refuse(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert [comparison["task"] for comparison in found] == ["mmlu", "mt-bench"]


def test_one_task_may_be_chosen(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", write("official", 1), write("new", 2), "--task", "mt-bench"]) == 0
    out = capsys.readouterr().out
    assert "mt-bench" in out
    assert "mmlu" not in out


def test_the_table_of_subjects_can_be_left_out(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    runs = ["compare", write("official", 1), write("new", 2), "--task", "mmlu"]
    cli.main(runs)
    assert "By subject" in capsys.readouterr().out
    cli.main([*runs, "--no-subjects"])
    assert "By subject" not in capsys.readouterr().out


def test_a_task_only_one_run_has_is_named_on_stderr(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    official, new = write("official", 1), write("new", 2, scores=None)
    assert cli.main(["compare", official, new]) == 0
    captured = capsys.readouterr()
    assert f"not compared: only {official} has task 'mt-bench'" in captured.err
    assert "mt-bench" not in captured.out


def test_runs_without_a_common_task_cannot_be_compared(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["compare", write("official", 1, scores=None), write("new", 2, marks=None)]) == ExitCode.INVALID
    assert "the runs share no task" in capsys.readouterr().err


def test_a_named_task_that_a_run_lacks_is_invalid(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write("official", 1), write("new", 2)]
    assert cli.main(["compare", *runs, "--task", "gsm8k"]) == ExitCode.INVALID
    assert "task 'gsm8k' is not in the run" in capsys.readouterr().out


def test_runs_that_differ_in_what_must_agree_are_invalid_and_told_first(
    made: ModuleType, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = made.make_run("new", marks=np.tile([1.0, 1.0, 1.0, 0.0], 10), seed=2)
    other = replace(new.manifest, tasks={"mmlu": replace(new.manifest.tasks["mmlu"], shots=0)})
    folder = made.write_run(tmp_path / "new", replace(new, manifest=other))
    assert cli.main(["compare", write("official", 1, scores=None), str(folder)]) == ExitCode.INVALID
    out = " ".join(capsys.readouterr().out.split())
    assert out.index("DIFFERENCE: shots: baseline has 5, candidate has 0") < out.index("accuracy, baseline")


def test_a_run_compared_with_itself_is_called_the_same_model(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    official = write("official", 1)
    assert cli.main(["compare", official, official, "--task", "mmlu"]) == 0
    assert "SAME MODEL" in capsys.readouterr().out


def test_a_folder_without_a_run_is_a_wrong_request(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert cli.main(["compare", write("official", 1), str(tmp_path / "empty")]) == ExitCode.USAGE
    assert cli.main(["compare", write("again", 1), str(tmp_path / "nowhere")]) == ExitCode.USAGE
    assert "no run here" in capsys.readouterr().err


def test_comparing_imports_no_engine_no_lm_eval_and_no_http_client(write: Write) -> None:
    code = (
        "import sys; from evalkit.cli import main; code = main(sys.argv[1:])\n"
        f"loaded = [m for m in {FOREIGN + HTTP!r} if m in sys.modules]\n"
        "print(f'\\nexit {code}, loaded {loaded}')"
    )
    argv = ["compare", write("official", 1), write("new", 2)]
    out = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "exit 0, loaded []"


def test_runs_whose_answers_nobody_rated_are_compared_but_give_no_estimate(
    made: ModuleType, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for name, seed in (("official", 1), ("new", 2)):
        base = np.arange(8.0).reshape(4, 2, 1) % 5 + seed
        run = made.make_run(name, seed=seed, marks=None, scores=base)
        bare = replace(run, judgments={}, manifest=replace(run.manifest, judges={}))
        runs.append(str(made.write_run(tmp_path / name, bare)))
    assert cli.main(["compare", *runs]) == ExitCode.INVALID
    assert "no estimate: nothing that both runs have was scored; next step" in capsys.readouterr().err
