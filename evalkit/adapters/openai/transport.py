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

from evalkit.adapters.base import Waste
from evalkit.adapters.openai.budget import Budget
from evalkit.adapters.openai.exchange import Exchange, ExchangeError, Limits, OversizeError, Reply
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.secret import Secret
from evalkit.adapters.openai.wire import (
    Json,
    MalformedError,
    RejectedError,
    UnusableError,
    is_dead,
    is_withheld,
    parse_reply,
    utf8,
    words_of,
)
from evalkit.errors import EngineError
from evalkit.records import digest

T = TypeVar("T")

HTTP_REDIRECT = 300

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
                    return bill.paid(self._read(reply, read, bill))
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
        if seen.startswith("HTTP ") and is_dead(seen):
            raise self._dead(f"{seen} (after {tries} tries)")
        message = f"{method} {path}: {seen or 'stopped'} (after {tries} tries)"
        raise UnusableError("transport", self._key.redact(message), counted=told)

    def _read(self, reply: Reply, read: Callable[[Json], T], bill: _Bill) -> T:
        """Make something of a reply; one whose fields have other types than any server's is malformed, not a fault."""
        found = self._checked(reply)
        bill.usage = found.get("usage")
        try:
            return read(found)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise MalformedError(f"the reply has no known form ({type(error).__name__}: {error})") from error

    def _checked(self, reply: Reply) -> Json:
        """Return the reply's object, or say what its status means."""
        status = reply.status
        if status < HTTP_REDIRECT:
            return parse_reply(utf8(reply.body))
        said = reply.body.decode("utf-8", "replace")
        words = self._key.redact(words_of(said))
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
        if is_dead(words):
            raise self._dead(f"HTTP {status}: {words}")
        raise RejectedError(status, words, withheld=is_withheld(said))

    def _dead(self, seen: str) -> EngineError:
        return EngineError(
            f"{self._options.base_url}: the engine behind the server is dead: {seen}; next step: restart the server "
            "and repeat the same command, which resumes"
        )

    def _backoff(self, attempt: int, body: Mapping[str, Any] | None) -> float:
        """Return the seconds before the next try: doubled each time, spread so that threads do not return at once."""
        spread = 0.5 + int(digest([attempt, dict(body or {})])[:4], 16) / 65536
        return min(self._options.backoff_s * 2.0**attempt, self._options.backoff_max_s) * spread


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
