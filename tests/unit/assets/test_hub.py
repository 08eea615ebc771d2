"""The hub source against a small server that speaks the hub's two calls; huggingface_hub itself is real."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalkit.assets import AssetStore
from evalkit.errors import AssetError

pytest.importorskip("huggingface_hub")

MakeStore = Callable[..., AssetStore]

COMMIT = "c30699e8356da336a370243923dbaf21066bb9fe"
CONTENT = b"rows of the test split\n"


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(CONTENT)

    def answer(self, body: bytes) -> None:
        if self.path == f"/api/datasets/org/set/revision/{COMMIT}":
            body = json.dumps({"id": "org/set", "sha": COMMIT, "siblings": [], "tags": []}).encode()
            self.reply(200, body, {})
        elif self.path == f"/datasets/org/set/resolve/{COMMIT}/all/test.parquet":
            headers = {"X-Repo-Commit": COMMIT, "ETag": '"abc"', "Content-Length": str(len(CONTENT))}
            self.reply(200, body, headers)
        else:
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is given
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def source(**changes: Any) -> dict[str, Any]:
    return {"hub": "org/set", "revision": COMMIT, "files": {"all/test.parquet": None}} | changes


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_of_the_hub_is_fetched_once_and_then_needs_no_network(
    make_store: MakeStore, endpoint: str, pinned: bool
) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    declaration = {"sources": [source(files={"all/test.parquet": sha256 if pinned else None})]}
    fetched = make_store(declaration, downloads={"hub_endpoint": endpoint}).fetch("sample")
    assert fetched.path.read_bytes() == CONTENT
    assert fetched.path.name == "test.parquet"
    assert (fetched.source, fetched.revision, fetched.sha256) == ("hub org/set", COMMIT, sha256)
    assert make_store(declaration).fetch("sample") == fetched


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"files": {"all/test.parquet": "0" * 64}}, "not the declared 000"),
        ({"files": {"all/none.parquet": None}}, "the hub gave no all/none.parquet"),
        ({"hub": "org/other"}, "hub org/other: "),
    ],
)
def test_what_the_hub_does_not_have_is_said(
    make_store: MakeStore, endpoint: str, tmp_path: Path, changes: dict[str, Any], fault: str
) -> None:
    store = make_store({"sources": [source(**changes)]}, downloads={"hub_endpoint": endpoint})
    with pytest.raises(AssetError, match=fault):
        store.fetch("sample")
    assert not (tmp_path / "cache" / "assets").exists()


def test_reachable_asks_the_hub(make_store: MakeStore, endpoint: str) -> None:
    store = make_store({"sources": [source(), source(hub="org/other")]}, downloads={"hub_endpoint": endpoint})
    assert [usable for _, usable, _ in store.reachable("sample")] == [True, False]
