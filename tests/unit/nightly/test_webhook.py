from __future__ import annotations

import hashlib
import hmac
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from evalkit.errors import StoreError, UsageError
from evalkit.nightly.report import checked_url, deliver, shown, signature


@pytest.fixture
def receiver():
    """A real server; `answers` are its status codes in order, `got` what it received."""
    got, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(SimpleNamespace(headers=dict(self.headers), body=body, method="POST"))
            status = answers.pop(0) if answers else 200
            self.send_response(status)
            if status in (301, 302, 307):
                self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
            self.end_headers()

        def do_GET(self):
            got.append(SimpleNamespace(headers=dict(self.headers), body=b"", method="GET"))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}/hook", got=got, answers=answers)
    server.shutdown()
    thread.join()
    server.server_close()


def post(receiver, **given):
    waits = []
    attempts = deliver(
        receiver.url,
        {"b": "ü", "a": 1},
        delivery="abc",
        wait=waits.append,
        now=lambda: 1_700_000_000.9,
        **given,
    )
    return attempts, waits


def test_the_body_is_signed_and_a_receiver_can_check_it(receiver):
    assert post(receiver, secret="s3cret") == (1, [])
    (request,) = receiver.got
    assert json.loads(request.body) == {"a": 1, "b": "ü"}
    timestamp = request.headers["X-Evalkit-Timestamp"]
    assert timestamp == "1700000000"
    made = hmac.new(b"s3cret", f"{timestamp}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert request.headers["X-Evalkit-Signature-256"] == f"sha256={made}"
    assert signature("other", timestamp, request.body) != f"sha256={made}"
    assert signature("s3cret", timestamp, request.body + b" ") != f"sha256={made}"
    assert request.headers["Content-Type"] == "application/json"


def test_without_a_secret_nothing_is_signed(receiver):
    post(receiver)
    assert "X-Evalkit-Signature-256" not in receiver.got[0].headers


def test_it_tries_again_with_growing_waits_and_one_delivery_number(receiver):
    receiver.answers += [503, 429, 500]
    assert post(receiver) == (4, [1.0, 2.0, 4.0])
    assert {request.headers["X-Evalkit-Delivery"] for request in receiver.got} == {"abc"}


def test_it_gives_up_and_says_what_was_seen(receiver):
    receiver.answers += [503] * 9
    with pytest.raises(StoreError, match=r"not delivered after 5 attempt\(s\): HTTP 503"):
        post(receiver)
    assert len(receiver.got) == 5


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_a_refusal_is_not_repeated(receiver, status):
    receiver.answers.append(status)
    with pytest.raises(StoreError, match=f"HTTP {status}"):
        post(receiver)
    assert len(receiver.got) == 1


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_not_followed(receiver, status):
    receiver.answers.append(status)
    with pytest.raises(StoreError, match=f"HTTP {status}"):
        post(receiver, secret="s")
    assert [request.method for request in receiver.got] == ["POST"]


def test_nobody_there(receiver):
    with pytest.raises(StoreError, match=r"webhook http://127\.0\.0\.1:1/\.\.\.: not delivered after 2"):
        deliver("http://127.0.0.1:1/secret-path", {}, delivery="x", attempts=2, wait=lambda _: None)


def test_no_secret_is_shown():
    assert shown("https://user:pw@chat.example:8443/hooks/T0K3N?sig=1#f") == "https://chat.example:8443/..."
    for url in ("file:///etc/passwd", "ftp://x/y", "https://", "hook"):
        with pytest.raises(UsageError, match="no http or https URL"):
            checked_url(url)


def test_a_night_tells_once(night, receiver, monkeypatch):
    monkeypatch.setenv("HOOK_SECRET", "s3cret")
    file = night.suite({"good": night.candidate("good")})
    more = ("--webhook", receiver.url, "--webhook-secret", "HOOK_SECRET")
    assert night.run(file, *more)[0] == 0
    assert night.run(file, *more)[0] == 0  # read again, not told again
    (request,) = receiver.got
    told = json.loads(request.body)
    assert (told["outcome"], told["exit_code"], told["night"]) == ("OK", 0, "2026-03-01")
    assert told["recipes"][0]["endpoints"]["mmlu"]["watch"]["state"] == "OK"
    assert re.match("small, night 2026-03-01, margin [0-9.]+ points: OK good", told["line"])
    assert request.headers["X-Evalkit-Signature-256"].startswith("sha256=")


def test_a_deaf_receiver_changes_no_outcome(night, receiver, monkeypatch):
    receiver.answers.append(404)
    code, (result,), error = night.run(night.suite({"good": night.candidate("good")}), "--webhook", receiver.url)
    assert (code, result["outcome"]) == (0, "OK")
    assert "WARNING: webhook" in error


def test_a_secret_that_is_not_there_is_refused_before_anything_is_run(night):
    file = night.suite({"good": night.candidate("good")})
    code, out, error = night.run(file, "--webhook", "http://127.0.0.1:1/", "--webhook-secret", "NO_SUCH_VARIABLE")
    assert (code, out) == (2, None)
    assert "NO_SUCH_VARIABLE" in error
    assert not night.nights.exists()
