"""A proxy between a client and a model server that breaks a share of the replies, as networks and servers do.

Tests import it by its name: pytest has this folder on its path.
"""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("reset", "garbage", "empty", "storm", "error", "silence", "refusal")
STORM = 3
"""Requests that a storm of 429 takes."""


@dataclass
class FaultProxy:
    """Passes requests on to `target`, but for a share of them; use it as a context manager.

    Attributes:
        target: address of the real server.
        share: of the requests that are broken.
        seed: of the dice.
        faults: kinds of faults.
        done: how many of each kind were made; "none" for requests that were passed on.
    """

    target: str
    share: float = 0.3
    seed: int = 20240824
    faults: tuple[str, ...] = FAULTS
    done: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> FaultProxy:
        proxy = self
        self._dice, self._lock, self._storm = random.Random(self.seed), threading.Lock(), 0

        class Handler(_Handler):
            owner = proxy

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def fault(self) -> str:
        """Return the fault of the next request, or "none"."""
        with self._lock:
            if self._storm:
                self._storm -= 1
                kind = "storm"
            else:
                kind = self._dice.choice(self.faults) if self._dice.random() < self.share else "none"
                self._storm = STORM - 1 if kind == "storm" else 0
            self.done[kind] += 1
        return kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    owner: FaultProxy

    def do_GET(self) -> None:
        self._pass(None)

    def do_POST(self) -> None:
        self._pass(self.rfile.read(int(self.headers.get("content-length", 0))))

    def _pass(self, body: bytes | None) -> None:
        fault = self.owner.fault()
        fault = "garbage" if fault == "refusal" and body is None else fault  # a page has nothing to refuse
        if fault == "error":
            self._send(500, b"<html>Internal Server Error</html>")
        elif fault == "storm":
            self._send(429, b'{"error": {"message": "Too many requests"}}', {"retry-after": "0"})
        elif fault == "silence":
            self.close_connection = True  # without a word; one that stays open is a matter of `timeout_s` alone
        elif fault == "garbage":
            self._send(200, b'{"choices": [{"text": " Paris", "logpro')
        elif fault == "empty":
            self._send(200, b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}')
        elif fault == "refusal":
            self._send(200, json.dumps(_refusal(self.path)).encode())
        else:
            status, data = self._forward(body)
            if fault == "reset":
                self._cut(data)
            else:
                self._send(status, data)

    def _forward(self, body: bytes | None) -> tuple[int, bytes]:
        headers = {name: self.headers[name] for name in ("content-type", "authorization") if self.headers[name]}
        request = urllib.request.Request(self.owner.target + self.path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=600) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        try:
            self.send_response(status)
            for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            self.close_connection = True

    def _cut(self, data: bytes) -> None:
        """Send half of a body, then reset the connection."""
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _refusal(path: str) -> dict[str, object]:
    words = "I cannot help with that."
    said = {"message": {"role": "assistant", "content": None, "refusal": words}} if "chat" in path else {"text": words}
    choice = {"index": 0, "finish_reason": "content_filter", "logprobs": None, **said}
    return {"model": "toy", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 6}}
