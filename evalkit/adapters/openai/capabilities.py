"""What a probe found out about a server.

In: nothing. Out: `Capabilities`, and the words for people.
May not know: how it was found out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evalkit.adapters.openai.logprobs import Candidate
from evalkit.adapters.openai.matching import Matching

Scoring = Literal["echo", "next-token", "none"]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a server can do, as far as it was seen to do it.

    Attributes:
        completions, chat: whether text and messages can be sent.
        templated: the model has a chat template; False only where that is known, and then no messages are sent.
        scoring: how continuations are scored; "none" where no way was proved.
        why_not: for each way of scoring that was not proved, what was seen.
        top_k: candidates at a position.
        matching: how candidates are named.
        ids: prompts are sent as token ids.
        forced: any token's log-probability can be had by making it the generated one.
        seed: the server takes a seed.
        strict: unknown fields are refused with 400, which is why none is sent that was not tried.
        fixed: further fields of every generation, so that no default of the server's applies.
        sampled: further fields of sampled generations.
        canary: the candidates after a known prompt, to notice that the model was changed.
        known_prompt: that prompt, as it was sent.
        seen: what was looked at, and what was found, for people.
        warnings: what the results may not rest on.
    """

    completions: bool
    chat: bool
    templated: bool = True
    scoring: Scoring = "none"
    why_not: Mapping[str, str] = field(default_factory=dict)
    top_k: int = 0
    matching: Matching = "text"
    ids: bool = False
    forced: bool = False
    seed: bool = False
    strict: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    sampled: Mapping[str, Any] = field(default_factory=dict)
    canary: tuple[Candidate, ...] = ()
    known_prompt: str | tuple[int, ...] = ""
    seen: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def refusal(self) -> str:
        """Why items cannot be scored, way by way."""
        reasons = "; ".join(f"{way}: {why}" for way, why in self.why_not.items())
        return f"items cannot be scored on this server ({reasons or 'scoring is switched off by the option scoring'})"
