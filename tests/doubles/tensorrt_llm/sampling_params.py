"""Sampling parameters: a keyword-only dataclass, so an unknown keyword is a TypeError."""

from __future__ import annotations

from dataclasses import field, make_dataclass
from typing import Any

from .eras import listed, logprobs_limit, since


def _check(self: Any) -> None:
    limit = logprobs_limit()
    for name in ("logprobs", "prompt_logprobs"):
        value = getattr(self, name)
        if limit is not None and value is not None and value > limit:
            raise ValueError(f"{name}={value} is above the limit of {limit}")
    if self.temperature is not None and self.temperature < 0:
        raise ValueError("temperature must not be negative")


def _greedy(self: Any) -> bool:
    if since("1.2.0rc0"):
        unset = self.temperature is None and self.top_k is None and self.top_p is None
        return unset or self.top_k == 1 or self.top_p == 0.0 or self.temperature == 0
    return self.top_k in (None, 1) and self.top_p in (None, 0.0)


SamplingParams = make_dataclass(
    "SamplingParams",
    [(name, type_, field(default=default)) for name, (type_, default) in listed("SamplingParams").items()],
    kw_only=True,
    namespace={"__post_init__": _check, "_greedy_decoding": property(_greedy)},
)
