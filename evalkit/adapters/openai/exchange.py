"""One request and its reply over HTTP, under limits of time and size that no server can pass.

In: an address, a body as bytes. Out: status, the reply's bytes, and when to come back; or one of two reasons why not.
Must not depend on: what is asked, JSON, how often a request is tried again.

A time limit of an HTTP client counts the silence between two bytes, so a server that sends one byte at a time, or one
`100 Continue` after the other, holds it for ever. Here every read and write of the socket counts against one deadline
and one number of bytes. Other threads can be woken: `cut` shuts the sockets that they wait at.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

CONNECT_S = 15.0
HEADER_BYTES = 1 << 19
"""Bytes a server may send before its reply's headers are complete, `100 Continue` and the like included."""

_BLOCK = 1 << 16
_ZLIB = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}
"""Encodings that are unpacked although `identity` is asked for, each with zlib's window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one try may take.

    Attributes:
        seconds: from its begin to the last byte of the reply.
        wire_bytes: bytes of the reply as sent, headers included.
        body_bytes: bytes of its body once unpacked.
    """

    seconds: float
    wire_bytes: int
    body_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        status: HTTP status.
        body: unpacked bytes.
        retry_after: that header; None without.
    """

    status: int
    body: bytes
    retry_after: str | None


class ExchangeError(Exception):
    """No complete reply; another try may get one."""


class OversizeError(Exception):
    """The reply is longer than is allowed, and so would the next one be."""


class Exchange:
    """Connections to one server, used by several threads.

    Args:
        base_url: address of the server.
        headers: sent with every request.
        limits: of each try.
        connections: kept open at most.
        direct: no proxy of the environment is used.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], limits: Limits, *, connections: int, direct: bool
    ) -> None:
        self.base_url, self._limits = base_url, limits
        self._headers = {"Accept": "application/json", "Accept-Encoding": "identity", **headers}
        self._network = _Network()
        self._pool = _pool(base_url, self._network, connections, None if direct else _proxy(base_url))

    def ask(self, method: str, path: str, body: bytes | None) -> Reply:
        """Send a request and read the whole reply.

        Raises:
            ExchangeError: the connection, the protocol or the time failed.
            OversizeError: the reply passes a limit.
        """
        meter = self._network.meter = _Meter(self._limits)
        headers = self._headers if body is None else {**self._headers, "Content-Type": "application/json"}
        waits = {"connect": min(CONNECT_S, self._limits.seconds), "pool": self._limits.seconds}
        waits |= {"read": self._limits.seconds, "write": self._limits.seconds}
        try:
            with self._pool.stream(
                method,
                _url(self.base_url + path),
                headers=list(headers.items()),
                content=body,
                extensions={"timeout": waits},
            ) as response:
                meter.most = self._limits.wire_bytes
                said = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                encoding = said.get(b"content-encoding", "").strip().lower()
                data = _unpacked(meter.watched(response.iter_stream()), encoding, self._limits.body_bytes)
                return Reply(status=response.status, body=data, retry_after=said.get(b"retry-after"))
        except (httpcore.ReadTimeout, httpcore.WriteTimeout) as error:
            raise ExchangeError(f"no complete reply within {self._limits.seconds:g} s") from error
        except _FAULTS as error:
            raise ExchangeError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error

    def cut(self) -> None:
        """Wake every thread that waits for this server; its request fails, and so does each that begins."""
        self._network.cut()

    def allow(self) -> None:
        """Let requests begin again after `cut`."""
        self._network.is_cut = False

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()


_FAULTS = (
    httpcore.NetworkError,
    httpcore.TimeoutException,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
    httpcore.ConnectionNotAvailable,
    httpx.InvalidURL,
    OSError,
)


class _Meter:
    """Time and bytes that a try has left."""

    def __init__(self, limits: Limits) -> None:
        self._end = time.monotonic() + limits.seconds
        self.most, self._bytes = min(HEADER_BYTES, limits.wire_bytes), 0

    def left(self, wanted: float | None = None) -> float:
        """Return the seconds left, `wanted` at most.

        Raises:
            httpcore.ReadTimeout: none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout
        return left if wanted is None else min(left, wanted)

    def count(self, size: int) -> None:
        """Count bytes that came.

        Raises:
            OversizeError: they are too many.
        """
        self._bytes += size
        if self._bytes > self.most:
            raise OversizeError(f"more than {self.most:,} bytes came")

    def watched(self, pieces: Iterable[bytes]) -> Iterable[bytes]:
        """Pass on pieces as long as there is time: a million of them may come with one read."""
        for piece in pieces:
            self.left()
            yield piece


class _Network(httpcore.NetworkBackend):
    """Opens sockets whose every read and write is metered, and can wake those who wait at them."""

    def __init__(self) -> None:
        self._inner, self._local = httpcore.SyncBackend(), threading.local()
        self._lock, self._open = threading.Lock(), set[_Stream]()
        self.is_cut = False

    @property
    def meter(self) -> _Meter:
        """The meter of this thread's try."""
        found: _Meter = self._local.meter
        return found

    @meter.setter
    def meter(self, meter: _Meter) -> None:
        self._local.meter = meter

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        """Connect; see httpcore."""
        return self.known(_Stream(self._inner.connect_tcp(*args, **options), self))

    def known(self, stream: _Stream) -> _Stream:
        """Remember a stream; one that is opened after `cut` is shut at once."""
        with self._lock:
            self._open.add(stream)
            late = self.is_cut
        if late:
            stream.shut()
        return stream

    def forget(self, stream: _Stream) -> None:
        """Forget a closed stream."""
        with self._lock:
            self._open.discard(stream)

    def cut(self) -> None:
        """Shut all streams."""
        with self._lock:
            self.is_cut, found = True, list(self._open)
        for stream in found:
            stream.shut()


class _Stream(httpcore.NetworkStream):
    """A connection whose reads and writes count."""

    def __init__(self, inner: httpcore.NetworkStream, network: _Network) -> None:
        self._inner, self._network = inner, network

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        meter = self._network.meter
        data = self._inner.read(min(max_bytes, _BLOCK), meter.left(timeout))
        meter.count(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for begin in range(0, len(buffer), _BLOCK):
            self._inner.write(buffer[begin : begin + _BLOCK], self._network.meter.left(timeout))

    def close(self) -> None:
        self._network.forget(self)
        self._inner.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore.NetworkStream:
        options["timeout"] = self._network.meter.left(options.get("timeout"))
        self._network.forget(self)
        return self._network.known(_Stream(self._inner.start_tls(*args, **options), self._network))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)

    def shut(self) -> None:
        """End the connection under whoever reads from it; closing the socket alone would not wake them."""
        socket = self._inner.get_extra_info("socket")
        try:
            socket.shutdown(2)
        except (OSError, AttributeError):
            return


def _pool(base_url: str, network: _Network, connections: int, proxy: str | None) -> httpcore.ConnectionPool:
    keywords: dict[str, Any] = {"max_connections": connections, "network_backend": network, "http1": True}
    if base_url.startswith("https"):
        keywords["ssl_context"] = httpx.create_ssl_context()
    if proxy is None:
        return httpcore.ConnectionPool(**keywords)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    who = (parts.username or "", parts.password or "") if parts.username else None
    where = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[-1]}"
    if parts.scheme.startswith("socks"):
        return httpcore.SOCKSProxy(where, proxy_auth=who, **keywords)
    return httpcore.HTTPProxy(where, proxy_auth=who, **keywords)


def _proxy(base_url: str) -> str | None:
    """Return the proxy that the environment names for an address; None for none."""
    parts, proxies = urlsplit(base_url), getproxies()
    if proxy_bypass(parts.netloc) or proxy_bypass(parts.hostname or ""):
        return None
    return proxies.get(parts.scheme) or proxies.get("all")


def _url(text: str) -> httpcore.URL:
    found = httpx.URL(text)
    return httpcore.URL(scheme=found.raw_scheme, host=found.raw_host, port=found.port, target=found.raw_path)


def _unpacked(pieces: Iterable[bytes], encoding: str, most: int) -> bytes:
    """Return a body.

    Raises:
        ExchangeError: it is packed in a way that was not asked for, or damaged.
        OversizeError: it is longer than `most` bytes.
    """
    window = _ZLIB.get(encoding)
    if window is None and encoding not in ("", "identity"):
        raise ExchangeError(f"the reply is packed as {encoding[:40]!r}, and 'identity' was asked for")
    unpack = zlib.decompressobj(window) if window is not None else None
    body = bytearray()
    try:
        for piece in pieces:
            body += piece if unpack is None else unpack.decompress(piece, most + 1 - len(body))
            if len(body) > most:
                raise OversizeError(f"more than {most:,} bytes once it is read")
    except zlib.error as error:
        raise ExchangeError(f"the reply is packed as {encoding!r} and damaged: {error}") from error
    if unpack is not None and (not unpack.eof or unpack.unused_data):
        raise ExchangeError(f"the reply is packed as {encoding!r} and does not end where it should")
    return bytes(body)
