"""Secrets taken out of whatever is about to be written or shown.

In: the environment, once, from the command line; then texts and settings. Out: the same with each secret replaced.
Must not depend on: where a text goes.

Two ways, because each misses what the other finds: values of the process's own secret variables, wherever they turn up
(a server that repeats the key in an error, a URL, a header, an encoded form), and shapes that are secrets whoever holds
them. Shapes are looked for in settings, commands and failures alone: a model's answer may show anything, and is
evidence.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

REDACTED = "[redacted]"

_VARIABLE = re.compile(
    r"(^|_)(API_?KEY|ACCESS_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|COOKIE|BEARER|PAT)S?(_|$)",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"(^|[_\-.])(api[_-]?key|access[_-]?key|secret|secret[_-]?key|password|passwd|passphrase|authorization|bearer|"
    r"credentials?|cookie|(access|auth|api|hf|bearer|session|refresh)[_-]token)s?$",
    re.IGNORECASE,
)
_LOGIN = re.compile(r"//[^/@\s]+@")
_QUERY = re.compile(
    r"([?&][^=&?\s]{0,64}(?:key|token|secret|sig|auth|password)[^=&?\s]{0,64}=)[^&\s\"']+", re.IGNORECASE
)
_HEADER = re.compile(r"((?:authorization|x-api-key|api-key|cookie)[\"']?\s*[:=]\s*[\"']?)[^\"'\s,;}]+", re.IGNORECASE)
_SHAPES = re.compile(
    r"\b(?:sk-|hf_|nvapi-|ghp_|github_pat_|xox[abp]-|AKIA)[A-Za-z0-9_.\-]{16,}|\bBearer [A-Za-z0-9_.\-+/=]{16,}|"
    r"\bBasic (?![A-Z]?[a-z]+\b)[A-Za-z0-9+/]{8,}={0,2}"
)

_SHORTEST = 8
_WORD = re.compile(r"[a-z]+|[A-Z]+|[0-9]{1,11}|[./][\w./\-]*")
"""A value that is one word, a small number or a path would be found in ordinary text; it is left alone."""

_known: tuple[str, ...] = ()


def remember_secrets(environment: Mapping[str, str]) -> None:
    """Remember the values of variables whose names say that they are secret, in every form they may turn up in.

    Args:
        environment: of the process; what was remembered before is forgotten.
    """
    global _known  # noqa: PLW0603 (one process has one environment, and every writer must know its secrets)
    forms: set[str] = set()
    for name, value in environment.items():
        if _VARIABLE.search(name):
            for part in {value, *value.splitlines()}:
                forms |= _forms(part.strip())
    _known = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def remember(value: str) -> None:
    """Remember one secret where it is read: whoever reads it knows that it is one, whatever it is called or looks like.

    Args:
        value: of 8 characters or more; a shorter one would be found in ordinary text, and is left alone.
    """
    global _known  # noqa: PLW0603 (as in `remember_secrets`)
    forms = {*_known, *_encoded(value.strip())}
    _known = tuple(sorted(forms, key=lambda form: (-len(form), form)))


def remember_url(url: str) -> None:
    """Remember the secrets of an address: its password, and values of its query that are named like secrets.

    >>> remember_url("postgresql://me:Blue-Horse-9@host/nights?sslmode=require")
    >>> redact_values("could not connect with Blue-Horse-9")
    'could not connect with [redacted]'
    """
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return
    for value in (password, *(value for name, value in parse_qsl(parts.query) if _VARIABLE.search(name))):
        if value:
            remember(value)
            remember(unquote(value))


def _forms(value: str) -> set[str]:
    return set() if _WORD.fullmatch(value) else _encoded(value)


def _encoded(value: str) -> set[str]:
    if len(value) < _SHORTEST:
        return set()
    encoded = base64.b64encode(value.encode()).decode().rstrip("=")
    return {
        value,
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        quote(value, safe=""),
        quote(value),
        html.escape(value),
        repr(value)[1:-1],
        encoded,
    }


def redact_values(text: str) -> str:
    """Replace the values that were remembered; nothing else is touched."""
    for form in _known:
        if form in text:
            text = text.replace(form, REDACTED)
    return text


def redact_text(text: str) -> str:
    """Replace remembered values and everything that looks like a secret: for messages, commands and addresses.

    >>> redact_text("GET http://me:pass@host/v1?token=abc with Authorization: Bearer 0123456789abcdef")
    'GET http://[redacted]@host/v1?token=[redacted] with Authorization: [redacted]'
    """
    text = _LOGIN.sub(f"//{REDACTED}@", redact_values(text))
    text = _SHAPES.sub(REDACTED, _QUERY.sub(rf"\1{REDACTED}", text))
    return _HEADER.sub(rf"\1{REDACTED}", text)


def redact_settings(value: Any, name: str = "") -> Any:
    """Return settings without secrets: those known by name, and those in texts. Doing it twice changes nothing more.

    >>> redact_settings({"api_key": "abc", "api_key_env": "MY_KEY", "end_tokens": [2], "eos_token": "</s>"})
    {'api_key': '[redacted]', 'api_key_env': 'MY_KEY', 'end_tokens': [2], 'eos_token': '</s>'}
    """
    if isinstance(value, str):
        return REDACTED if value and _NAME.search(name) else redact_text(value)
    if isinstance(value, Mapping):
        return {str(key): redact_settings(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_settings(inner, name) for inner in value]
    return value


# Secrets taken out of settings before they are stored.


_SECRET_NAME = re.compile(
    r"(^|[_-])(api[_-]?key|access[_-]?key|key|token|secret|password|passwd|auth|authorization|bearer|credentials?|"
    r"headers?|cookie)s?$",
    re.IGNORECASE,
)
_HARMLESS = re.compile(r"(true|false|none|null|-?[0-9.]+|)", re.IGNORECASE)


def redacted(value: Any, name: str = "") -> Any:
    """Return a setting without secrets; a switch such as `add_bos_token: true` is kept.

    >>> redacted({"pretrained": "m", "api_key": "abc", "add_bos_token": "True"})
    {'pretrained': 'm', 'api_key': '[redacted]', 'add_bos_token': 'True'}
    >>> redacted("http://me:pass@host/v1?token=abc")
    'http://[redacted]@host/v1?token=[redacted]'
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if _SECRET_NAME.search(name) and not (isinstance(value, str) and _HARMLESS.fullmatch(value)):
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): redacted(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner) for inner in value]
    return redact_text(str(value))
