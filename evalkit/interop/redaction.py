"""Secrets taken out of settings before they are stored.

In: settings as another tool wrote them. Out: the same with each secret replaced by a fixed word.
May not know: which tool wrote them. Another tool's names are not evalkit's, so more of them are taken for secrets here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evalkit.redaction import REDACTED, redact_text

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
