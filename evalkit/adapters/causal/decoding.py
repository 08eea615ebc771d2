"""Next tokens and ends of answers.

In: logits of the last position, tokens generated so far. Out: the next token; the answer's text once it has ended.
May not know: models, batches, caches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from evalkit.adapters.base import Failure, GenerateRequest, Generation

_BYTES = 4
"""Most tokens one character takes: UTF-8 bytes."""


@dataclass(slots=True, eq=False)
class Answer:
    """One answer in the making."""

    index: int
    request: GenerateRequest
    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    dice: Any = None

    @property
    def room(self) -> int:
        """Tokens that prompt and answer may take."""
        return len(self.prompt) + self.request.max_tokens

    def choose(self, logits: Any) -> int | Failure:
        """Pick the next token from fp32 logits of shape (vocabulary,)."""
        if not bool(torch.isfinite(logits.max())):  # a NaN, an infinite favourite, or no favourite at all
            return Failure(kind="non-finite", message=f"logits of answer token {len(self.tokens)} are not finite")
        if self.request.temperature == 0.0:
            return int(logits.argmax())
        if self.dice is None:
            self.dice = torch.Generator().manual_seed(self.request.seed)
        kept = nucleus(torch.softmax(logits.cpu().double() / self.request.temperature, dim=-1), self.request.top_p)
        return int(torch.multinomial(kept, 1, generator=self.dice))

    def ended(self, token: int, tokenizer: Any, ends: tuple[int, ...]) -> Generation | None:
        """Take a token; return the answer if it ends here."""
        if token in ends:
            return self._done(tokenizer, "stop")
        self.tokens.append(token)
        if self._stopped(tokenizer):
            return self._done(tokenizer, "stop")
        return self._done(tokenizer, "length") if len(self.tokens) >= self.request.max_tokens else None

    def _stopped(self, tokenizer: Any) -> bool:
        if not self.request.stop:
            return False
        window = _BYTES * max(len(text.encode()) for text in self.request.stop) + _BYTES
        tail = decode(tokenizer, self.tokens[-window:])
        return any(text in tail for text in self.request.stop)

    def _done(self, tokenizer: Any, finish: Literal["stop", "length"]) -> Generation:
        text = decode(tokenizer, self.tokens)
        places = [text.find(stop) for stop in self.request.stop]
        return Generation(
            text=text[: min([place for place in places if place >= 0], default=len(text))],
            finish=finish,
            prompt_tokens=len(self.prompt),
            completion_tokens=len(self.tokens),
        )


def nucleus(probabilities: Any, top_p: float) -> Any:
    """Keep the fewest most likely tokens whose probabilities reach `top_p`; shape (vocabulary,), not renormalised."""
    if top_p >= 1.0:
        return probabilities
    ordered, places = probabilities.sort(descending=True, stable=True)
    dropped = places[ordered.cumsum(dim=-1) - ordered >= top_p]
    return probabilities.index_fill(0, dropped, 0.0)


def decode(tokenizer: Any, tokens: list[int]) -> str:
    """Turn tokens into text, without special tokens and without tidying spaces."""
    return str(tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))
