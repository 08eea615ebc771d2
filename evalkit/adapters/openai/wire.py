"""What can go wrong with one request, and strict JSON.

In: bytes from a server. Out: a JSON object, or the reason why not.
May not know: which server, which question.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from evalkit.adapters.base import Failure

Json = dict[str, Any]

SHOWN = 300
"""Characters of a server's words that an error repeats."""


class MalformedError(Exception):
    """A reply that cannot be read; asking again may help."""


class UnusableError(Exception):
    """A reply that can be read and holds no answer, or no reply after all retries.

    Attributes:
        failure: what becomes of the item.
    """

    def __init__(self, kind: str, message: str, *, counted: bool = False) -> None:
        super().__init__(f"{kind}: {message}")
        self.failure = Failure(kind=kind, message=message, counted=counted)


class RejectedError(Exception):
    """The server refuses this request (4xx); asking again would not help.

    Attributes:
        status: HTTP status.
        message: the server's words, without secrets.
        withheld: a content filter refused the prompt.
    """

    def __init__(self, status: int, message: str, *, withheld: bool = False) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status, self.message, self.withheld = status, message, withheld

    @property
    def failure(self) -> Failure:
        """What becomes of the item."""
        if self.withheld:
            return Failure(kind="refused", message=str(self))
        kind = "too-long" if self.status in (400, 413, 422) and _about_length(self.message) else "engine"
        return Failure(kind=kind, message=str(self))


_FILTER = re.compile(
    r"content[ _-]?(?:filter|policy|management policy)|responsible ?ai ?policy|moderation_blocked", re.IGNORECASE
)
_DEATH = re.compile(
    r"cuda (?:error|failure)|cublas_status|cudnn_status|nccl (?:error|failure|timeout|watchdog)"
    r"|nccl(?:unhandled|internal|system|remote)\w*error|illegal memory access|device-side assert"
    r"|engine ?(?:core|loop|process)?\W{0,3}(?:has |is |was )?(?:died|dead\w*|not running|shut ?down)"
    r"|(?:executor|worker)s?\b[^.]{0,40}\b(?:shut ?down|died|dead|terminated|crashed)"
    r"|background loop (?:has|is)|(?:server|engine) is shutting down",
    re.IGNORECASE,
)


def is_withheld(body: str) -> bool:
    """Say whether an error says that a content filter refused the prompt.

    >>> is_withheld('{"error": {"code": "content_filter", "message": "The response was filtered"}}')
    True
    """
    return _FILTER.search(body) is not None


def is_dead(words: str) -> bool:
    """Say whether a server's words are about the death of its own engine, and not about the request.

    >>> is_dead("CUDA error: an illegal memory access was encountered"), is_dead("Executor has been shut down")
    (True, True)
    >>> is_dead("temperature is not supported by the executor"), is_dead("CUDA graphs do not support logprobs")
    (False, False)
    """
    return _DEATH.search(words) is not None


def _about_length(message: str) -> bool:
    """Say whether a server's words are about a prompt that is too long.

    >>> _about_length("This model's maximum context length is 4096 tokens.")
    True
    >>> _about_length("logprobs is not supported")
    False
    """
    text = message.lower()
    return any(word in text for word in ("context", "length", "exceed", "max_num_tokens", "max_seq_len")) and any(
        word in text for word in ("token", "prompt", "context", "input")
    )


def utf8(body: bytes) -> str:
    """Return a reply's body as text; JSON is UTF-8, whatever charset its header names.

    Raises:
        MalformedError: it is not.

    >>> utf8("é".encode("latin-1"))
    Traceback (most recent call last):
    evalkit.adapters.openai.wire.MalformedError: the reply is not UTF-8 (byte 0xe9 at 0)
    """
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(f"the reply is not UTF-8 (byte {body[error.start]:#x} at {error.start})") from error


def parse_reply(text: str) -> Json:
    """Read a reply's body.

    Raises:
        MalformedError: not a JSON object, or a repeated key.
        UnusableError: a bare NaN or infinity, which is the engine's own and does not go away.
    """
    try:
        value = _DECODER.decode(text)
    except _NonFiniteError as error:
        raise UnusableError("non-finite", f"the reply holds the bare word {error}") from error
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"the reply is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(value, dict):
        raise MalformedError(f"the reply is not a JSON object: {text[:80]!r}")
    return value


class _NonFiniteError(Exception):
    """A bare NaN or infinity."""


def _constant(token: str) -> Any:
    raise _NonFiniteError(token)


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError("a repeated key")
    return row


_DECODER = json.JSONDecoder(parse_constant=_constant, object_pairs_hook=_unique)


def words_of(text: str) -> str:
    """Return the message in a server's error, whichever of the usual forms it has.

    >>> words_of('{"error": {"message": "no such model", "code": 404}}')
    'no such model'
    >>> words_of('<html>Bad Gateway</html>')
    '<html>Bad Gateway</html>'
    """
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return " ".join(text.split())[:SHOWN]
    for name in ("error", "message", "detail", "msg"):
        if isinstance(value, Mapping) and value.get(name):
            value = value[name]
    return " ".join((value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).split())[:SHOWN]
