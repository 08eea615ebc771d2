"""What one request survives, what it costs, and what never shows."""

from __future__ import annotations

import json
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.transport import Secret, read_secret
from evalkit.errors import ConfigError, EngineError, UsageError

pytest.importorskip("httpx")
transport = pytest.importorskip("evalkit.adapters.openai.transport")
wire = pytest.importorskip("evalkit.adapters.openai.wire")

KEY = "sk-very-secret-0123456789"


@pytest.fixture
def scripted():
    """A server that gives the replies it is told, one after the other: `scripted([(status, headers, body), ...])`."""
    servers = []

    def start(replies):
        left, seen = list(replies), []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                seen.append({name.lower(): value for name, value in self.headers.items()})
                status, headers, body = left.pop(0) if len(left) > 1 else left[0]
                self.send_response(status)
                for name, value in {"content-length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def made(url, key=None, **options):
    found = transport.Transport(
        ServerOptions.model_validate({"base_url": url, "backoff_s": 0.0, **options}), Secret(key or "")
    )
    waits = []
    found._stopped.wait = waits.append  # no test waits; what would have been waited is what is looked at
    return found, waits


OK = (200, {}, b'{"value": 1}')


def post(found):
    return found.post("/x", {"a": 1}, lambda reply: reply["value"])


def test_errors_that_may_pass_are_tried_again(scripted):
    url, seen = scripted([(500, {}, b"oops"), (503, {}, b""), (429, {}, b"{}"), (200, {}, b'{"val'), OK])
    found, _ = made(url)
    assert post(found) == 1
    assert len(seen) == 5
    assert found.budget.requests == 5


def test_waits_double_and_are_spread(scripted):
    url, _ = scripted([(500, {}, b"")])
    found, waits = made(url, retries=5, backoff_s=1.0, backoff_max_s=6.0)
    with pytest.raises(wire.UnusableError, match=r"transport: POST /x: HTTP 500: .*\(after 6 tries\)"):
        post(found)
    for wait, middle in zip(waits, [1, 2, 4, 6, 6], strict=True):
        assert 0.5 * middle <= wait <= min(6.0, 1.5 * middle)


@pytest.mark.parametrize("form", ["seconds", "date", "too long", "nonsense"])
def test_a_server_that_says_when_to_come_back_is_believed_within_reason(scripted, form):
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=20), usegmt=True)
    value = {"seconds": "7", "date": later, "too long": "100000", "nonsense": "soon"}[form]
    url, _ = scripted([(429, {"retry-after": value}, b"{}"), OK])
    found, waits = made(url, backoff_max_s=50.0)
    assert post(found) == 1
    assert {
        "seconds": waits == [7.0],
        "date": 10 < waits[0] <= 20,
        "too long": waits == [50.0],
        "nonsense": waits == [0.0],
    }[form]


def test_a_request_that_is_refused_is_not_repeated(scripted):
    url, seen = scripted([(400, {}, b'{"error": {"message": "prompt is longer than the context of 8 tokens"}}')])
    found, _ = made(url)
    with pytest.raises(wire.RejectedError, match="HTTP 400: prompt is longer") as caught:
        post(found)
    assert len(seen) == 1
    assert caught.value.failure.kind == "too-long"


def test_a_bare_nan_is_the_engines_own_and_is_not_asked_for_again(scripted):
    url, seen = scripted([(200, {}, b'{"value": NaN}')])
    with pytest.raises(wire.UnusableError, match="non-finite: the reply holds the bare word NaN"):
        post(made(url)[0])
    assert len(seen) == 1


@pytest.mark.parametrize("body", [b"[1]", b'{"a": 1, "a": 2}', b"<html>", b"\xff\xfe", b'{"a":' * 5000])
def test_a_reply_that_cannot_be_read_is_asked_for_again(scripted, body):
    url, seen = scripted([(200, {}, body), OK])
    assert post(made(url)[0]) == 1
    assert len(seen) == 2


@pytest.mark.parametrize("limit", [{"max_requests": 3}, {"max_total_tokens": 3}])
def test_a_budget_is_kept_and_names_its_option(scripted, limit):
    url, seen = scripted([OK])
    found, _ = made(url, **limit)
    for _ in range(3):
        post(found)
        found.budget.add_tokens(1)
    with pytest.raises(EngineError, match=f"the budget is spent: 3 of {next(iter(limit))} 3"):
        post(found)
    assert len(seen) == 3


def test_a_key_is_sent_and_shown_nowhere(scripted, caplog):
    said = json.dumps({"error": {"message": f"wrong key {KEY}"}}).encode()
    url, seen = scripted([(500, {}, said), (400, {}, said)])
    found, _ = made(url, KEY, retries=1)
    caplog.set_level(0)
    with pytest.raises(wire.RejectedError) as caught:
        post(found)
    assert seen[0]["authorization"] == f"Bearer {KEY}"
    shown = [str(caught.value), repr(found), str(found), repr(found._key), str(vars(found)), caplog.text]
    assert not any(KEY in text for text in shown)
    assert "wrong key [key]" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_everything_and_names_its_variable(scripted, status):
    url, seen = scripted([(status, {}, json.dumps({"detail": f"bad {KEY}"}).encode())])
    found, _ = made(url, KEY, api_key_env="MY_KEY")
    with pytest.raises(EngineError, match=r"check the key in \$MY_KEY") as caught:
        post(found)
    assert KEY not in str(caught.value)
    assert len(seen) == 1
    with pytest.raises(EngineError, match="name the key's environment variable in api_key_env"):
        post(made(url)[0])


def test_a_redirect_is_not_followed_with_the_key(scripted):
    url, seen = scripted([(307, {"location": "http://127.0.0.1:1/elsewhere"}, b"")])
    with pytest.raises(EngineError, match="a redirect, which is not followed"):
        post(made(url, KEY)[0])
    assert len(seen) == 1


def test_a_stopped_server_is_asked_nothing(scripted):
    url, seen = scripted([OK])
    found, _ = made(url)
    found.stop()
    with pytest.raises(wire.UnusableError, match="stopped"):
        post(found)
    found.resume()
    assert post(found) == 1
    assert len(seen) == 1


def test_keys_are_read_by_the_name_of_their_variable():
    assert read_secret("K", {"K": f" {KEY}\n"}).headers == {"Authorization": f"Bearer {KEY}"}
    assert read_secret(None, {}).headers == {}
    for value in ("", "  "):
        with pytest.raises(UsageError, match="'K', named by the option api_key_env, is not set or empty"):
            read_secret("K", {"K": value})
    with pytest.raises(UsageError, match="no HTTP header") as caught:
        read_secret("K", {"K": "ключ"})
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"base_url": f"http://me:{KEY}@host/v1"},
        {"base_url": f"http://host/v1?key={KEY}"},
        {"base_url": "http://host", "api_key_env": KEY},
        {"base_url": "http://host", "api_key_env": KEY.replace("-", "_")},
        {"base_url": "http://host", "extra_body": {"api_key": KEY}},
        {"base_url": "http://host", "api_key": KEY},
    ],
)
def test_a_key_in_a_configuration_is_refused_and_not_repeated(connect, options):
    with pytest.raises(ConfigError) as caught:
        connect(options.pop("base_url"), **options)
    assert "0123456789" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "host:8000"}, "must be an address"),
        ({"base_url": "ftp://host"}, "must be an address"),
        ({"base_url": "http://host", "extra_body": {"temperature": 1.0}}, "set by evalkit itself"),
        ({"base_url": "http://host", "concurency": 4}, "did you mean 'concurrency'"),
        ({"base_url": "http://host", "weights_sha256": "abc"}, "weights_sha256"),
    ],
)
def test_wrong_options_are_named(connect, options, words):
    with pytest.raises(ConfigError, match=words):
        connect(options.pop("base_url"), **options)


def test_an_address_may_end_in_v1():
    addresses = ("http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/")
    assert {ServerOptions(base_url=one).base_url for one in addresses} == {"http://h:1"}
    assert ServerOptions(base_url="https://h/openai/v1").base_url == "https://h/openai"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "CUDA error: an illegal memory access was encountered"),
        (400, "RequestError: Executor worker terminated unexpectedly"),
        (500, "EngineDeadError: EngineCore encountered an issue"),
        (503, "NCCL error: unhandled system error"),
        (503, "The server is shutting down"),
        (400, "EngineCore encountered an issue. See stack trace (above) for the root cause."),
        (400, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
)
def test_a_server_whose_engine_is_dead_ends_the_run(scripted, status, words):
    url, _ = scripted([(status, {}, json.dumps({"error": {"message": words}}).encode())])
    with pytest.raises(EngineError, match=r"the engine behind the server is dead.*next step: restart"):
        post(made(url, retries=1)[0])


def test_a_content_filter_is_a_refusal_whatever_its_status(scripted):
    said = {"error": {"message": "The response was filtered. Please modify your prompt.", "code": "content_filter"}}
    url, seen = scripted([(400, {}, json.dumps(said).encode())])
    with pytest.raises(wire.RejectedError) as caught:
        post(made(url)[0])
    assert (caught.value.failure.kind, len(seen)) == ("refused", 1)
