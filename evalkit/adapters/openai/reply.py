"""The parts of a reply that every request reads.

In: a reply's JSON object. Out: its one choice, its token counts.
May not know: what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.adapters.openai.wire import Json, MalformedError, UnusableError, words_of
from evalkit.errors import EngineError

Choice = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens as the server counts them."""

    prompt: int
    completion: int


class ModelName:
    """The model that replies name; it must not change, whatever the server calls it."""

    def __init__(self) -> None:
        self.seen: str | None = None

    def check(self, reply: Json) -> None:
        """Compare a reply's model with the first one seen.

        Raises:
            EngineError: another model replied.
        """
        name = reply.get("model")
        if not isinstance(name, str):
            return
        if self.seen is None:
            self.seen = name
        elif self.seen != name:
            raise EngineError(
                f"the server changed its model in between: replies came from {self.seen!r}, now from {name!r}; "
                "next step: serve one model and repeat the same command, which resumes"
            )


def read_choice(reply: Json) -> Choice:
    """Return the one choice of a reply.

    Raises:
        MalformedError: there is none; asking again may help.
        UnusableError: the server refused to answer although it sent no error status.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        error = reply.get("error")
        said = f": {words_of(json.dumps({'error': error}))}" if error else ""
        raise MalformedError(f"the reply has no choice{said}")
    choice: Choice = choices[0]
    message = choice.get("message")
    refusal = message.get("refusal") if isinstance(message, Mapping) else None
    if refusal or choice.get("finish_reason") == "content_filter":
        raise UnusableError("refused", f"the server withheld the answer: {str(refusal or 'content filter')[:200]}")
    return choice


def read_usage(reply: Json) -> Usage:
    """Return the token counts of a reply.

    Raises:
        MalformedError: the reply has none.
    """
    usage = reply.get("usage")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, Mapping) else []
    prompt, completion = counts if len(counts) == 2 else (None, None)
    # A server may leave out a count of 0.
    completion = 0 if completion is None and isinstance(prompt, int) else completion
    if not isinstance(prompt, int) or not isinstance(completion, int):
        raise MalformedError("the reply has no token counts (usage)")
    return Usage(prompt=prompt, completion=completion)
