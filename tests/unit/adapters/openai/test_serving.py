"""Servers that evalkit starts: real processes, real ports, and nothing left of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytest.importorskip("httpx")

from evalkit.adapters.base import Resources, ScoreReply, ScoreRequest
from evalkit.adapters.openai.serving import HOST, PROGRAMS, Serve, Server, owned_by
from evalkit.adapters.registry import load_engine
from evalkit.assets import AssetStore
from evalkit.configuration import validate
from evalkit.errors import ConfigError, EngineError, UsageError
from evalkit.suite import EngineSpec

PROGRAM = Path(__file__).resolve().parents[3] / "started_server.py"
REQUESTS = [
    ScoreRequest(context=f"Count on: two, {word},", continuations=(" four", " five")) for word in ("three", "no")
]


def words(*more: str) -> tuple[str, ...]:
    return (sys.executable, str(PROGRAM), "{port}", "{model}", *more)


def serve(*more: str, **fields) -> Serve:
    return Serve(kind="command", command=words(*more), **fields)


@pytest.fixture
def weights(tmp_path) -> Path:
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def begin(weights):
    """Load an engine whose server evalkit starts; it is closed with the test."""
    made = []

    def start(*more: str, **fields):
        section = {"kind": "command", "command": list(words(*more)), "healthy_s": 120.0, **fields}
        options = {"serve": section, "retries": 0, "backoff_s": 0.001, "timeout_s": 60.0}
        spec = EngineSpec(name="served", adapter="openai_server", model=str(weights), options=options)
        made.append(load_engine(spec, Resources(assets=AssetStore(PROGRAM.parents[1]))))
        return made[-1]

    yield start
    for engine in made:
        engine.close()


def running(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if mark in line and state != "Z" and int(entry.name) != os.getpid():
                found.append(int(entry.name))
    return found


def gone(mark: str, patience_s: float = 40.0) -> bool:
    end = time.monotonic() + patience_s
    while running(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def test_a_started_server_answers_and_leaves_nothing_behind(begin, weights, tmp_path):
    mark = f"mark-{tmp_path.name}-child"
    engine = begin(f"child={mark}", env={"SERVED_WITH": "care"})
    assert len(running(mark)) >= 2, "the server and its child"
    assert all(isinstance(reply, ScoreReply) for _, reply in engine.score(REQUESTS))
    identity = engine.identity
    assert identity.options["serve"]["env"] == {"SERVED_WITH": "care"}
    assert len(identity.weights_sha256) == 64
    assert "weights cannot be read" not in " ".join(engine.warnings)
    (log,) = engine.logs
    assert "with care" in log.read_text()
    engine.close()
    assert gone(mark), "processes that the server started end with it"
    again = begin(env={"SERVED_WITH": "care"})
    other = begin(env={"SERVED_WITH": "less care"})
    changed = identity.options | {"serve": {**identity.options["serve"], "command": list(words())}}
    assert again.identity.options == changed, "another port is the same engine"
    assert other.identity.sha256 != again.identity.sha256
    (weights / "model.safetensors").write_bytes(b"others")
    assert begin(env={"SERVED_WITH": "care"}).identity.weights_sha256 != again.identity.weights_sha256


def test_a_server_that_dies_is_started_again_and_only_what_is_missing_is_asked(begin, tmp_path):
    once = tmp_path / "died"
    calm = begin()
    expected = dict(calm.score(REQUESTS * 40))
    engine = begin("die-after=120", f"once={once}")
    found = dict(engine.score(REQUESTS * 40))
    assert once.exists(), "it died"
    assert found == expected
    assert "the server was started again 1 times" in engine.warnings
    assert len(engine.logs) == 2
    assert "illegal memory access" in engine.logs[0].read_text()


def test_a_server_that_dies_too_often_is_an_error_with_its_last_words_and_nothing_is_counted_as_an_answer(begin):
    engine = begin("die-after=120", restarts=0)
    seen = []
    with pytest.raises(EngineError, match=r"ended by itself \(exit code 1\); its last words: .*illegal memory access"):
        seen.extend(engine.score(REQUESTS * 100))
    assert all(isinstance(reply, ScoreReply) for _, reply in seen)


def test_a_server_that_ends_or_never_gets_healthy_is_an_error_with_its_last_words(weights, tmp_path):
    with pytest.raises(EngineError, match=r"ended with exit code 1 before it was healthy; its last words: .*No module"):
        Server(Serve(kind="command", command=(sys.executable, "-m", "no.such", "{port}")), str(weights), "toy")
    mark = f"mark-{tmp_path.name}-never"
    with pytest.raises(
        EngineError, match=r"not healthy after 3 s \(option healthy_s\); its last words: serving"
    ) as caught:
        Server(serve("never", mark, healthy_s=3.0), str(weights), "toy")
    assert "a1b2c3d4a1b2c3d4" not in str(caught.value), "what looks like a key is not repeated"
    assert gone(mark)
    with pytest.raises(UsageError, match="no program 'no-such-server'; next step: install the server"):
        Server(Serve(kind="vllm", program="no-such-server"), str(weights), "toy")


def test_a_taken_port_and_a_stranger_on_it_are_refused(weights):
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} is taken .*; next step: port: 0"):
            Server(serve(port=port), str(weights), "toy")
        assert owned_by(port, os.getsid(0)) is True
        assert owned_by(port, 1 << 22) is False
    code = textwrap.dedent(
        f"""
        import subprocess, sys, time
        subprocess.Popen([sys.executable, {str(PROGRAM)!r}, sys.argv[1], "x", "stranger"], start_new_session=True)
        time.sleep(600)
        """
    )
    try:
        with pytest.raises(EngineError, match="is answered by another process than the one that was started"):
            Server(Serve(kind="command", command=(sys.executable, "-c", code, "{port}"), healthy_s=60.0), "x", "toy")
    finally:
        for pid in running("stranger"):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_when_evalkit_is_killed(weights, tmp_path, how):
    mark = f"mark-{tmp_path.name}-{how.name}"
    code = textwrap.dedent(
        f"""
        import time
        from evalkit.adapters.openai.serving import Serve, Server
        server = Server(Serve(kind="command", command={words(f"child={mark}")!r}), {str(weights)!r}, "toy")
        print("up", flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"up\n"
        assert running(mark)
        process.send_signal(how)
        process.wait(30)
    assert gone(mark)


def test_every_known_server_is_given_model_port_gpus_and_length():
    for kind in PROGRAMS:
        found = Serve(kind=kind, program="/opt/bin/it", gpus=(2, 3), args=("--more",)).words("/m", "name", 81, 512)
        assert found[0] == "/opt/bin/it"
        assert {"/m", "81", HOST} <= set(found)
        assert found[-1] == "--more"
        if kind in ("vllm", "trtllm-serve", "sglang"):
            assert found.count("2") == 1
        if kind != "transformers":
            assert "512" in found


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"kind": "command"}, "command is for kind: command, which needs it"),
        ({"kind": "vllm", "command": ["x", "{port}"]}, "command is for kind: command"),
        ({"kind": "command", "command": ["x"]}, "command must name {port}"),
        ({"kind": "vllm", "env": {"HF_TOKEN": "hf_secret"}}, "HF_TOKEN: servers inherit secrets"),
        ({"kind": "vlm"}, "unknown kind 'vlm'; did you mean 'vllm'"),
    ],
)
def test_a_section_that_cannot_work_is_refused_by_name(section, fault):
    with pytest.raises(ConfigError, match=fault) as caught:
        validate(Serve, section, "suite.yaml")
    assert "hf_secret" not in str(caught.value)
