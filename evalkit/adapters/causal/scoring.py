"""Score requests end to end: encode, share prefixes, batch, run, reply.

In: a tokenizer, a `Scorer`, requests made of text. Out: (index, reply or failure), as soon as each batch is done.
May not know: recipes, tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evalkit.adapters.base import Failure, ScoreReply, ScoreRequest
from evalkit.adapters.causal.forward import Scorer, TokenScores
from evalkit.adapters.causal.limit import BatchLimit
from evalkit.adapters.causal.memory import ran_out_of_memory
from evalkit.adapters.causal.plan import Batch, Row, plan_batches
from evalkit.adapters.causal.tokens import EncodedRequest, encode_requests


def score_requests(
    scorer: Scorer, tokenizer: Any, requests: Sequence[ScoreRequest], *, max_length: int, limit: BatchLimit
) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Yield (index, reply or failure) for each request once.

    Args:
        scorer: runs batches.
        tokenizer: the model's tokenizer.
        requests: what is asked.
        max_length: tokens the model may be fed; a longer request fails, it is never cut.
        limit: how large batches may be; halved whenever memory runs out, and kept so for later calls.
    """
    ready = []
    for encoded in encode_requests(tokenizer, requests):
        if not isinstance(encoded, EncodedRequest):
            yield encoded
        elif encoded.longest > max_length:
            yield encoded.index, _too_long(encoded, max_length)
        else:
            ready.append(encoded)
    for batch in plan_batches(ready, limit):
        for part in _within(scorer, batch, limit):
            yield from _run(scorer, part, limit)


def _within(scorer: Scorer, batch: Batch, limit: BatchLimit) -> Iterator[Batch]:
    """Cut a batch for the plain path, where a row costs one sequence for each continuation."""
    if scorer.path != "plain" or len(batch.rows) < 2 or limit.holds(sequence_lengths(batch)):
        yield batch
        return
    for half in batch.halves():
        yield from _within(scorer, half, limit)


def sequence_lengths(batch: Batch) -> list[int]:
    """Return the lengths of the sequences that the plain path feeds: every continuation repeats its context."""
    return [len(row.request.context) + len(tokens) - 1 for row in batch.rows for tokens in row.request.continuations]


def _run(scorer: Scorer, batch: Batch, limit: BatchLimit) -> Iterator[tuple[int, ScoreReply | Failure]]:
    """Run a batch; where memory runs out, run its halves, and smaller batches from then on."""
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
        limit.halve(len(batch.rows), max(len(row.tokens) for row in batch.rows))
        for half in batch.halves():
            yield from _run(scorer, half, limit)


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
