"""`run`, `judge` and `doctor --engine` against real HTTP servers: llama.cpp's own, and the doubles."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

from evalkit.assets import AssetStore
from evalkit.cli import main
from evalkit.errors import AssetError, ExitCode
from evalkit.store import read_judgments, read_run

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
MODEL = "smollm2-135m-instruct"
SECRET = "k-0123456789"


def _loaded(name):
    return importlib.import_module(name)


@pytest.fixture(scope="module", autouse=True)
def _needs():
    for package in ("httpx", "xllamacpp", "lm_eval"):
        pytest.importorskip(package)
    try:
        store = AssetStore(ROOT)
        for name in (MODEL, "mt-bench"):
            store.fetch(name)
        store.fetch("mmlu", splits=("test",))
    except AssetError as error:
        pytest.skip(f"no source of the data or the model is reachable: {error}")


@pytest.fixture(scope="module")
def definitions(tmp_path_factory):
    """The project's own definitions with a task of six letters' questions added."""
    root = tmp_path_factory.mktemp("definitions")
    for name in ("tasks", "judges"):
        shutil.copytree(ROOT / name, root / name)
    text = (root / "tasks/mmlu/mmlu-0shot.yaml").read_text("utf-8").replace("mmlu-0shot", "mmlu-six", 1)
    subjects = ["anatomy", "astronomy", "virology", "marketing", "philosophy", "sociology"]
    (root / "tasks/mmlu/mmlu-six.yaml").write_text(f"{text}items_per_subject: 1\nsubjects: {subjects}\n", "utf-8")
    return root


@pytest.fixture(scope="module")
def llama():
    server = _loaded("llama_server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THE_KEY", server.KEY)
        with server.llama_server(AssetStore(ROOT).fetch(MODEL).path, MODEL, context=1024) as address:
            yield address


def run(*words: object) -> int:
    return main([str(word) for word in words])


def files_hold(folder: Path, text: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text in path.read_text("utf-8", "replace")]


def test_mmlu_through_llama_cpp_and_through_its_server_are_the_same_numbers(definitions, llama, tmp_path, capsys):
    common = ["--model", MODEL, "--task", "mmlu-six", "--definitions", definitions, "--quiet"]
    inside = ["--option", "threads=1", "--option", "max_length=1024", "--device", "cpu"]
    assert run("run", "--adapter", "llama_cpp", *inside, *common, "--output", tmp_path / "a") == 0
    served = [f"base_url={llama}", "api_key_env=THE_KEY", "concurrency=1"]
    options = [word for option in served for word in ("--option", option)]
    assert run("run", "--adapter", "openai_server", *options, *common, "--output", tmp_path / "b") == 0
    left, right = (read_run(tmp_path / name) for name in "ab")
    assert len(left.records["mmlu-six"]) == 6
    pairs = zip(*(sorted(found.records["mmlu-six"], key=lambda one: one.key) for found in (left, right)), strict=True)
    for one, other in pairs:
        assert one.status == other.status == "ok"
        assert one.reply == other.reply
    assert right.manifest.engine.fidelity == "engine"
    assert right.manifest.engine.options["scoring"] == "next-token"
    assert right.manifest.requested["engine"]["options"]["api_key_env"] == "THE_KEY"
    assert files_hold(tmp_path, _loaded("llama_server").KEY) == []

    loud = [word for word in common if word != "--quiet"]
    capsys.readouterr()
    assert run("run", "--adapter", "llama_cpp", *inside, *loud, "--output", tmp_path / "a") == 0
    assert "complete, reused" in capsys.readouterr().err
    assert run("run", "--adapter", "openai_server", *options, *loud, "--output", tmp_path / "b") == 0
    said = capsys.readouterr().err
    assert "complete, reused" not in said, "what is served today must be asked, for it may be something else"
    assert "the weights cannot be read over HTTP" in said
    other = [*options, "--option", f"weights_sha256={'ab' * 32}"]
    assert run("run", "--adapter", "openai_server", *other, *loud, "--output", tmp_path / "b") == ExitCode.USAGE
    assert "engine.weights_sha256" in capsys.readouterr().err
    assert _loaded("llama_server").KEY not in "".join(capsys.readouterr())


def test_doctor_says_what_an_engine_is_how_it_scores_and_what_to_mind(definitions, llama, tmp_path, capsys):
    suite = tmp_path / "suite.yaml"
    engine = {"adapter": "openai_server", "model": MODEL, "options": {"base_url": llama, "api_key_env": "THE_KEY"}}
    suite.write_text(
        json.dumps(
            {
                "name": "s",
                "policy": "demo",
                "engine": engine,
                "baseline": {"name": "base"},
                "candidates": [{"name": "candidate", "options": {"quantization": "Q4_1 of ours"}}],
                "tasks": ["mmlu-six"],
                "definitions": str(definitions),
            }
        )
    )
    assert run("doctor", "--engine", f"{suite}#candidate") == 0
    text = capsys.readouterr().out
    for words in ("fidelity", "engine", "scoring", "next-token", "Q4_1, kv_cache", "forced token", "answer a message"):
        assert words in text
    assert "warning: the weights cannot be read over HTTP" in text
    assert "warning: quantization 'Q4_1 of ours' was declared; the server says 'Q4_1'" in text
    assert run("doctor", "--engine", f"{suite}#base", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["scoring"], found["identity"]["fidelity"], found["sound"]) == ("next-token", "engine", True)
    assert run("doctor", "--engine", f"{suite}#candidat") == ExitCode.USAGE
    assert "did you mean 'candidate'" in capsys.readouterr().err


def test_doctor_fails_where_an_engine_does_nothing(definitions, tmp_path, capsys):
    servers = _loaded("model_server")
    with servers.ModelServer(_loaded("brains").ToyBrain(), servers.trtllm_serve(logprobs="refused"), "toy") as server:
        server._generate = lambda ids, body, limit: ([], "", "error") if limit > 1 and limit < 17 else ([], "", "stop")
        suite = tmp_path / "suite.yaml"
        options = {"base_url": server.url, "retries": 0, "backoff_s": 0}
        engine = {"adapter": "openai_server", "model": "toy", "options": options}
        suite.write_text(
            json.dumps(
                {
                    "name": "s",
                    "policy": "demo",
                    "engine": engine,
                    "baseline": {"name": "base"},
                    "candidates": [{"name": "other"}],
                    "tasks": ["mmlu-six"],
                    "definitions": str(definitions),
                }
            )
        )
        assert run("doctor", "--engine", f"{suite}#base") == ExitCode.FAILED
    caught = capsys.readouterr()
    assert "logprobs is not supported" in caught.out
    assert "neither scores nor generates" in caught.err


def test_answers_and_ratings_come_from_servers_with_a_key_that_no_file_holds(tmp_path, monkeypatch, capsys):
    servers, brains = _loaded("model_server"), _loaded("brains")
    monkeypatch.setenv("THE_KEY", SECRET)
    toy, judge = brains.ToyBrain(), _judge(brains)
    toy.max_length = judge.max_length = 1 << 16
    with (
        servers.ModelServer(toy, servers.trtllm_serve(key=SECRET), "toy") as answers,
        servers.ModelServer(judge, servers.vllm(key=SECRET), "judge") as ratings,
    ):
        served = ["--option", "api_key_env=THE_KEY", "--option", "concurrency=2", "--quiet"]
        at = ["--adapter", "openai_server", "--model", "toy", "--option", f"base_url={answers.url}", *served]
        assert run("run", *at, "--task", "mt-bench-mini", "--output", tmp_path / "a") == 0
        found = read_run(tmp_path / "a").records["mt-bench-mini"]
        assert len(found) == 8
        assert all(record.status == "ok" and len(record.reply.turns) == 2 for record in found)
        asked = [body for path, body in answers.bodies if "chat" in path and len(body["messages"]) == 3]
        assert len(asked) == 8, "second turns carry the first"

        at = ["--adapter", "openai_server", "--model", "judge", "--option", f"base_url={ratings.url}", *served]
        assert run("judge", tmp_path / "a", "--profile", "evalkit-rating", *at) == 0
        given = read_judgments(tmp_path / "a", "mt-bench-mini")
        asked = [one for one in given if one.status != "rule"]
        assert len(given) == 16
        assert asked
        assert {(one.status, one.score, one.text) for one in asked} == {("ok", 7.0, "Rating: [[7]]")}

        shutil.copytree(tmp_path / "a", tmp_path / "b", ignore=shutil.ignore_patterns("judgments*", "SHA256SUMS"))
        manifest = json.loads((tmp_path / "b" / "manifest.json").read_text("utf-8"))
        (tmp_path / "b" / "manifest.json").write_text(json.dumps({**manifest, "judges": {}}), "utf-8")
        assert (
            run("judge", tmp_path / "b", "--profile", "evalkit-rating-logprob", *at, "--option", "scoring=next-token")
            == 0
        )
        weighed = [one for one in read_judgments(tmp_path / "b", "mt-bench-mini") if one.status != "rule"]
        assert {one.status for one in weighed} == {"ok"}
        assert all(1.0 <= one.score <= 10.0 for one in weighed)
    assert files_hold(tmp_path, SECRET) == []
    assert SECRET not in "".join(capsys.readouterr())


def _judge(brains):
    class Judge(brains.ToyBrain):
        """Rates everything 7 when it is asked in messages; in texts it is a toy like the other."""

        def next(self, ids):
            tail = ids[-40:]
            begin = max((place for place, token in enumerate(tail) if token == self.start), default=len(tail))
            said = "".join(self.pieces[token] for token in tail[begin + 1 :])
            if not said.startswith("assistant\n"):
                return super().next(ids)
            words = [*self.encode("Rating: [[7]]", False), *self.ends]
            place = len(self.encode(said.removeprefix("assistant\n"), False))
            numbers = super().next(ids) - 30.0
            numbers[words[min(place, len(words) - 1)]] = -1e-6
            return numbers

    return Judge()
