"""Score requests end to end: encode, share prefixes, batch, run, reply.

In: a tokenizer, a `Scorer`, requests made of text. Out: (index, reply or failure), as soon as each batch is done.
May not know: recipes, tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evalkit.adapters.base import Failure, ScoreReply, ScoreRequest
from evalkit.adapters.causal.forward import Scorer, TokenScores, row_cost
from evalkit.adapters.causal.memory import ran_out_of_memory
from evalkit.adapters.causal.plan import Batch, Row, plan_batches
from evalkit.adapters.causal.tokens import EncodedRequest, encode_requests


def score_requests(
    scorer: Scorer, tokenizer: Any, requests: Sequence[ScoreRequest], *, max_length: int, max_batch_tokens: int
) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Yield (index, reply or failure) for each request once.

    Args:
        scorer: runs batches.
        tokenizer: the model's tokenizer.
        requests: what is asked.
        max_length: tokens the model may be fed; a longer request fails, it is never cut.
        max_batch_tokens: limit of rows times longest row; a batch is halved whenever memory runs out.
    """
    ready = []
    for encoded in encode_requests(tokenizer, requests):
        if not isinstance(encoded, EncodedRequest):
            yield encoded
        elif encoded.longest > max_length:
            yield encoded.index, _too_long(encoded, max_length)
        else:
            ready.append(encoded)
    if scorer.path == "plain":
        max_batch_tokens = max(1, max_batch_tokens // 4)  # full logits of every token are kept
    for batch in plan_batches(ready, max_batch_tokens):
        for part in _within(scorer, batch, max_batch_tokens):
            yield from _run(scorer, part)


def _within(scorer: Scorer, batch: Batch, limit: int) -> Iterator[Batch]:
    """Cut a batch for the plain path, where a row costs one sequence for each continuation."""
    if scorer.path != "plain" or len(batch.rows) < 2 or sum(row_cost(row) for row in batch.rows) <= limit:
        yield batch
        return
    for half in batch.halves():
        yield from _within(scorer, half, limit)


def _run(scorer: Scorer, batch: Batch) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Run a batch; where memory runs out, run its halves."""
    try:
        scores = scorer.run(batch)
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        scores, message = [], str(error).splitlines()[0] if str(error) else type(error).__name__
    if scores:
        for row, values in zip(batch.rows, scores, strict=True):
            yield row.request.index, _reply(row, values)
    elif len(batch.rows) == 1:
        yield batch.rows[0].request.index, Failure(kind="out-of-memory", message=message)
    else:
        scorer.forget()
        for half in batch.halves():
            yield from _run(scorer, half)


def _reply(row: Row, scores: TokenScores) -> ScoreReply | Failure:
    if not np.isfinite(scores.logprobs).all():
        bad = scores.logprobs[~np.isfinite(scores.logprobs)]
        message = f"{len(bad)} of {len(scores.logprobs)} token log-probabilities are not finite (first: {bad[0]})"
        return Failure(kind="non-finite", message=message)
    lengths = tuple(len(tokens) for tokens in row.request.continuations)
    cuts = np.cumsum(lengths)[:-1]
    sums = (float(part.sum(dtype=np.float64)) for part in np.split(scores.logprobs, cuts))
    greedy = (bool(part.all()) for part in np.split(scores.greedy, cuts))
    return ScoreReply(logprobs=tuple(sums), greedy=tuple(greedy), tokens=lengths)


def _too_long(encoded: EncodedRequest, max_length: int) -> Failure:
    return Failure(
        kind="too-long",
        message=f"context and longest continuation need {encoded.longest} tokens; the limit is {max_length}",
    )
