"""The three questions that scoring asks of a server, each with every decoding parameter said.

In: a prompt as text or token ids. Out: positions with log-probabilities, and the server's token counts.
Must not depend on: what the numbers are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.openai.wire import (
    Candidate,
    Json,
    ModelName,
    Position,
    RejectedError,
    UnusableError,
    Usage,
    read_choice,
    read_positions,
    read_usage,
)
from evalkit.errors import UsageError

T = TypeVar("T")

Prompt = str | list[int]

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

LIMIT, NEWER_LIMIT = "max_tokens", "max_completion_tokens"
"""The usual name of an answer's limit, and the one that some chat endpoints want instead."""

_SPARED = ("top_p", "temperature", "stop")
"""Fields that a request can do without, in the order in which they go where a refusal names several: a `top_p` of 1
says nothing, and answers are cut at stop texts here. Without a temperature answers are the server's own samples."""

_NEUTRAL: Mapping[str, Any] = {"top_p": 1.0}
"""Refused field to the one value that means the same as no such field."""

_TOO_SMALL = re.compile(
    r"higher max_tokens|output limit was reached"
    r"|max_(?:completion_|output_|new_)?tokens\W.{0,60}(?:below minimum|at least \d+|greater than or equal)",
    re.IGNORECASE,
)
_LEAST_TRIED = 4096
"""Tokens; a probe's answers are that long at most where a server refuses short ones (reasoning models do)."""

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
        self.settled = False
        """No further field is left out: the probe is over, and what it learnt is part of the identity."""
        self._refused: dict[str, dict[str, str]] = {COMPLETIONS: {}, CHAT: {}}
        self._least = 1

    @property
    def refused(self) -> dict[str, dict[str, str]]:
        """Path to fields that are not sent there (`max_tokens`: sent as `max_completion_tokens`), each with why."""
        return {path: dict(names) for path, names in self._refused.items() if names}

    def body(self, **fields: Any) -> Json:
        """Return a request's body: model, greedy decoding unless said otherwise, further fields, and `fields`."""
        return {"model": self.model, "temperature": 0, "top_p": 1.0, **self._extra, **fields}

    def post(self, path: str, body: Json, read: Callable[[Json], T]) -> T:
        """Ask without the fields that the server refuses; while probing, learn which they are.

        Hosted models refuse fields one by one (`temperature` of GPT-5, `top_p` beside `temperature` of Claude): each
        that a refusal names is left out, or renamed, and the request is sent again.

        Raises:
            UsageError: a refused field is asked for with a value that its lack would change.
            As `Transport.post`.
        """
        for _ in range(2 * len(body)):
            sent = self._taken(path, body)
            try:
                return self.transport.post(path, sent, read)
            except RejectedError as error:
                if self.settled or not self._learnt(path, sent, error):
                    raise
        return self.transport.post(path, self._taken(path, body), read)

    def _taken(self, path: str, body: Json) -> Json:
        refused = self._refused[path]
        for name, neutral in _NEUTRAL.items():
            if name in refused and body.get(name, neutral) != neutral:
                raise UsageError(
                    f"{self.transport} takes no {name} ({refused[name]}), and {name} {body[name]} is asked for; next "
                    f"step: ask for {name} {neutral}, or serve the model with a server that takes it"
                )
        sent = {name: value for name, value in body.items() if name not in refused or name == LIMIT}
        if LIMIT in sent:
            limit = max(sent.pop(LIMIT), 1 if self.settled else self._least)
            sent[NEWER_LIMIT if LIMIT in refused else LIMIT] = limit
        return sent

    def _learnt(self, path: str, sent: Json, error: RejectedError) -> bool:
        """Note what a refusal names; False if it names nothing that another request could do without."""
        refused, words = self._refused[path], error.message
        if _TOO_SMALL.search(words) and self._least < _LEAST_TRIED:
            self._least = 16 * self._least
            return True
        if NEWER_LIMIT in error.fields and LIMIT in refused:
            return False  # neither name is taken
        if LIMIT in error.fields:
            refused[LIMIT] = words
            return True
        name = next((one for one in _SPARED if one in error.fields and one in sent), None)
        if name is None:
            return False
        refused[name] = words
        return True

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

        return self.post(COMPLETIONS, self.body(**fields), read)

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

        return self.post(COMPLETIONS, self.body(prompt=prompt, max_tokens=1, logprobs=1, echo=True), read)

    def prompt_tokens(self, prompt: Prompt) -> int:
        """Ask how many tokens a prompt has, at the price of one generated token."""

        def read(reply: Json) -> int:
            self.name.check(reply)
            read_choice(reply)
            return read_usage(reply).prompt

        return self.post(COMPLETIONS, self.body(prompt=prompt, max_tokens=1), read)


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
