"""A cap on what a judging may ask, held before each question, not noticed after it.

In: limits, requests on their way, what replies used. Out: how many requests may still go.
May not know: prices, what is asked.

What a request may use is bounded before it goes: no token is shorter than one byte, and no reply longer than its limit.
When a reply says what was used, that takes the place of the bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.adapters.base import GenerateRequest, Generation, ScoreRequest
from evalkit.errors import InterruptedRunError

_OVERHEAD = 64
"""Tokens that a chat template adds to a prompt, at most."""

_CHARACTERS_A_TOKEN = 4
Request = GenerateRequest | ScoreRequest


@dataclass(kw_only=True)
class Budget:
    """Limits and what was used.

    Attributes:
        max_calls: requests that may go; None for no limit.
        max_tokens: tokens that may be read and written together; None for no limit.
        calls: requests that went.
        prompt_tokens, completion_tokens: used, as far as replies say; where they do not, prompts count with four
            characters for each token.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def affordable(self, requests: Sequence[Request]) -> int:
        """Return how many of the requests, from the first on, may go at once without passing a limit.

        Raises:
            InterruptedRunError: not even the first.
        """
        count = len(requests) if self.max_calls is None else min(len(requests), self.max_calls - self.calls)
        if self.max_tokens is not None:
            left = self.max_tokens - self.prompt_tokens - self.completion_tokens
            fits = 0
            for request in requests[:count]:
                left -= most_tokens(request)
                if left < 0:
                    break
                fits += 1
            count = fits
        if requests and count < 1:
            raise InterruptedRunError(
                f"the cap is reached after {self.calls} questions and {self.prompt_tokens + self.completion_tokens:,} "
                f"tokens ({self._limits()}); {len(requests)} questions are left; what was judged is on the disk; "
                "next step: a higher cap and the same command, which resumes"
            )
        return count

    def used(self, request: Request, reply: object) -> None:
        """Count one request that went and what came back."""
        self.calls += 1
        if isinstance(reply, Generation):
            self.prompt_tokens += reply.prompt_tokens
            self.completion_tokens += reply.completion_tokens
        else:
            self.prompt_tokens += -(-len(_text(request)) // _CHARACTERS_A_TOKEN)

    def _limits(self) -> str:
        named = ((self.max_calls, "questions"), (self.max_tokens, "tokens"))
        return ", ".join(f"at most {limit:,} {what}" for limit, what in named if limit is not None)


def most_tokens(request: Request) -> int:
    """Return an upper bound of the tokens a request can use."""
    written = request.max_tokens if isinstance(request, GenerateRequest) else 0
    return len(_text(request).encode("utf-8", "replace")) + _OVERHEAD + written


def _text(request: Request) -> str:
    if isinstance(request, ScoreRequest):
        return request.context + max(request.continuations, key=len)
    if isinstance(request.prompt, str):
        return request.prompt
    return "\n".join(message.content for message in request.prompt)
