"""A judge behind a real HTTP server: `openai:MODEL`, and a connection on which every second thing goes wrong."""

from __future__ import annotations

import importlib
import json
import re
import threading
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
SENTENCES = (
    "It has a few sentences. None of them is long. They all end with a dot. One of them is the fourth, as it happens. "
    "Another one is there for no reason at all."
)
TEXTS = [f"Answer {at}. {SENTENCES} So much for {at}. It goes on a little, so that it can be cut." for at in range(9)]


def loaded(name: str) -> ModuleType:
    return importlib.import_module(name)


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
                return b""
            if said == "nothing":
                return {**reply, "choices": [], "usage": USAGE}
            message = {"role": "assistant", "content": None if said == "refused" else said}
            if said == "refused":
                message["refusal"] = "I do not grade answers."
            finish, written = ("length", int(body["max_tokens"])) if said == "long" else ("stop", 5)
            choice = {"index": 0, "finish_reason": finish, "logprobs": None, "message": message}
            whole = {**reply, "choices": [choice], "usage": {**USAGE, "completion_tokens": written}}
            return json.dumps(whole).encode()[:-40] if said == "cut" else whole

    brain = brains.ToyBrain()
    brain.max_length = 1 << 16
    return Server(brain, servers.trtllm_serve(key=KEY), "toy")


USAGE = {"prompt_tokens": 500, "completion_tokens": 5}
FAULTS = (429, 500, "silence", "nothing", "cut", "refused", "long")
"""Statuses, no reply in time, one without a choice, half of a JSON object, a refusal, an answer cut at its limit."""

WAYS = 2 * len(FAULTS) + 2
"""What becomes of a question: each fault once and then an answer, each for good, and no rating once and for good."""

BECOMES = {**dict.fromkeys((1, 3, 5, 7, 9), "api_error"), 10: "refused", 11: "refused", 13: "truncated", 15: "unparsed"}
"""Way to status; the others end in a rating. A refusal is an answer, and is not asked for again."""


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
    order: dict[str, int] = {}
    one_at_a_time = threading.Lock()
    broken = True

    def say(text: str, messages: int) -> Any:
        with one_at_a_time:
            way = order.setdefault(text, len(order)) % WAYS
            times[text] += 1
        if broken and way < 2 * len(FAULTS) and (times[text] == 1 or way % 2):
            return FAULTS[way // 2]
        if way >= 2 * len(FAULTS) and (messages == 2 or way % 2):
            return "I would rather not say a number."
        return rated(text, messages)

    quick = ["retries=1", "backoff_s=0", "timeout_s=600", "concurrency=4", "scoring=none"]
    options = [word for one in quick for word in ("--option", one)]
    with judging_server(say) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge((a, b), common, *options) == 0
        found = [one for run in (a, b) for one in read_judgments(run, TASK)]
        assert len(found) == 32, "every judgment has a line, whatever became of it"
        statuses = {one.key: one.status for one in found}
        assert len(statuses) == len(order) >= WAYS
        assert Counter(statuses.values()) == Counter(BECOMES.get(at % WAYS, "ok") for at in range(len(order)))
        first = Counter(one.status for one in found)
        broken = False
        assert judge((a, b), common, *options, "--retry-failed") == 0
    then = Counter(one.status for run in (a, b) for one in read_judgments(run, TASK))
    assert sum(then.values()) == 32
    assert then["api_error"] == 0
    assert then == first + Counter(ok=first["api_error"]) - Counter(api_error=first["api_error"])


def test_a_cap_holds_against_a_server(answers, monkeypatch, capsys):
    a, b, common = answers
    with judging_server(rated) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        assert judge((a, b), common, "--max-calls", "7", "--option", "concurrency=1") == ExitCode.FAILED
        assert "at most 7 questions" in capsys.readouterr().err
        graded = [body for path, body in server.bodies if "You grade" in str(body.get("messages"))]
        assert len(graded) == 7


POLICY = """\
policy_version: 1
name: own
tier: test
claims: [comparable]
endpoints:
  mt_bench: {kind: paired_mean, task: mt-bench, metric: rating, protocol: mt-bench-greedy, questions: 8, judgments: 1,
             gating: true, alpha: 0.05, margin: 4.0, planning_sd: 1.0}
assay: {required: []}
judge: {qualification: required, bars: {ranking_lower_min: 0.6, resistance_lower_min: 0.6, questions_min: 8}}
"""
SUITE = """\
name: NAME
policy: ./policy.yaml
engine: {adapter: scripted, model: m, options: {text: TEXTS}}
baseline: {name: base, options: {seed: 1}}
candidates: [{name: cand, options: {seed: 2}}]
tasks: [mt-bench]
judge: {profile: evalkit-rating, engine: {}, qualify: 8, price: [2.5, 10.0], max_cost: 5.0}
"""
ANSWER = re.compile(r"----- answer(?: 2)? -----\n(.*)\n----- end of answer(?: 2)? -----", re.DOTALL)


def knows_a_whole_answer(text: str, _messages: int) -> str:
    """Five to eight for an answer as it was given, two for anything else."""
    answer = ANSWER.findall(text)[-1]
    return f"Seen.\n[[{5 + TEXTS.index(answer) % 4 if answer in TEXTS else 2}]]"


@pytest.mark.parametrize(
    ("name", "say", "code"),
    [
        ("good", knows_a_whole_answer, ExitCode.CERTIFIED),
        ("blind", lambda text, messages: f"All the same.\n[[{4 + len(text) % 3}]]", ExitCode.INVALID),
    ],
)
def test_a_suite_is_certified_by_a_judge_on_a_server_only_if_it_qualifies(
    answers, monkeypatch, capsys, tmp_path, name, say, code
):
    *_, common = answers
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "suite.yaml").write_text(SUITE.replace("NAME", name).replace("TEXTS", json.dumps(TEXTS)))
    with judging_server(say) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        certify = ["certify", "suite.yaml", "--judge", "openai:toy", "--definitions", common[1]]
        assert main(certify) == code
    said = capsys.readouterr()
    assert "at 2.5 and 10 per million tokens" in said.err
    assert "spent so far" in said.err
    document = json.loads((tmp_path / "outputs" / name / "certificate.json").read_text("utf-8"))
    (judge_of,) = document["decision"]["judges"]
    assert (judge_of["judge"], judge_of["qualified"]) == ("toy", code == ExitCode.CERTIFIED)
    assert judge_of["qualification_sha256"] == document["qualifications"][0]["sha256"]
    codes = [reason["code"] for reason in document["decision"]["verdicts"][0]["reasons"]]
    assert codes == ([] if code == ExitCode.CERTIFIED else ["judge-unqualified"])
    assert KEY not in said.err + said.out + json.dumps(document)
