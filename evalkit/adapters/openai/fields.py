"""Fields that switch off a server's own decoding defaults, tried before they are sent.

In: an asker and the server's family. Out: the fields it accepts.
May not know: scoring.

Temperature and top_p alone are not enough: llama.cpp samples from 40 candidates unless told otherwise, and servers
that read a checkpoint's generation settings may apply a repetition penalty even to greedy answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.adapters.openai.asking import COMPLETIONS, Asker
from evalkit.adapters.openai.proofs import RefusedError, attempt
from evalkit.adapters.openai.reply import read_choice

FIXED: Mapping[str, Mapping[str, Any]] = {
    "llamacpp": {"repeat_penalty": 1.0},
    "vllm": {"repetition_penalty": 1.0},
    "sglang": {"repetition_penalty": 1.0},
    "tensorrt_llm": {"repetition_penalty": 1.0},
}
"""Server family to fields of every generation."""

SAMPLED: Mapping[str, Mapping[str, Any]] = {
    "llamacpp": {"top_k": 0, "min_p": 0.0},
    "vllm": {"top_k": -1, "min_p": 0.0},
    "sglang": {"top_k": -1, "min_p": 0.0},
    "tensorrt_llm": {"top_k": 0, "min_p": 0.0},
}
"""Server family to fields of sampled generations."""

UNKNOWN_FIELD = {"evalkit_unknown_field": 1}


def accepted(asker: Asker, path: str, prompt: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Say whether a request with these further fields is accepted.

    Raises:
        NotProvedError: no reply could be used, so nothing is known.
    """
    body = asker.body(**prompt, max_tokens=1, **fields)
    try:
        attempt(lambda: asker.transport.post(path, body, read_choice))
    except RefusedError:
        return False
    return True


def accepted_of(asker: Asker, path: str, prompt: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields that are accepted: all of them at once, or one by one."""
    if not fields or accepted(asker, path, prompt, fields):
        return dict(fields)
    return {name: value for name, value in fields.items() if accepted(asker, path, prompt, {name: value})}


def plain_prompt(path: str, text: str) -> dict[str, Any]:
    """Return a prompt in the form of an endpoint."""
    return {"prompt": text} if path == COMPLETIONS else {"messages": [{"role": "user", "content": text}]}
