"""Servers that never end, swell or mumble: each is a failure by name, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib

import pytest

from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.transport import Secret

pytest.importorskip("httpx")
transport = pytest.importorskip("evalkit.adapters.openai.transport")
wire = pytest.importorskip("evalkit.adapters.openai.wire")

SMALL = 1 << 16
GOOD = b'{"value": 1}'
OK = b"HTTP/1.1 200 OK\r\n"


class RawServer:
    """Accepts connections, reads one request of each, and lets `reply(connection)` do what it likes."""

    def __init__(self, reply):
        self._reply, self._socket = reply, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.ended = threading.Event()
        self.asked = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection:
            try:
                self.asked.append(connection.recv(1 << 16))
                self._reply(connection, self.ended)
            except OSError:
                return

    def close(self):
        self.ended.set()
        self._socket.close()


@pytest.fixture
def raw():
    servers = []

    def start(reply):
        servers.append(RawServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def slowly(begin, piece):
    def reply(connection, ended):
        connection.sendall(begin)
        while not ended.wait(0.05):
            connection.sendall(piece)

    return reply


def fast(begin, piece):
    def reply(connection, ended):
        connection.sendall(begin)
        while not ended.is_set():
            connection.sendall(piece)

    return reply


def once(data):
    def reply(connection, ended):
        connection.sendall(data)
        ended.wait(20)

    return reply


def framed(body, *headers):
    lines = b"".join(header + b"\r\n" for header in headers)
    return once(OK + lines + b"content-length: " + str(len(body)).encode() + b"\r\n\r\n" + body)


def bomb(size):
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([*(packer.compress(b" " * (1 << 20)) for _ in range(size >> 20)), packer.flush()])


def asked(server, **options):
    given = {"base_url": server.url, "retries": 0, "timeout_s": 600.0, "backoff_s": 0.0, **options}
    found = transport.Transport(ServerOptions.model_validate(given), Secret(""))
    return found.post("/x", {"a": 1}, lambda reply: reply["value"])


CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "silence": (slowly(b"", b""), "within 0.6 s"),
    "slow status line": (slowly(b"H", b"T"), "within|RemoteProtocol"),
    "slow header": (slowly(OK + b"x: ", b"y"), "within 0.6 s"),
    "endless headers": (fast(OK, b"x: y\r\n" * 1000), "RemoteProtocolError|more than"),
    "slow body": (slowly(OK + b"content-length: 100000\r\n\r\n", b" "), "within 0.6 s"),
    "slow chunks": (slowly(CHUNKED, b"1\r\n \r\n"), "within 0.6 s"),
    "slow continues": (slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "within 0.6 s"),
    "endless continues": (fast(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "within 0.6 s|more than"),
    "endless early hints": (fast(b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 100), "within 0.6 s|more than"),
    "endless body": (fast(OK + b"\r\n", b" " * 65536), "more than 65,536 bytes"),
    "endless chunks": (fast(CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"), "more than 65,536 bytes"),
    "endless tiny chunks": (fast(CHUNKED, b"1\r\n \r\n" * 1000), "more than 65,536 bytes|within 0.6 s"),
    "a length of a terabyte": (fast(OK + b"content-length: 1000000000000\r\n\r\n", b" " * 65536), "more than 65,536"),
    "gzip bomb": (framed(bomb(64 << 20), b"content-encoding: gzip"), "more than 65,536 bytes"),
    "deflate bomb": (framed(zlib.compress(b" " * (16 << 20)), b"content-encoding: deflate"), "more than 65,536 bytes"),
    "an unknown packing": (framed(GOOD, b"content-encoding: br"), "packed as 'br'"),
    "gzip that is none": (framed(GOOD, b"content-encoding: gzip"), "packed as 'gzip' and damaged"),
    "half a gzip": (framed(gzip.compress(GOOD)[:-9], b"content-encoding: gzip"), "does not end where it should"),
    "latin-1": (framed(b'{"value": "\xe9"}', b"content-type: application/json; charset=latin-1"), "not UTF-8"),
    "utf-16": (framed('{"value": 1}'.encode("utf-16"), b"content-type: application/json; charset=utf-16"), "not UTF-8"),
    "a cut connection": (
        lambda connection, _: connection.sendall(OK + b"content-length: 50\r\n\r\n{"),
        "Protocol|Read",
    ),
    "another protocol": (once(b"SSH-2.0-OpenSSH_9.6\r\n" * 9), "RemoteProtocolError|within"),
    "a number for an object": (framed(b"5"), "not a JSON object"),
    "a list for an object": (framed(b'{"value": 1}'.replace(b"{", b"[{") + b"]"), "not a JSON object"),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_each_is_a_failure_by_name_in_bounded_time_and_memory(raw, kind):
    reply, words = ENDLESS[kind]
    server = raw(reply)
    tracemalloc.start()
    try:
        limits = {
            "max_wire_bytes": SMALL,
            "max_reply_bytes": SMALL,
            **({"timeout_s": 0.6} if "within" in words else {}),
        }
        with pytest.raises(wire.UnusableError, match=words) as caught:
            asked(server, **limits)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.failure.kind == "transport"
    assert peak < 16 << 20
    assert len(server.asked) == 1


@pytest.mark.parametrize("charset", ["idna", "undefined", "rot13", "hex", "bz2", "utf-16", "latin-1", "", '"', "\\"])
def test_json_is_utf8_whatever_charset_a_header_names(raw, charset):
    body = json.dumps({"value": "é"}, ensure_ascii=False).encode()
    server = raw(framed(body, f"content-type: application/json; charset={charset}".encode()))
    assert asked(server) == "é"


def test_a_packed_reply_of_a_usual_size_is_read_although_it_was_not_asked_for(raw):
    server = raw(framed(gzip.compress(GOOD), b"content-encoding: gzip"))
    assert asked(server) == 1
    assert b"accept-encoding: identity" in server.asked[0].lower()


def test_a_reply_that_is_too_long_is_not_asked_for_again_and_names_its_option(raw):
    server = raw(framed(b'{"value": "' + b"x" * 5000 + b'"}'))
    with pytest.raises(wire.UnusableError, match=r"more than 2,000 bytes.*max_reply_bytes"):
        asked(server, retries=5, max_reply_bytes=2000)
    assert len(server.asked) == 1
    assert asked(server) == "x" * 5000


def test_a_reader_that_meets_fields_of_another_type_is_no_fault_of_ours(raw):
    with pytest.raises(wire.UnusableError, match="the reply has no known form"):
        asked(raw(framed(b'{"values": 1}')))


def test_a_stopped_transport_wakes_those_who_wait(raw):
    server = raw(slowly(b"", b""))
    options = ServerOptions.model_validate({"base_url": server.url, "timeout_s": 600.0, "retries": 3})
    found, seen = transport.Transport(options, Secret("")), []

    def wait():
        try:
            found.post("/x", {}, lambda reply: reply)
        except wire.UnusableError as error:
            seen.append(str(error))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(server.asked) < 4:
        time.sleep(0.01)
    found.stop()
    for thread in threads:
        thread.join(600)
    assert not any(thread.is_alive() for thread in threads)
    assert len(seen) == len(server.asked) == 4, "and none of them tried again"


PROGRAM = """
import sys
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.transport import run_pool
from evalkit.adapters.openai.transport import Secret
from evalkit.adapters.openai.transport import Transport
found = Transport(ServerOptions(base_url=sys.argv[1], timeout_s=600.0), Secret(""))
work = lambda n: found.post("/x", {"n": n}, lambda reply: reply)
try:
    list(run_pool([(n, n) for n in range(9)], work, workers=3, check=lambda: None, check_every=1, stop=found.stop))
except KeyboardInterrupt:
    print("stopped on request")
"""


def test_ctrl_c_ends_the_process_while_replies_are_awaited(raw):
    server = raw(slowly(OK + b"content-length: 100000\r\n\r\n", b" "))
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url], stdout=subprocess.PIPE, text=True)
    try:
        while len(server.asked) < 3 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert out == "stopped on request\n"


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.0.0.2:8000", True),
        ("http://0.0.0.0:8000", True),
        ("http://localhost:8000", True),
        ("http://LOCALHOST.:8000", True),
        ("http://[::1]:8000", True),
        ("http://[::]:8000", True),
        ("http://[::ffff:127.0.0.1]:8000", True),
        ("http://10.0.0.1:8000", False),
        ("http://localhost.example.org", False),
        ("http://127.0.0.1.example.org", False),
    ],
)
def test_a_server_on_this_machine_is_asked_past_any_proxy(url, loopback, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ServerOptions(base_url=url).loopback is loopback


def test_a_proxy_of_the_environment_is_used_for_other_machines(raw, monkeypatch):
    server = raw(framed(GOOD))
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    given = {"base_url": "http://model.example.invalid:81", "retries": 0, "timeout_s": 600.0}
    found = transport.Transport(ServerOptions.model_validate(given), Secret(""))
    assert found.post("/x", {}, lambda reply: reply["value"]) == 1
    assert server.asked[0].startswith(b"POST http://model.example.invalid:81/x HTTP/1.1")
    monkeypatch.setenv("no_proxy", "model.example.invalid")
    found = transport.Transport(ServerOptions.model_validate(given), Secret(""))
    with pytest.raises(wire.UnusableError, match="ConnectError"):
        found.post("/x", {}, lambda reply: reply["value"])
