"""docs/mt-bench.md from top to bottom: every command of the page in its order, the judge behind a real HTTP server."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evalkit.assets import AssetStore
from evalkit.cli import main
from evalkit.errors import AssetError, ExitCode
from evalkit.records import text_digest
from evalkit.store import read_run

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "mt-bench.md").read_text("utf-8")
SENTENCES = (
    "The first thing to say is that there are several ways to look at it, and none is wrong.",
    "A careful reader will count to 17 before the end of the answer is reached at last.",
    "Some of the sentences are short, and some of them are rather long, as this one is.",
    "It helps to write down what is known, and to look at what is not known after that.",
)
TEXTS = [" ".join(SENTENCES[(at + k) % 4] for k in range(4)) + f" So the result is {at}." for at in range(7)]
SUITE = """\
name: my-suite
policy: release
definitions: ./definitions
engine: {adapter: scripted, model: m, options: {text: TEXTS}}
baseline: {name: official, options: {seed: 1}}
candidates: [{name: candidate, options: {seed: 2}}]
tasks: [mt-bench]
"""


def loaded(name: str) -> ModuleType:
    return importlib.import_module(name)


def judging_server() -> Any:
    """A server whose model grades and compares in JSON, by what it was asked."""
    pytest.importorskip("httpx")
    servers, brains = loaded("model_server"), loaded("brains")

    class Server(servers.ModelServer):
        def _complete(self, path: str, body: Any) -> Any:
            reply = super()._complete(path, {**body, "max_tokens": min(int(body.get("max_tokens", 32)), 8)})
            asked = str(body.get("messages"))
            if "JSON object" not in asked:
                return reply
            rank = int(text_digest(asked)[:4], 16)
            said = json.dumps({"reasoning": "Seen.", "rating": 4 + rank % 4, "winner": "AB"[rank % 2]})
            choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
            usage = {"prompt_tokens": 900, "completion_tokens": 20}
            return {**reply, "choices": [{**choice, "message": {"role": "assistant", "content": said}}], "usage": usage}

    brain = brains.ToyBrain()
    brain.max_length = 1 << 16
    return Server(brain, servers.trtllm_serve(), "my-judge")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the suite that the page speaks of, and two questions of each category."""
    try:
        AssetStore(ROOT).fetch("mt-bench")
    except AssetError as error:
        pytest.skip(f"no source of the questions is reachable: {error}")
    for name in ("tasks", "judges"):
        shutil.copytree(ROOT / name, tmp_path / "definitions" / name)
    task = tmp_path / "definitions/tasks/mt-bench/mt-bench.yaml"
    task.write_text(task.read_text("utf-8").replace("generations: 1", "generations: 1, per_category: 2"), "utf-8")
    (tmp_path / "suite.yaml").write_text(SUITE.replace("TEXTS", json.dumps(TEXTS)), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("evalkit ")]
    return [shlex.split(line)[1:] for line in lines]


def published(folder: Path) -> None:
    """A folder as FastChat leaves it: answers of two models to two questions, rated and compared."""
    models = ("my-model-fp8", "my-model-int4")
    rows: dict[str, list[dict[str, Any]]] = {"question.jsonl": []}
    single, pair = (rows.setdefault(f"model_judgment/gpt-4_{mode}.jsonl", []) for mode in ("single", "pair"))
    for number in (81, 101):
        rows["question.jsonl"].append({"question_id": number, "category": "writing", "turns": ["Why?", "How?"]})
        for model in models:
            said = {"question_id": number, "answer_id": "x", "model_id": model, "tstamp": 1.0}
            choices = [{"index": 0, "turns": [f"{model} says this of {number}", "and that"]}]
            rows.setdefault(f"model_answer/{model}.jsonl", []).append({**said, "choices": choices})
        for turn in (1, 2):
            common = {"question_id": number, "turn": turn, "tstamp": 1.0}
            for model in models:
                row = {**common, "model": model, "judge": ["gpt-4", "single-v1"], "user_prompt": ""}
                single.append({**row, "judgment": f"Rating: [[{turn + 5}]]", "score": turn + 5})
            games = {"g1_winner": "tie", "g2_winner": "model_1", "model_1": models[1], "model_2": models[0]}
            pair.append({**common, **games, "judge": ["gpt-4", "pair-v2"]})
    for name, found in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in found), "utf-8")


def test_the_page_can_be_followed_from_top_to_bottom(place, monkeypatch, capsys):
    asked = commands()
    assert [words[0] for words in asked].count("judge") == 4
    expected = {"judge qualify": ExitCode.REJECTED, "compare outputs/my-suite/official": ExitCode.INVALID}
    """A judge that rolls dice, and answers that are not judged yet."""
    with judging_server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        for words in asked:
            if words[:2] == ["run", "import"] and not (place / "data").exists():
                published(place / "data/mt_bench")
            code = main(words)
            said = capsys.readouterr()
            assert code == expected.get(" ".join(words[:2]), 0), (words, said.err)
            if words[0] == "compare":
                assert "Answers without a judge" in said.out
            if "--estimate" in words:
                assert re.search(r"about \d+\.\d\d at 1 and 4 per million tokens", said.out)
    base, cand = read_run(place / "outputs/my-suite/official"), read_run(place / "outputs/my-suite/candidate")
    assert [len(base.judgments["mt-bench"]), len(cand.judgments["mt-bench@evalkit-pairwise"])] == [
        16 * 2 * 3,
        16 * 2 * 2,
    ]
    again = read_run(place / "outputs/int4")
    assert set(again.judgments) == {"mt-bench", "mt-bench@fastchat-pair"}
    capsys.readouterr()
    assert main(["compare", "outputs/my-suite/official", "outputs/my-suite/candidate"]) == 0
    said = capsys.readouterr().out
    for what in ("What could still move the ratings", "besides more questions, buy", "Pairwise against the baseline"):
        assert what in said
