"""Sampling parameters: a keyword-only dataclass, so an unknown keyword is a TypeError."""

from __future__ import annotations

from dataclasses import field, fields, make_dataclass
from typing import Any

from .eras import logprobs_limit, since

_FIELDS: list[Any] = [
    ("end_id", int, field(default=None)),
    ("pad_id", int, field(default=None)),
    ("max_tokens", int, field(default=32)),
    ("temperature", float, field(default=None)),
    ("top_k", int, field(default=None)),
    ("top_p", float, field(default=None)),
    ("min_p", float, field(default=None)),
    ("seed", int, field(default=None)),
    ("n", int, field(default=1)),
    ("best_of", int, field(default=None)),
    ("use_beam_search", bool, field(default=False)),
    ("stop", list, field(default=None)),
    ("stop_token_ids", list, field(default=None)),
    ("include_stop_str_in_output", bool, field(default=False)),
    ("guided_decoding", Any, field(default=None)),
    ("logprobs", int, field(default=None)),
    ("prompt_logprobs", int, field(default=None)),
    ("return_context_logits", bool, field(default=False)),
    ("return_generation_logits", bool, field(default=False)),
    ("exclude_input_from_output", bool, field(default=True)),
    ("detokenize", bool, field(default=True)),
    ("add_special_tokens", bool, field(default=True)),
    ("skip_special_tokens", bool, field(default=True)),
    ("ignore_eos", bool, field(default=False)),
    ("truncate_prompt_tokens", int, field(default=None)),
]
_NEW: list[Any] = [
    ("logprobs_mode", str, field(default="processed")),
    ("logprobs_simple_format", bool, field(default=False)),
    ("prompt_logprobs_simple_format", bool, field(default=False)),
]


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
    _FIELDS + (_NEW if since("1.3.0rc12") else []),
    kw_only=True,
    namespace={"__post_init__": _check, "_greedy_decoding": property(_greedy)},
)

assert {"logprobs", "prompt_logprobs"} <= {one.name for one in fields(SamplingParams)}
