"""Which way of generating a model may use, found by trying.

In: a loaded model and its scoring path. Out: `Way`.
May not know: text, recipes.

Keys and values kept from step to step, rows padded on the left, rows that join later: a model whose layers forget or
keep a state of their own may answer from a wrong past without any error. So each way is tried on the small sibling of
`selfcheck`, with a window short enough to matter, and must give the numbers of one pass over the whole text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from evalkit.adapters.base import GenerateRequest
from evalkit.adapters.causal.decoding import Answer
from evalkit.adapters.causal.forward import Path
from evalkit.adapters.causal.generation import Generator, Way
from evalkit.adapters.causal.selfcheck import TOLERANCE, UNFIT, VOCABULARY, keeps_all_tokens, small_sibling

_SEED = 20240825
_PROMPTS, _LENGTHS = (5, 12, 3), (14, 6, 9)
"""Prompt and answer lengths, tokens: the second row leaves early, the third one joins then."""


def choose_way(model: Any, path: Path) -> Way:
    """Return the fastest way whose numbers are those of one pass over the whole text.

    A model that is scored by a packed path has shown already that it obeys masks, positions and a cache.
    """
    if path != "plain":
        return "batched"
    ways: tuple[Way, ...] = ("batched", "alone") if keeps_all_tokens(model) else ("alone",)
    try:
        sibling = small_sibling(model)
    except UNFIT:
        return ways[-1] if keeps_all_tokens(model) else "recomputed"
    return next((way for way in ways if _agrees(sibling, way)), "recomputed")


def _agrees(sibling: Any, way: Way) -> bool:
    dice = np.random.default_rng(_SEED)
    rows = [_Watched.made(at, dice, *lengths) for at, lengths in enumerate(zip(_PROMPTS, _LENGTHS, strict=True))]
    try:
        list(Generator(sibling, _NoText(), ends=(), rows=2, tokens=10**6, way=way).run(rows))
        return all(_furthest(sibling, row) <= TOLERANCE for row in rows)
    except UNFIT:
        return False


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
def _furthest(sibling: Any, row: _Watched) -> float:
    """Return how far what was seen step by step lies from one pass over the whole text, nats."""
    whole = torch.as_tensor([[*row.prompt, *row.planned[:-1]]], device=sibling.get_input_embeddings().weight.device)
    wanted = sibling(input_ids=whole, use_cache=False).logits[0, len(row.prompt) - 1 :].float().log_softmax(dim=-1)
    return float((torch.stack(row.seen).log_softmax(dim=-1) - wanted).abs().max())


class _Watched(Answer):
    """An answer whose tokens are planned and whose logits are kept."""

    planned: list[int]
    seen: list[Any]

    @classmethod
    def made(cls, index: int, dice: np.random.Generator, prompt: int, length: int) -> _Watched:
        row = cls(
            index=index,
            request=GenerateRequest(prompt="", max_tokens=length),
            prompt=dice.integers(0, VOCABULARY, prompt).tolist(),
        )
        row.planned, row.seen = dice.integers(0, VOCABULARY, length).tolist(), []
        return row

    def choose(self, logits: Any) -> int:
        self.seen.append(logits)
        return self.planned[len(self.tokens)]


class _NoText:
    """Stands in for a tokenizer: the siblings' tokens mean nothing."""

    def decode(self, *_: object, **__: object) -> str:
        return ""
