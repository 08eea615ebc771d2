"""Canary keys in the environment, the configuration, URLs, headers and what a server says: no output holds any.

Real programs of every verb, a real HTTP server behind a proxy that repeats what it was sent, and one search through all
that was written or shown.
"""

from __future__ import annotations

import base64
import html
import importlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from evalkit.assets import AssetStore
from evalkit.cli import main
from evalkit.errors import AssetError
from evalkit.redaction import REDACTED, remember_secrets

pytestmark = [pytest.mark.system, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).resolve().parents[2]
KEY = "cnry-served-1/2+3=4"
PASSWORD = 'cnry-"quoted"&<5>'
CANARIES = {
    "THE_KEY": KEY,
    "DATABASE_PASSWORD": PASSWORD,
    "HF_TOKEN": "hf_canaryCanaryCanary01",
    "EVALKIT_SIGNING_KEY_PASSWORD": "cnry-passphrase-6",
}
PLANTED = ("sk-configcanary0123456789", "urluser:urlpassword7", "querycanary8")
"""In files that the user writes: no environment knows them."""


def _loaded(name: str) -> Any:
    return importlib.import_module(name)


class _Repeater(BaseHTTPRequestHandler):
    """Passes requests on, and answers every fourth chat with an error that repeats all it was sent, and more."""

    protocol_version = "HTTP/1.1"
    target = ""
    chats = 0

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body)
        if "chat" in self.path and asked.get("max_tokens", 0) > 40:
            type(self).chats += 1
            if self.chats % 4 == 0:
                sent = "; ".join(f"{name}: {value}" for name, value in self.headers.items())
                at = f"http://{PLANTED[1]}@host{self.path}?token={PLANTED[2]}"
                said = {"error": {"message": f"cannot read {sent} at {at} {PASSWORD}"}}
                self._answer(400, json.dumps(said).encode())
                return
        self._pass_on(body)

    def _pass_on(self, body: bytes | None) -> None:
        wanted = ("Authorization", "Content-Type")
        headers = {name: self.headers[name] for name in wanted if name in self.headers}
        request = urllib.request.Request(self.target + self.path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                self._answer(reply.status, reply.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.read())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def address() -> Iterator[str]:
    pytest.importorskip("httpx")
    try:
        AssetStore(ROOT).fetch("mt-bench")
    except AssetError as error:
        pytest.skip(f"no source of the questions is reachable: {error}")
    servers, brain = _loaded("model_server"), _loaded("brains").ToyBrain()
    brain.max_length = 1 << 16
    with servers.ModelServer(brain, servers.trtllm_serve(key=KEY), "toy") as served:
        handler = type("Handler", (_Repeater,), {"target": served.url, "chats": 0})
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    yield
    remember_secrets({})


def forms(canary: str) -> set[str]:
    """What would give a canary away."""
    return {
        canary,
        json.dumps(canary)[1:-1],
        quote(canary, safe=""),
        html.escape(canary),
        base64.b64encode(canary.encode()).decode().rstrip("="),
    }


def told(folder: Path, shown: str) -> list[str]:
    """Every place where a canary can be read."""
    texts = {str(path): path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()}
    texts["stdout and stderr"] = shown
    canaries = [*CANARIES.values(), *PLANTED]
    return [f"{canary} in {place}" for place, text in texts.items() for canary in canaries if _reads(text, canary)]


def _reads(text: str, canary: str) -> bool:
    return any(form in text for form in forms(canary))


def test_the_search_itself_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(f"a {json.dumps(PASSWORD)}")
    assert told(tmp_path, quote(KEY, safe="")) == [f"{PASSWORD} in {tmp_path / 'x'}", f"{KEY} in stdout and stderr"]


def test_no_verb_writes_or_shows_a_key(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[str] = []

    def run(*words: object, code: tuple[int, ...] = (0,)) -> str:
        got = main([str(word) for word in words])
        out = capsys.readouterr()
        shown.append(out.out + out.err)
        assert got in code, (words, got, shown[-1][-2000:])
        return shown[-1]

    served = ["--adapter", "openai_server", "--model", "toy", "--option", f"base_url={address}"]
    served += ["--option", "api_key_env=THE_KEY", "--option", "retries=0", "--quiet", "--task", "mt-bench-mini"]
    out, options = tmp_path / "out", {"base_url": address, "api_key_env": "THE_KEY", "retries": 0}
    suite = {
        "name": "s",
        "title": f"with {PASSWORD}",
        "policy": "demo",
        "engine": {"adapter": "openai_server", "model": "toy", "options": options},
        "baseline": {"name": "official"},
        "candidates": [{"name": "candidate"}],
        "tasks": ["mt-bench-mini"],
    }
    file = tmp_path / "suite.yaml"
    file.write_text(json.dumps(suite))
    for name in ("official", "candidate"):
        run("run", f"{file}#{name}", "--output", out / name, "--quiet")
    records = (out / "official" / "records" / "mt-bench-mini.jsonl").read_text()
    assert REDACTED in records, "a server repeated what it was sent, and a failure tells of it"
    assert '"status":"failed"' in records

    # What a user types wrong is quoted in an error: the key itself in place of its variable, a login in an address.
    run("run", *served[:6], "--option", f"api_key_env={KEY}", "--task", "x", "--output", out / "no", code=(2,))
    url = f"base_url=http://{PLANTED[1]}@127.0.0.1/v1?token={PLANTED[2]}"
    run("run", *served[:4], "--option", url, "--task", "mt-bench-mini", "--output", out / "no", code=(2,))
    run("certify", "--candidate", KEY, "--policy", PASSWORD, "--baseline", PLANTED[0], code=(2,))

    suite["engine"]["options"] = {**options, "headers": {"Authorization": PLANTED[0]}}
    source = {"url": f"https://{PLANTED[1]}@127.0.0.1:9/x?token={PLANTED[2]}", "sha256": "0" * 64}
    file.write_text(json.dumps({**suite, "assets": {"mt-bench": [source]}}))
    run("certify", file, "--output", out / "suite", code=(2, 5))
    file.unlink()

    argv = ["--baseline", out / "official", "--candidate", out / "candidate", "--policy", "demo"]
    run("certify", *argv, "--output", out, "--quiet", code=(4,))
    certificate = out / "certificate.json"
    run("compare", out / "official", out / "candidate", code=(0, 4))
    run("report", certificate, "--html", out / "again.html")
    (out / "again.html").unlink()
    run("report", certificate, "--format", "json")
    for form in ("junit", "job-summary"):
        run("report", "export", out, "--format", form, "--output", tmp_path / "exported" / f"{form}.txt", code=(0, 5))
    run("sign", "keygen", tmp_path / "keys" / "me.pem")
    run("sign", out, "--key", tmp_path / "keys" / "me.pem")
    run("verify", out, "--key", tmp_path / "keys" / "me.pub.pem")
    run("verify", out, "--unsigned", "--json")
    run("report", "export", out / "official", "--format", "every-eval-ever", "--organization", "x",
        "--output", tmp_path / "eee", code=(0, 4))  # fmt: skip

    _foreign(tmp_path / "foreign")
    run("run", "import", tmp_path / "foreign" / "nel", "--format", "nel", "--output", out / "nel")
    (tmp_path / "foreign" / "nel" / "eval-1.json").unlink()

    for line in (PASSWORD, KEY):
        assert any(REDACTED in text for text in shown), line
    assert told(tmp_path, "\n".join(shown)) == []


def _foreign(folder: Path) -> None:
    """Another tool's files with keys in their configuration; the user's own, so they are searched only as imported."""
    (folder / "nel").mkdir(parents=True)
    row = {"problem_idx": 0, "repeat": 0, "reward": 1.0, "prompt": "p", "model_response": "r", "expected_answer": "r"}
    (folder / "nel" / "results.jsonl").write_text(json.dumps(row) + "\n")
    config = {"api_key": PLANTED[0], "url": f"http://{PLANTED[1]}@host/?token={PLANTED[2]}", "note": PASSWORD}
    told_by_nel = {"config": config, "benchmark": {"name": "b", "samples": 1}, "timestamp": "2026-01-01T00:00:00Z"}
    (folder / "nel" / "eval-1.json").write_text(json.dumps(told_by_nel))


def test_a_crash_shows_its_lines_without_the_key(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from evalkit import cli  # noqa: PLC0415

    def crash(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"while sending Authorization: Bearer {KEY} with {PASSWORD}")

    monkeypatch.setattr(cli.program, "main", crash)
    assert main(["list"]) == 5
    out = "".join(capsys.readouterr())
    assert "RuntimeError" in out
    assert REDACTED in out
    assert not any(_reads(out, canary) for canary in CANARIES.values())
