"""A judge behind a real HTTP server: `openai:MODEL`, and a connection on which every second thing goes wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from evalkit.cli import main
from evalkit.errors import ExitCode
from evalkit.records import text_digest
from evalkit.store import read_judgments, read_manifest

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
KEY = "k-not-to-be-found"
TASK = "mt-bench"
SENTENCES = "It has a few sentences. None of them is long. They all end with a dot."
TEXTS = [f"Answer {at}. {SENTENCES} So much for {at}. And it goes on a little." for at in range(9)]


def loaded(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def judging_server(say: Any) -> Any:
    """A real HTTP server whose model grades with `say(user text)`; everything else it does as a toy does."""
    pytest.importorskip("httpx")
    servers, brains = loaded("model_server"), loaded("brains")

    class Server(servers.ModelServer):
        def _complete(self, path: str, body: Any) -> Any:
            reply = super()._complete(path, {**body, "max_tokens": min(int(body.get("max_tokens", 32)), 8)})
            text = body["messages"][0]["content"] if "messages" in body else ""
            if not text.startswith("You grade"):
                return reply
            said = say(body["messages"][1]["content"], len(body["messages"]))
            if said in (429, 500):
                raise servers.HttpError(said, "not now")
            if said == "silence":
                time.sleep(1.5)
            if said == "nothing":
                return {**reply, "choices": [], "usage": USAGE}
            choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
            return {**reply, "choices": [{**choice, "message": {"role": "assistant", "content": said}}], "usage": USAGE}

    brain = brains.ToyBrain()
    brain.max_length = 1 << 16
    return Server(brain, servers.trtllm_serve(key=KEY), "toy")


USAGE = {"prompt_tokens": 500, "completion_tokens": 5}
FAULTS = (429, 500, "silence", "nothing")


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, list[str]]:
    """Two runs of eight questions, and the options for their definitions."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    data, definitions = tmp_path / "data", tmp_path / "definitions"
    data.mkdir()
    rows = [{"question_id": n, "category": "writing", "turns": [f"ask {n}", f"then {n}"]} for n in range(81, 89)]
    (data / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompt = {"name": "x", "type": "single", "system_prompt": "", "prompt_template": "{question}{answer}"}
    (data / "judge_prompts.jsonl").write_text(json.dumps(prompt) + "\n")
    (definitions / "tasks/mt-bench").mkdir(parents=True)
    (definitions / "judges").symlink_to(ROOT / "judges")
    for name in ("source.yaml", "mt-bench.yaml"):
        text = (ROOT / "tasks/mt-bench" / name).read_text("utf-8").replace("references: cor1", "references: null")
        if name == "source.yaml":
            text = text[: text.index("sources:")] + f"sources:\n  - local: {data}\n"
        (definitions / "tasks/mt-bench" / name).write_text(text)
    common = ["--definitions", str(definitions), "--quiet"]
    for seed, name in enumerate(("a", "b")):
        texts = ["--option", f"text={json.dumps(TEXTS)}", "--option", f"seed={seed}"]
        run = ["run", "--adapter", "scripted", "--model", name, "--task", TASK, "--output", str(tmp_path / name)]
        assert main([*run, *texts, *common]) == 0
    return tmp_path / "a", tmp_path / "b", common


def rated(text: str, _messages: int) -> str:
    return f"Seen. [[{1 + int(text_digest(text)[:4], 16) % 10}]]"


def judge(runs: tuple[Path, ...], common: list[str], *options: str) -> int:
    words = ["judge", *map(str, runs), "--profile", "evalkit-rating", "--judge", "openai:toy", *options]
    return main([*words, *common])


def test_a_judge_is_named_by_one_word_and_found_by_the_environment(answers, monkeypatch, capsys):
    a, b, common = answers
    with judging_server(rated) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge((a, b), common) == 0
        graded = [body for _, body in server.bodies if "You grade" in str(body.get("messages"))]
        assert all(body["temperature"] == 0 for body in graded)
        keys = {found.key for run in (a, b) for found in read_judgments(run, TASK)}
        assert len(graded) == len(keys)
    for run in (a, b):
        found = read_judgments(run, TASK)
        assert [one.status for one in found] == ["ok"] * 16
        assert all(one.details["completion_tokens"] == 5 for one in found)
        said = read_manifest(run).judges[TASK]
        assert (said.identity.model, said.identity.adapter) == ("toy", "openai_server")
    files = [path for path in a.parent.rglob("*") if path.is_file()]
    assert not [path for path in files if KEY in path.read_text("utf-8", "replace")]
    assert KEY not in "".join(capsys.readouterr())


def test_no_judgment_is_lost_on_a_broken_line(answers, monkeypatch):
    a, b, common = answers
    times: Counter[str] = Counter()
    broken = True

    def say(text: str, messages: int) -> Any:
        """Half of the questions meet a fault; of these every second one meets it again when it is asked again."""
        way = int(text_digest(text)[:4], 16) % 16
        times[text] += 1
        if broken and way < 8 and (times[text] == 1 or way % 2):
            return FAULTS[way // 2]
        if way in (8, 9) and messages == 2:
            return "I would rather not say a number."
        return "Still nothing." if way == 9 else rated(text, messages)

    quick = ["retries=1", "backoff_s=0", "timeout_s=1", "concurrency=4", "scoring=none"]
    options = [word for one in quick for word in ("--option", one)]
    with judging_server(say) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge((a, b), common, *options) == 0
        first = Counter(one.status for run in (a, b) for one in read_judgments(run, TASK))
        assert sum(first.values()) == 32, "every judgment has a line, whatever became of it"
        assert {"ok", "api_error", "unparsed"} <= first.keys()
        broken = False
        assert judge((a, b), common, *options, "--retry-failed") == 0
    then = Counter(one.status for run in (a, b) for one in read_judgments(run, TASK))
    assert sum(then.values()) == 32
    assert then["api_error"] == 0
    assert then["ok"] == 32 - then["unparsed"] - then["refused"]
    assert then["unparsed"] == first["unparsed"]


def test_a_cap_holds_against_a_server(answers, monkeypatch, capsys):
    a, b, common = answers
    with judging_server(rated) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge((a, b), common, "--max-calls", "7", "--option", "concurrency=1") == ExitCode.FAILED
        assert "at most 7 questions" in capsys.readouterr().err
        graded = [body for path, body in server.bodies if "You grade" in str(body.get("messages"))]
        assert len(graded) == 7
