"""Batched generation with keys and values kept, rows leaving as they finish and new ones joining.

In: a model, prompts as token ids. Out: (index, answer or failure), as soon as each answer ends.
May not know: text beyond what ends an answer, recipes.

Prompts are padded on the left with their own positions, so a row's numbers depend on its neighbours by rounding only;
sampling draws from a generator of the request's own. No decoding default of the model applies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from transformers.cache_utils import DynamicCache

from evalkit.adapters.base import Failure, Generation
from evalkit.adapters.causal.attention import attention_by, by_head_groups
from evalkit.adapters.causal.decoding import Answer
from evalkit.adapters.causal.memory import ran_out_of_memory

Step = tuple[int, "Generation | Failure"]

Way = Literal["batched", "alone", "recomputed"]
"""How a model can generate; `alone` keeps keys and values, `recomputed` feeds the whole text for each token."""

PADDING = 0.2
"""Share of padding up to which prompts of different length are fed in one pass."""

PASS = 256
"""Tokens below which a pass is not worth splitting, whatever its padding."""


class Generator:
    """Generates answers with one model.

    Args:
        model: causal model in evaluation mode.
        tokenizer: its tokenizer.
        ends: tokens that end an answer.
        rows: answers generated at once.
        tokens: limit of rows times longest prompt and answer; rows are halved whenever memory runs out.
        way: what the model can do (`stepping.choose_way`).
        enough: what `tokens` would be with memory enough; None for the same.

    Attributes:
        cramped: whether a lack of memory has kept an answer out of a batch.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        ends: tuple[int, ...],
        rows: int,
        tokens: int,
        way: Way = "batched",
        enough: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.ends = model, tokenizer, ends
        self.rows, self.tokens, self.way = (rows if way == "batched" else 1), tokens, way
        self.enough, self.cramped = max(tokens, enough or 0), False
        self.device = model.get_input_embeddings().weight.device

    def run(self, answers: Sequence[Answer]) -> Iterator[Step]:
        """Yield (index, answer or failure) for each answer once."""
        waiting = sorted(answers, key=lambda answer: (answer.room, answer.index))
        while waiting:
            batch = _Whole(self) if self.way == "recomputed" else _Batch(self)
            try:
                yield from self._drain(batch, waiting)
            except (MemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                yield from self._shrink(batch.answers or [waiting.pop()], waiting, error)

    def _drain(self, batch: _Batch, waiting: list[Answer]) -> Iterator[Step]:
        while waiting or batch.answers:
            joining = self._fitting(batch, waiting)
            if not joining:
                yield from batch.step()
            for count in _passes([len(answer.prompt) for answer in reversed(waiting[len(waiting) - joining :])]):
                yield from batch.join([waiting.pop() for _ in range(count)])

    def _fitting(self, batch: _Batch, waiting: list[Answer]) -> int:
        """How many answers may join: none until half the rows are free, for joining costs a pass of its own."""
        if not waiting:
            return 0
        longest = max([waiting[-1].room, *(answer.room for answer in batch.answers)])
        room, enough = (min(self.rows, max(1, tokens // longest)) for tokens in (self.tokens, self.enough))
        free = room - len(batch.answers)
        self.cramped |= free < min(enough - len(batch.answers), len(waiting))
        return min(free, len(waiting)) if free > 0 and 2 * len(batch.answers) <= free + len(batch.answers) else 0

    def _shrink(self, running: Sequence[Answer], waiting: list[Answer], error: BaseException) -> Iterator[Step]:
        """Start the running answers again in smaller batches; a single one that does not fit fails."""
        if len(running) == 1:
            yield running[0].index, Failure(kind="out-of-memory", message=str(error)[:200] or type(error).__name__)
            return
        self.rows, self.cramped = max(1, len(running) // 2), True
        for answer in running:
            answer.tokens, answer.dice = [], None
        waiting += running


class _Batch:
    """Rows that are generated together: keys and values, what is padding, and each row's last token."""

    def __init__(self, owner: Generator) -> None:
        self.owner = owner
        self.answers: list[Answer] = []
        self.cache: Any = None
        self.seen: Any = None
        self.last: Any = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def join(self, answers: list[Answer]) -> list[Step]:
        """Feed the prompts of new rows and put the rows below the present ones."""
        held = self.answers
        self.answers = [*held, *answers]  # before the pass: where memory runs out, none is forgotten
        length, device = max(len(answer.prompt) for answer in answers), self.owner.device
        ids = torch.zeros((len(answers), length), dtype=torch.long)
        seen = torch.zeros_like(ids)
        for row, answer in enumerate(answers):
            ids[row, length - len(answer.prompt) :] = torch.as_tensor(answer.prompt)
            seen[row, length - len(answer.prompt) :] = 1
        ids, seen = ids.to(device), seen.to(device)
        cache = DynamicCache(config=self.owner.model.config)
        positions = (seen.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._forward(ids, seen, positions, cache)
        if held:
            cache, seen = _stack(self.cache, cache), torch.cat(_level([self.seen, seen], dim=1))
        self.cache, self.seen = cache, seen
        steps, kept, chosen = self._advance(answers, logits)
        last = torch.as_tensor(chosen, dtype=torch.long, device=device)
        self.last = torch.cat([self.last, last]) if held else last
        self._keep([*range(len(held)), *(len(held) + row for row in kept)])
        return steps

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def step(self) -> list[Step]:
        """Generate one token for every row; rows that end leave."""
        self.seen = torch.cat([self.seen, torch.ones_like(self.seen[:, :1])], dim=1)
        positions = self.seen.sum(dim=1, keepdim=True) - 1
        logits = self._forward(self.last[:, None], self.seen, positions, self.cache)
        steps, kept, chosen = self._advance(self.answers, logits)
        self.last = torch.as_tensor(chosen, dtype=torch.long, device=self.owner.device)
        self._keep(kept)
        return steps

    def _forward(self, ids: Any, seen: Any, positions: Any, cache: Any) -> Any:
        with attention_by(by_head_groups):
            found = self.owner.model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return found.logits[:, -1].float()

    def _advance(self, answers: Sequence[Answer], logits: Any) -> tuple[list[Step], list[int], list[int]]:
        """Choose a token for each row; return what ended, the rows that go on, and a token for every row."""
        steps: list[Step] = []
        kept, chosen = [], []
        for row, answer in enumerate(answers):
            token = answer.choose(logits[row])
            ended = token if isinstance(token, Failure) else answer.ended(token, self.owner.tokenizer, self.owner.ends)
            chosen.append(0 if isinstance(token, Failure) else token)
            if ended is None:
                kept.append(row)
            else:
                steps.append((answer.index, ended))
        return steps, kept, chosen

    def _keep(self, rows: list[int]) -> None:
        if len(rows) == len(self.answers):
            return
        self.answers = [self.answers[row] for row in rows]
        if not rows:
            self.cache = self.seen = self.last = None
            return
        places = torch.as_tensor(rows, device=self.owner.device)
        self.seen, self.last = self.seen[places], self.last[places]
        start = int(self.seen.shape[1] - self.seen.sum(dim=1).max())  # columns that are padding for every row
        self.seen = self.seen[:, start:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[places, :, start:], layer.values[places, :, start:]


class _Whole(_Batch):
    """One answer, of which the whole text is fed anew for each token: right for every causal model, and slow."""

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def join(self, answers: list[Answer]) -> list[Step]:
        """Take the answer and generate its first token."""
        self.answers = list(answers)
        return self._next()

    @torch.inference_mode()  # type: ignore[untyped-decorator]  # torch is not typed
    def step(self) -> list[Step]:
        """Generate one token."""
        return self._next()

    def _next(self) -> list[Step]:
        (answer,) = self.answers
        ids = torch.as_tensor([[*answer.prompt, *answer.tokens]], device=self.owner.device)
        found = self.owner.model(input_ids=ids, use_cache=False)
        steps, kept, _ = self._advance(self.answers, found.logits[:, -1].float())
        self.answers = [self.answers[row] for row in kept]
        return steps


def _passes(lengths: Sequence[int]) -> list[int]:
    """Return how many of the next prompts go into each pass, so that little of it is padding.

    >>> _passes([900, 850, 800, 100, 90]), _passes([90, 10]), _passes([])
    ([3, 2], [2], [])
    """
    counts: list[int] = []
    longest = total = 0
    for length in lengths:
        longest, total = max(longest, length), total + length
        fed = longest * (counts[-1] + 1) if counts else 0
        if not counts or (fed > PASS and total < (1 - PADDING) * fed):
            counts.append(0)
            longest = total = length
        counts[-1] += 1
    return counts


def _stack(upper: Any, lower: Any) -> Any:
    """Put the rows of two caches below one another, padded on the left to one length."""
    for high, low in zip(upper.layers, lower.layers, strict=True):
        high.keys = torch.cat(_level([high.keys, low.keys], dim=2))
        high.values = torch.cat(_level([high.values, low.values], dim=2))
    return upper


def _level(tensors: Sequence[Any], dim: int) -> list[Any]:
    """Pad tensors with zeros at the front of one dimension to their greatest size there."""
    size = max(tensor.shape[dim] for tensor in tensors)
    levelled = []
    for tensor in tensors:
        shape = list(tensor.shape)
        shape[dim] = size - shape[dim]
        levelled.append(torch.cat([tensor.new_zeros(shape), tensor], dim=dim))
    return levelled
