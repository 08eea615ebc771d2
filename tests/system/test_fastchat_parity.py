"""FastChat's own `show_result` and evalkit's FastChat aggregation give the same numbers from the same files."""

from __future__ import annotations

import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from evalkit.benchmarks.mt_bench import FastChatTemplate
from evalkit.errors import UsageError
from evalkit.interop.fastchat_export import fastchat_means, fastchat_wins
from evalkit.interop.fastchat_rows import read_rows

pytestmark = pytest.mark.system

RELEASE = "fschat==0.2.36"
DRIVER = """
import argparse, sys
import pandas as pd
pd.set_option("display.precision", 15)
pd.set_option("display.width", 1000)
pd.set_option("display.max_rows", 1000)
pd.set_option("display.max_columns", 100)
from fastchat.llm_judge import show_result
mode, file = sys.argv[1:3]
baseline = sys.argv[3] if len(sys.argv) > 3 else None
given = argparse.Namespace(
    bench_name="mt_bench", input_file=file, judge_model="gpt-4", baseline_model=baseline, model_list=None, mode=mode,
)
if mode == "single":
    show_result.display_result_single(given)
else:
    show_result.display_result_pairwise(given)
"""


@pytest.fixture(scope="module")
def fastchat(tmp_path_factory) -> Path:
    """FastChat in a folder of its own, without what it depends on."""
    pytest.importorskip("pandas")
    folder = tmp_path_factory.mktemp("fastchat")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    done = subprocess.run([*command, "--target", str(folder), RELEASE], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{RELEASE} cannot be installed: {done.stderr.strip()[-200:]}")
    return folder


def shown(fastchat: Path, *words: object) -> str:
    command = [sys.executable, "-W", "ignore", "-c", DRIVER, *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(fastchat), "PATH": "/usr/bin:/bin"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def importable(fastchat, monkeypatch):
    """FastChat can be imported during a test, and is forgotten after it."""
    monkeypatch.syspath_prepend(str(fastchat))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "fastchat"]:
        del sys.modules[name]


@pytest.mark.usefixtures("importable")
def test_a_conversation_is_written_as_fastchat_writes_it():
    template = FastChatTemplate("vicuna_v1.1")
    talk = importlib.import_module("fastchat.conversation").get_conv_template("vicuna_v1.1")
    for role, text in zip(talk.roles * 2, ("Hello?", "Hi.", "And now?", None), strict=True):
        talk.append_message(role, text)
    assert template.render(["Hello?", "And now?"], ["Hi."]) == talk.get_prompt()
    assert template.render(["Hello?"], []).endswith("USER: Hello? ASSISTANT:")
    assert FastChatTemplate("zero_shot").stop == ("###",)
    assert FastChatTemplate("aquila").stop == ("</s>", "[UNK]")
    with pytest.raises(UsageError, match=r"did you mean 'vicuna_v1\.1'"):
        FastChatTemplate("vicuna_v1.2")


def write(file: Path, rows: list[dict]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def ratings(seed: int, *, dirty: bool) -> list[dict]:
    dice = random.Random(seed)
    rows = [
        {
            "question_id": number,
            "model": model,
            "judge": ["gpt-4", "single-v1"],
            "user_prompt": "",
            "judgment": "",
            "score": dice.choice((5, 6, 7, 7.5, 8, 9, 10)),
            "turn": turn,
            "tstamp": 1.0,
        }
        for model in ("alpha-7b", "beta-13b", "gamma")
        for number in range(81, 161)
        for turn in (1, 2)
    ]
    if dirty:
        for row in dice.sample(rows, 40):
            row["score"] = -1
        rows += dice.sample(rows, 25)
        rows += [{**row, "judge": ["other", "x"], "score": 1} for row in dice.sample(rows, 25)]
    return rows


def table(text: str, name: str) -> dict[str, list[float]]:
    """Return the numbers behind each model of the table that begins with a title."""
    found: dict[str, list[float]] = {}
    part = text.split(name, 1)[1].split("##########", 1)[1] if name else text
    for line in part.splitlines():
        words = line.split()
        if words and words[0] in ("alpha-7b", "beta-13b", "gamma", "base"):
            found[words[0]] = [float(word) for word in words[1:]]
        if line.startswith("##########") and found:
            break
    return found


@pytest.mark.parametrize("dirty", [False, True])
def test_single_answers(fastchat, tmp_path, dirty):
    file = write(tmp_path / "single.jsonl", ratings(5, dirty=dirty))
    text = shown(fastchat, "single", file)
    means = {mean.model: mean for mean in fastchat_means(read_rows(file))}
    parts = {"First turn": lambda m: m.turns[1], "Second turn": lambda m: m.turns[2], "Average": lambda m: m.average}
    for title, of in parts.items():
        theirs = table(text, title)
        assert theirs.keys() == means.keys()
        for model, mean in means.items():
            assert theirs[model][-1] == pytest.approx(of(mean), abs=1e-9)
    hidden = [(mean.dropped > 0, mean.duplicates > 0, len(mean.judges) > 1) for mean in means.values()]
    assert set(hidden) == {(dirty, dirty, dirty)}  # what the averages of dirty files hide is said


def games(seed: int) -> list[dict]:
    dice = random.Random(seed)
    winners = ("model_1", "model_2", "tie", "error")
    return [
        {
            "question_id": number,
            "model_1": model,
            "model_2": "base",
            "g1_winner": dice.choice(winners),
            "g2_winner": dice.choice(winners),
            "judge": ["gpt-4", "pair-v2"],
            "g1_user_prompt": "",
            "g1_judgment": "",
            "g2_user_prompt": "",
            "g2_judgment": "",
            "turn": turn,
            "tstamp": 1.0,
        }
        for model in ("alpha-7b", "gamma")
        for number in range(81, 161)
        for turn in (1, 2)
    ]


@pytest.mark.parametrize(("mode", "baseline"), [("pairwise-baseline", "base"), ("pairwise-all", None)])
def test_pairs(fastchat, tmp_path, mode, baseline):
    file = write(tmp_path / "pair.jsonl", games(9))
    theirs = table(shown(fastchat, mode, file, *([baseline] if baseline else [])), "")
    ours = fastchat_wins(read_rows(file), baseline)
    assert theirs.keys() == {row.model for row in ours}
    for row in ours:
        numbers = [row.win, row.loss, row.tie, row.win_rate, row.loss_rate, row.win_rate_adjusted]
        assert theirs[row.model] == pytest.approx(numbers, abs=1e-9)
        assert row.dropped > 0
