"""Requests over HTTP that survive what servers and networks do.

In: a path, a body, and a reader of the reply. Out: what the reader made of it, or one of three reasons why not.
May not know: what is asked, and what a good answer is.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from evalkit.adapters.openai.budget import Budget
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.secret import Secret
from evalkit.adapters.openai.wire import (
    Json,
    MalformedError,
    RejectedError,
    UnusableError,
    parse_reply,
    words_of,
)
from evalkit.errors import EngineError
from evalkit.records import digest

T = TypeVar("T")

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses that another try may cure."""

CONNECT_S = 15.0


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
        # Proxies of the environment are for other machines.
        self._client = httpx.Client(
            base_url=options.base_url,
            headers=key.headers,
            timeout=httpx.Timeout(options.timeout_s, connect=min(CONNECT_S, options.timeout_s)),
            limits=httpx.Limits(max_connections=options.concurrency + 2),
            trust_env=not options.loopback,
            follow_redirects=False,
        )
        self._finalizer = weakref.finalize(self, self._client.close)

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
        """Let no thread begin another request."""
        self._stopped.set()

    def resume(self) -> None:
        """Allow requests again."""
        self._stopped.clear()

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, read: Callable[[Json], T]) -> T:
        seen = ""
        for attempt in range(self._options.retries + 1):
            if self._stopped.is_set():
                break
            self.budget.take_request()
            wait = self._backoff(attempt, body)
            try:
                response = self._client.request(method, path, json=body)
            except (httpx.RequestError, httpx.InvalidURL) as error:
                seen = f"{type(error).__name__}: {error}"
            else:
                try:
                    return read(self._checked(response))
                except UnusableError as error:
                    failure = error.failure
                    raise UnusableError(failure.kind, self._key.redact(failure.message)) from None
                except MalformedError as error:
                    seen = str(error)
                    wait = _retry_after(response.headers.get("retry-after"), wait)
            if attempt < self._options.retries:
                self._stopped.wait(min(wait, self._options.backoff_max_s))
        tries = f"{self._options.retries + 1} tries"
        raise UnusableError("transport", self._key.redact(f"{method} {path}: {seen or 'stopped'} (after {tries})"))

    def _checked(self, response: httpx.Response) -> Json:
        """Return the reply's object, or say what its status means."""
        status = response.status_code
        if status < 300:
            return parse_reply(response.text)
        words = self._key.redact(words_of(response.text))
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
