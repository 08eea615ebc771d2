"""Requests over HTTP that survive what servers and networks do.

In: a path, a body, and a reader of the reply. Out: what the reader made of it, or one of three reasons why not.
Must not depend on: what is asked, and what a good answer is.
"""

from __future__ import annotations

import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from evalkit.adapters.base import Waste, is_machine_failure
from evalkit.adapters.openai.exchange import Exchange, ExchangeError, Limits, OversizeError, Reply
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.wire import (
    Json,
    MalformedError,
    RejectedError,
    UnusableError,
    is_withheld,
    named_fields,
    parse_reply,
    utf8,
    words_of,
)
from evalkit.errors import EngineError, UsageError
from evalkit.records import digest
from evalkit.redaction import remember

# How much an engine may ask of a server.


class Budget:
    """Counts requests and tokens of all threads.

    Args:
        requests: requests that may be sent; None for no limit.
        tokens: tokens the server may count; None for no limit.
    """

    def __init__(self, requests: int | None, tokens: int | None) -> None:
        self._limits = (requests, tokens)
        self._lock = threading.Lock()
        self.requests = 0
        self.tokens = 0

    def take_request(self) -> None:
        """Count a request that is about to be sent.

        Raises:
            EngineError: the budget is spent.
        """
        with self._lock:
            for name, spent, limit in zip(
                ("max_requests", "max_total_tokens"), (self.requests, self.tokens), self._limits, strict=True
            ):
                if limit is not None and spent >= limit:
                    raise EngineError(
                        f"the budget is spent: {spent} of {name} {limit}; finished records are kept; "
                        f"next step: raise {name} and repeat the same command, which resumes"
                    )
            self.requests += 1

    def add_tokens(self, count: int) -> None:
        """Count tokens that a server says it has processed."""
        with self._lock:
            self.tokens += count


# The key of a server: read from the environment, sent in one header, shown nowhere.
#
# The environment is read here and not by the command line, because every engine of a suite, the judge's too, names a
# variable of its own.


HIDDEN = "[key]"


class Secret:
    """A key that no text, error or copy of an object ever shows.

    >>> Secret("abc-123")
    Secret([key])
    >>> Secret("abc-123").redact("wrong key: abc-123")
    'wrong key: [key]'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN if self._value else ''})"

    def __bool__(self) -> bool:
        return bool(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a secret is never written")

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the key; empty without one."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def redact(self, text: str) -> str:
        """Return a text without the key, for a server may repeat what it was sent."""
        return text.replace(self._value, HIDDEN) if self._value else text


def read_secret(variable: str | None, environment: Mapping[str, str] = os.environ) -> Secret:
    """Read a key by the name of its variable.

    Raises:
        UsageError: the variable is not set, is empty, or holds what no header can carry.
    """
    if variable is None:
        return Secret()
    value = environment.get(variable, "").strip()
    if not value:
        raise UsageError(
            f"the environment variable {variable!r}, named by the option api_key_env, is not set or empty; "
            f"next step: export {variable}=..."
        )
    if not value.isascii() or not value.isprintable():
        raise UsageError(f"the environment variable {variable!r} holds characters that no HTTP header can carry")
    remember(value)
    return Secret(value)


# Several requests at a time, in an order that helps the server, and replies held back until it was seen unchanged.
#
# A reply is passed on only after a check that began after it arrived. So no reply of another model, loaded behind the
# same address in the middle of a run, is ever taken for one of this engine.


Q = TypeVar("Q")
R = TypeVar("R")

CHECK_S = 20.0
"""Seconds a finished reply waits for a check, at most, while others are under way."""


def run_pool(
    jobs: Sequence[tuple[int, Q]],
    work: Callable[[Q], R],
    *,
    workers: int,
    check: Callable[[], None],
    check_every: int,
    stop: Callable[[], None],
) -> Iterator[tuple[int, R]]:
    """Yield (index, result) of each job.

    Args:
        jobs: index and question, in the order they are begun.
        work: answers one question, in a thread.
        workers: questions under way at once.
        check: raises if the replies since the last check may not be used.
        check_every: finished jobs between two checks.
        stop: called when the caller wants no more, so that waiting threads give up.

    Raises:
        Whatever `work` or `check` raises; results that no check has covered are dropped.
    """
    if not jobs:
        return
    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="evalkit-server")
    running: dict[Future[R], int] = {}
    held: list[tuple[int, R]] = []
    waiting, checked_at = iter(jobs), time.monotonic()
    try:
        _fill(pool, running, waiting, work, 2 * workers)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            held += [(running.pop(future), future.result()) for future in done]
            _fill(pool, running, waiting, work, 2 * workers)
            if len(held) >= check_every or not running or time.monotonic() - checked_at >= CHECK_S:
                check()
                checked_at = time.monotonic()
                ready, held = held, []
                yield from ready
    finally:
        if running:
            stop()
        pool.shutdown(wait=False, cancel_futures=True)


def _fill(
    pool: ThreadPoolExecutor,
    running: dict[Future[R], int],
    waiting: Iterator[tuple[int, Q]],
    work: Callable[[Q], R],
    most: int,
) -> None:
    while len(running) < most:
        job = next(waiting, None)
        if job is None:
            return
        running[pool.submit(work, job[1])] = job[0]


T = TypeVar("T")

HTTP_REDIRECT = 300

RETRIED = frozenset({408, 409, 425, 429})
"""Statuses below 500 that another try may cure."""

NOT_IMPLEMENTED = 501
"""The one status from 500 on that says "not offered" (RFC 9110; llama.cpp's `not_supported_error`)."""


class Transport:
    """One server, asked from several threads.

    Args:
        options: address, patience, budget.
        key: sent with every request, shown never.
    """

    def __init__(self, options: ServerOptions, key: Secret) -> None:
        self._options, self._key = options, key
        self._stopped = threading.Event()
        self.budget = Budget(options.max_requests, options.max_total_tokens)
        self.on_waste: Waste | None = None
        """Told what each reply used that was paid and could not be read; see `watch_waste`."""
        limits = Limits(
            seconds=options.timeout_s, wire_bytes=options.max_wire_bytes, body_bytes=options.max_reply_bytes
        )
        # Proxies of the environment are for other machines.
        self._exchange = Exchange(
            options.base_url, key.headers, limits, connections=options.concurrency + 2, direct=options.loopback
        )
        self._finalizer = weakref.finalize(self, self._exchange.close)

    def __repr__(self) -> str:
        return f"Transport({self})"

    def __str__(self) -> str:
        return self._options.base_url

    def get(self, path: str, field: str) -> Json | None:
        """Read a page the server may lack; None where it does.

        Args:
            path: path from the server's root.
            field: a field that the page has; without it the reply was somebody else's.

        Raises:
            UnusableError: no readable reply after all retries.
            EngineError: the server refuses the key, or the budget is spent.
        """

        def read(reply: Json) -> Json:
            if field not in reply:
                raise MalformedError(f"the page has no field {field!r}")
            return reply

        try:
            return self._ask("GET", path, None, read)
        except RejectedError:
            return None

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Json], T]) -> T:
        """Ask, and read the reply.

        Args:
            path: path from the server's root.
            body: the request.
            read: makes something of a reply; a `MalformedError` of it is answered by asking again.

        Raises:
            RejectedError: the server refuses the request.
            UnusableError: the reply holds no answer, or there is none after all retries.
            EngineError: the server refuses the key, or the budget is spent.
        """
        return self._ask("POST", path, body, read)

    def stop(self) -> None:
        """Let no thread begin another request, and wake those that wait for a reply."""
        self._stopped.set()
        self._exchange.cut()

    def resume(self) -> None:
        """Allow requests again."""
        self._stopped.clear()
        self._exchange.allow()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[Json], T]) -> T:
        seen, tries, told = "", 0, False
        sent = None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        for attempt in range(self._options.retries + 1):
            if self._stopped.is_set():
                break
            self.budget.take_request()
            wait, tries = self._backoff(attempt, body), tries + 1
            try:
                reply = self._exchange.ask(method, path, sent)
            except ExchangeError as error:
                seen = str(error)
            except OversizeError as error:
                message = f"{method} {path}: the reply is too long: {error}; the limits are max_wire_bytes and "
                raise UnusableError("transport", f"{message}max_reply_bytes") from error
            else:
                bill = _Bill(self, body or {}, sent or b"")
                try:
                    return bill.paid(self._read(reply, body or {}, read, bill))
                except UnusableError as error:
                    bill.wasted()
                    failure = error.failure
                    message = self._key.redact(failure.message)
                    raise UnusableError(failure.kind, message, counted=told or bill.told) from None
                except MalformedError as error:
                    seen = str(error)
                    wait = _retry_after(reply.retry_after, wait)
                    affordable = reply.status >= HTTP_REDIRECT or bill.wasted()
                    told = told or bill.told
                    if not affordable:
                        seen += "; not asked again, for another try would pass the cap"
                        break
            if attempt < self._options.retries:
                self._stopped.wait(min(wait, self._options.backoff_max_s))
        if seen.startswith("HTTP ") and is_machine_failure(seen, _texts_of(body)):
            raise self._dead(f"{seen} (after {tries} tries)")
        message = f"{method} {path}: {seen or 'stopped'} (after {tries} tries)"
        raise UnusableError("transport", self._key.redact(message), counted=told)

    def _read(self, reply: Reply, body: Mapping[str, Any], read: Callable[[Json], T], bill: _Bill) -> T:
        """Make something of a reply; one whose fields have other types than any server's is malformed, not a fault."""
        found = self._checked(reply, body)
        bill.usage = found.get("usage")
        try:
            return read(found)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise MalformedError(f"the reply has no known form ({type(error).__name__}: {error})") from error

    def _checked(self, reply: Reply, body: Mapping[str, Any]) -> Json:
        """Return the reply's object, or say what its status means."""
        status = reply.status
        if status < HTTP_REDIRECT:
            return parse_reply(utf8(reply.body))
        said = reply.body.decode("utf-8", "replace")
        words = self._key.redact(words_of(said))
        if status in RETRIED or (status >= 500 and status != NOT_IMPLEMENTED):
            raise MalformedError(f"HTTP {status}: {words}")
        if status < 400:
            raise EngineError(
                f"{self._options.base_url} answers HTTP {status}, a redirect, which is not followed for the key's "
                "sake; next step: give the final address as base_url"
            )
        fields = named_fields(said, body)
        if status in (401, 403) and not fields:
            name = self._options.api_key_env
            step = f"check the key in ${name}" if name else "name the key's environment variable in api_key_env"
            raise EngineError(f"{self._options.base_url} answers HTTP {status}: {words}; next step: {step}")
        withheld = is_withheld(said)
        if not withheld and not fields and is_machine_failure(words, _texts_of(body)):
            raise self._dead(f"HTTP {status}: {words}")
        raise RejectedError(status, words, withheld=withheld, fields=fields)

    def _dead(self, seen: str) -> EngineError:
        return EngineError(
            f"{self._options.base_url}: the engine behind the server is dead: {seen}; next step: restart the server "
            "and repeat the same command, which resumes"
        )

    def _backoff(self, attempt: int, body: Mapping[str, Any] | None) -> float:
        """Return the seconds before the next try: doubled each time, spread so that threads do not return at once."""
        spread = 0.5 + int(digest([attempt, dict(body or {})])[:4], 16) / 65536
        return min(self._options.backoff_s * 2.0**attempt, self._options.backoff_max_s) * spread


def _texts_of(body: Mapping[str, Any] | None) -> str:
    """Return the texts of a request, which a refusal may repeat."""
    return "" if body is None else "\n".join(_leaves(body))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for child in value.values():
            yield from _leaves(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from _leaves(child)


class _Bill:
    """What one answered request used, as the reply says, or else at most."""

    def __init__(self, transport: Transport, body: Mapping[str, Any], sent: bytes) -> None:
        self._transport, self._body, self._sent = transport, body, sent
        self.usage: Any = None
        self.told = False

    def paid(self, result: T) -> T:
        """Count a reply that was used, and return what was made of it."""
        self._transport.budget.add_tokens(sum(self._used(otherwise=(0, 0))))
        return result

    def wasted(self) -> bool:
        """Count a reply that was paid and could not be used; say whether another try may be paid."""
        if not self._body:
            return True
        limit = self._body.get("max_tokens") or self._body.get("max_completion_tokens") or 0
        read, written = self._used(otherwise=(len(self._sent), int(limit)))
        self._transport.budget.add_tokens(read + written)
        watch = self._transport.on_waste
        self.told = watch is not None
        return watch is None or watch(read, written)

    def _used(self, otherwise: tuple[int, int]) -> tuple[int, int]:
        usage = self.usage if isinstance(self.usage, Mapping) else {}
        found = [usage.get(name, 0) for name in ("prompt_tokens", "completion_tokens")]
        known = usage and all(isinstance(one, int) and 0 <= one < 1 << 40 for one in found)
        return (found[0], found[1]) if known else otherwise


def _retry_after(header: str | None, otherwise: float) -> float:
    """Return the seconds a server asks for, given as a number or as a date.

    >>> _retry_after("3", 0.5), _retry_after(None, 0.5), _retry_after("soon", 0.5)
    (3.0, 0.5, 0.5)
    """
    if header is None:
        return otherwise
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - datetime.now(timezone.utc).timestamp())
    except (TypeError, ValueError, OverflowError):
        return otherwise
