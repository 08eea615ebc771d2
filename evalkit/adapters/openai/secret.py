"""The key of a server: read from the environment, sent in one header, shown nowhere.

In: the name of an environment variable. Out: a key that can be sent and can take itself out of texts.
May not know: HTTP.

The environment is read here and not by the command line, because every engine of a suite, the judge's too, names a
variable of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from evalkit.errors import UsageError
from evalkit.redaction import remember

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
