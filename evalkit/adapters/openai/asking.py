"""The three questions that scoring asks of a server, each with every decoding parameter said.

In: a prompt as text or token ids. Out: positions with log-probabilities, and the server's token counts.
Must not depend on: what the numbers are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.openai.wire import (
    Candidate,
    Json,
    ModelName,
    Position,
    UnusableError,
    Usage,
    read_choice,
    read_positions,
    read_usage,
)

Prompt = str | list[int]

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""The usual name of an answer's limit, and the one that some chat endpoints want instead."""

BIAS = 100
"""The largest bias that every server accepts; added to a logit, it makes any token the greedy one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NextToken:
    """What a model would say next.

    Attributes:
        said: the token that was generated.
        candidates: the likeliest tokens and the generated one, likeliest first, no token twice.
        prompt_tokens: length of the prompt as the server counts it.
    """

    said: Position
    candidates: tuple[Candidate, ...]
    prompt_tokens: int


class Asker:
    """Asks one model of one server.

    Args:
        transport: the server.
        model: id of the model.
        extra: further fields of every request.
        name: watches the model that replies name.
    """

    def __init__(self, transport: Transport, model: str, extra: Mapping[str, Any], name: ModelName) -> None:
        self.transport, self.model, self.name = transport, model, name
        self._extra = dict(extra)
        self.chat_limit = LIMIT
        """Name of the field that limits an answer to messages."""

    def body(self, **fields: Any) -> Json:
        """Return a request's body: model, greedy decoding unless said otherwise, further fields, and `fields`."""
        found = {"model": self.model, "temperature": 0, "top_p": 1.0, **self._extra, **fields}
        if "messages" in found and self.chat_limit != LIMIT:
            found[self.chat_limit] = found.pop(LIMIT)
        return found

    def next_token(self, prompt: Prompt, k: int, *, force: int | None = None) -> NextToken:
        """Ask for one token and the `k` likeliest ones; `force` is a token id that shall be the generated one."""
        fields: Json = {"prompt": prompt, "max_tokens": 1, "logprobs": k}
        if force is not None:
            fields["logit_bias"] = {str(force): BIAS}

        def read(reply: Json) -> NextToken:
            self.name.check(reply)
            positions, usage = read_positions(read_choice(reply)), read_usage(reply)
            if len(positions) != 1:
                message = f"one token was asked for, and {len(positions)} came with log-probabilities"
                raise UnusableError("missing-token", message)
            return NextToken(
                said=positions[0], candidates=_candidates(positions[0]), prompt_tokens=_prompt_tokens(usage, prompt)
            )

        return self.transport.post(COMPLETIONS, self.body(**fields), read)

    def echo(self, prompt: Prompt) -> tuple[Position, ...]:
        """Ask for the log-probabilities of the prompt's own tokens; those of generated tokens are cut off."""

        def read(reply: Json) -> tuple[Position, ...]:
            self.name.check(reply)
            positions, usage = read_positions(read_choice(reply)), read_usage(reply)
            fed = _prompt_tokens(usage, prompt)
            if not fed <= len(positions) <= fed + max(1, usage.completion):
                message = f"the prompt has {fed} tokens, and {len(positions)} came with log-probabilities"
                raise UnusableError("missing-token", message)
            return positions[:fed]

        return self.transport.post(COMPLETIONS, self.body(prompt=prompt, max_tokens=1, logprobs=1, echo=True), read)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Ask how many tokens a prompt has, at the price of one generated token."""

        def read(reply: Json) -> int:
            self.name.check(reply)
            read_choice(reply)
            return read_usage(reply).prompt

        return self.transport.post(COMPLETIONS, self.body(prompt=prompt, max_tokens=1), read)


def _prompt_tokens(usage: Usage, prompt: Prompt) -> int:
    """Return the prompt's length; a server that fed other tokens than it was sent has cut it or added to it."""
    if not isinstance(prompt, str) and usage.prompt != len(prompt):
        message = (
            f"{len(prompt)} token ids were sent and the server fed {usage.prompt}: it cut or lengthened the prompt"
        )
        raise UnusableError("engine", message)
    return usage.prompt


def _candidates(position: Position) -> tuple[Candidate, ...]:
    found = list(position.top)
    if position.logprob is not None and all((one.id, one.text) != (position.id, position.text) for one in found):
        found.append(Candidate(text=position.text, id=position.id, logprob=position.logprob))
    return tuple(sorted(found, key=lambda one: -one.logprob))


def top_text(candidates: Sequence[Candidate]) -> str:
    """Return the likeliest candidate's text; "" where there is none."""
    return candidates[0].text if candidates else ""
