"""Tell a server about a night: JSON, signed, and again if it did not get through.

In: a URL, data, a secret. Out: one POST that was accepted, or why none was.
May not know: what the data mean, or where the secret came from.

The body is signed as a whole: `X-Evalkit-Signature-256: sha256=<HMAC-SHA256 of "<timestamp>.<body>" in hex>` with the
timestamp of `X-Evalkit-Timestamp`, so that a receiver can refuse what is forged or old. `X-Evalkit-Delivery` is the
same for every attempt at one night: a receiver that has seen it may ignore the rest.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from evalkit import __version__
from evalkit.errors import StoreError, UsageError
from evalkit.records import canonical_json

ATTEMPTS = 5
TIMEOUT_S = 15.0
FIRST_WAIT_S = 1.0
"""Wait after the first failure; it doubles each time."""

_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, or carry a signature to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def checked_url(url: str) -> str:
    """Return a URL that may be told about a night.

    Raises:
        UsageError: it is not http or https, or names no host.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--webhook: {shown(url)!r} is no http or https URL")
    return url


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, path beyond its host, query.

    >>> shown("https://u:p@chat.example/hooks/T0K3N?x=1")
    'https://chat.example/...'
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}/..."


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of the signature's header.

    >>> signature("secret", "1700000000", b"{}")[:20]
    'sha256=b8569b78799ff'
    """
    made = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return f"sha256={made.hexdigest()}"


def deliver(
    url: str,
    data: Mapping[str, Any],
    *,
    delivery: str,
    secret: str | None = None,
    attempts: int = ATTEMPTS,
    wait: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> int:
    """Post data and return the number of attempts it took.

    Args:
        url: http or https.
        data: JSON data.
        delivery: what is the same for every attempt, of this call and of later ones.
        secret: of the signature; None for no signature.
        attempts: at most so many.
        wait: sleeps for a number of seconds.
        now: seconds since 1970.

    Raises:
        UsageError: the URL is none.
        StoreError: the server refused, or could not be reached in all attempts; names what was seen, no secret.
    """
    checked_url(url)
    body = canonical_json(data).encode()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"evalkit/{__version__}",
        "X-Evalkit-Delivery": delivery,
    }
    opener = urllib.request.build_opener(_NoRedirects)
    for attempt in range(1, attempts + 1):
        timestamp = str(int(now()))
        signed = {"X-Evalkit-Timestamp": timestamp}
        if secret is not None:
            signed["X-Evalkit-Signature-256"] = signature(secret, timestamp, body)
        request = urllib.request.Request(url, data=body, headers={**headers, **signed}, method="POST")  # noqa: S310
        try:
            with opener.open(request, timeout=TIMEOUT_S):
                return attempt
        except urllib.error.HTTPError as error:
            seen, again = f"HTTP {error.code}", error.code in _RETRIED
            error.close()
        except (urllib.error.URLError, OSError) as error:
            seen, again = str(getattr(error, "reason", error)), True
        if not again:
            break
        if attempt < attempts:
            wait(FIRST_WAIT_S * 2.0 ** (attempt - 1))
    raise StoreError(f"webhook {shown(url)}: not delivered after {attempt} attempt(s): {seen}")
