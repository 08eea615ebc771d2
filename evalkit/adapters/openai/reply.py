"""The parts of a reply that every request reads.

In: a reply's JSON object. Out: its one choice, its token counts.
May not know: what was asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


def text_of(choice: Choice) -> tuple[str, str]:
    """Return a choice's answer, and the reasoning that the server sent apart ("" for none).

    A model that spent all its tokens on reasoning has a null answer: an empty one, and the model's own. Content may
    also be a list of parts.

    Raises:
        MalformedError: there is no field for a text, or it holds something else.

    >>> text_of({"message": {"content": None, "reasoning_content": "Hm."}})
    ('', 'Hm.')
    >>> text_of({"message": {"content": [{"type": "text", "text": "Yes"}, {"type": "text", "text": "."}]}})
    ('Yes.', '')
    """
    message = choice.get("message")
    holder, field = (message, "content") if isinstance(message, Mapping) else (choice, "text")
    if field not in holder:
        raise MalformedError(f"the choice has no text: {str(dict(choice))[:120]}")
    found, thought = holder[field], holder.get("reasoning_content") or holder.get("reasoning")
    if isinstance(found, list):
        parts = [part for part in found if isinstance(part, Mapping)]
        thoughts = [part.get("thinking") or part.get("reasoning") for part in parts]
        thought = thought or _joined(thoughts)
        found = _joined([part.get("text") for part in parts if part.get("type") in ("text", "output_text", None)])
    if found is not None and not isinstance(found, str):
        raise MalformedError(f"the choice has no text: {str(dict(choice))[:120]}")
    return found or "", thought if isinstance(thought, str) else ""


def _joined(parts: Sequence[Any]) -> str:
    """Join texts; a part may itself be a list of parts that have texts."""
    texts: list[Any] = []
    for part in parts:
        texts += [one.get("text") for one in part if isinstance(one, Mapping)] if isinstance(part, list) else [part]
    return "".join(text for text in texts if isinstance(text, str))


def read_usage(reply: Json) -> Usage:
    """Return the token counts of a reply.

    Raises:
        UnusableError: the reply has none; a server that leaves them out does so every time.
    """
    usage = reply.get("usage")
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(usage, Mapping) else []
    prompt, completion = counts if len(counts) == 2 else (None, None)
    # A server may leave out a count of 0.
    completion = 0 if completion is None and isinstance(prompt, int) else completion
    if not isinstance(prompt, int) or not isinstance(completion, int):
        raise UnusableError("engine", "the reply has no token counts (usage), so nothing shows what was fed or paid")
    return Usage(prompt=prompt, completion=completion)
