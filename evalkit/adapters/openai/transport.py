"""Requests over HTTP that survive what servers and networks do.

In: a path, a body, and a reader of the reply. Out: what the reader made of it, or one of three reasons why not.
May not know: what is asked, and what a good answer is.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from evalkit.adapters.openai.budget import Budget
from evalkit.adapters.openai.exchange import Exchange, ExchangeError, Limits, OversizeError, Reply
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.secret import Secret
from evalkit.adapters.openai.wire import (
    Json,
    MalformedError,
    RejectedError,
    UnusableError,
    parse_reply,
    utf8,
    words_of,
)
from evalkit.errors import EngineError
from evalkit.records import digest

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that another try may cure."""


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
        seen = ""
        sent = None if body is None else json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
        for attempt in range(self._options.retries + 1):
            if self._stopped.is_set():
                break
            self.budget.take_request()
            wait = self._backoff(attempt, body)
            try:
                reply = self._exchange.ask(method, path, sent)
            except ExchangeError as error:
                seen = str(error)
            except OversizeError as error:
                message = f"{method} {path}: the reply is too long: {error}; the limits are max_wire_bytes and "
                raise UnusableError("transport", f"{message}max_reply_bytes") from error
            else:
                try:
                    return self._read(reply, read)
                except UnusableError as error:
                    failure = error.failure
                    raise UnusableError(failure.kind, self._key.redact(failure.message)) from None
                except MalformedError as error:
                    seen = str(error)
                    wait = _retry_after(reply.retry_after, wait)
            if attempt < self._options.retries:
                self._stopped.wait(min(wait, self._options.backoff_max_s))
        tries = f"{self._options.retries + 1} tries"
        raise UnusableError("transport", self._key.redact(f"{method} {path}: {seen or 'stopped'} (after {tries})"))

    def _read(self, reply: Reply, read: Callable[[Json], T]) -> T:
        """Make something of a reply; one whose fields have other types than any server's is malformed, not a fault."""
        found = self._checked(reply)
        try:
            return read(found)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise MalformedError(f"the reply has no known form ({type(error).__name__}: {error})") from error

    def _checked(self, reply: Reply) -> Json:
        """Return the reply's object, or say what its status means."""
        status = reply.status
        if status < 300:
            return parse_reply(utf8(reply.body))
        words = self._key.redact(words_of(reply.body.decode("utf-8", "replace")))
        if status in RETRIED:
            raise MalformedError(f"HTTP {status}: {words}")
        if status < 400:
            raise EngineError(
                f"{self._options.base_url} answers HTTP {status}, a redirect, which is not followed for the key's "
                "sake; next step: give the final address as base_url"
            )
        if status in (401, 403):
            name = self._options.api_key_env
            step = f"check the key in ${name}" if name else "name the key's environment variable in api_key_env"
            raise EngineError(f"{self._options.base_url} answers HTTP {status}: {words}; next step: {step}")
        raise RejectedError(status, words)

    def _backoff(self, attempt: int, body: Mapping[str, Any] | None) -> float:
        """Return the seconds before the next try: doubled each time, spread so that threads do not return at once."""
        spread = 0.5 + int(digest([attempt, dict(body or {})])[:4], 16) / 65536
        return min(self._options.backoff_s * 2.0**attempt, self._options.backoff_max_s) * spread


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
