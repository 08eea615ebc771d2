"""What this version does with this model, found by trying, before the first item.

In: a session, a tokenizer. Out: `Methods`: how continuations are scored, what was seen, what to be warned of.
May not know: tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.adapters.trtllm.layouts import values_of
from evalkit.adapters.trtllm.loading import Session
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.adapters.trtllm.prompt_probe import TOLERANCE, ask_one, prompt_scores_fault
from evalkit.errors import EngineError

_TEXT = "The capital of France is Paris, and the capital of Italy is"


@dataclass(frozen=True, kw_only=True, slots=True)
class Methods:
    """How continuations are scored.

    Attributes:
        several: whether continuations of several tokens can be scored, by prompt log-probabilities.
        why_not: why they cannot.
        logits: whether logits of a generated token can be asked for.
        salted: whether requests for prompt log-probabilities need a salt of their own.
        seen: what was looked at, and what was found.
        warnings: what the results may not rest on.
    """

    several: bool
    why_not: str
    logits: bool
    salted: bool
    seen: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def probe(session: Session, options: TensorRTOptions, tokenizer: Any) -> Methods:
    """Try everything that scores will rest on.

    Raises:
        EngineError: candidates of a generated token cannot be had, or are no log-probabilities.
    """
    seen: dict[str, str] = {}
    warnings: list[str] = []
    ids = [int(token) for token in tokenizer(_TEXT)["input_ids"]][: session.max_length - 4]
    first, second = (_candidates(session, options, ids) for _ in range(2))
    _check(session, first, options.top_logprobs)
    seen["candidates"] = f"{len(first.values)} of a generated token, finite"
    moved = max(abs(first.values[token] - second.values.get(token, math.inf)) for token in first.values)
    seen["the same prompt again"] = "the same numbers" if moved == 0.0 else f"differ by up to {moved:.2g} nats"
    if first.token != second.token:
        warnings.append("the same prompt has another likeliest token when asked again")
    logits = options.wants_logits and _logits_work(session, ids, first, seen)
    if options.wants_logits and not logits:
        if options.scoring == "first-token-logits":
            raise EngineError(f"{session.target.files.name}: no logits of generated tokens: {seen['logits']}")
        warnings.append("no logits to fall back on: a continuation that is not among the candidates is a failure")
    why_not = prompt_scores_fault(session, options, tokenizer, seen)
    if why_not:
        warnings.append(f"continuations of several tokens cannot be scored: {why_not}")
    return Methods(
        several=not why_not,
        why_not=why_not,
        logits=logits,
        salted=options.kv_reuse and not why_not,
        seen=seen,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _First:
    """Candidates of one generated token."""

    token: int
    values: Mapping[int, float]


def _candidates(session: Session, options: TensorRTOptions, ids: list[int]) -> _First:
    params = session.library.sampling(
        max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False, logprobs=options.top_logprobs
    )
    output = ask_one(session, ids, params)
    if len(output.token_ids) != 1 or len(output.logprobs or ()) != 1:
        raise EngineError(
            f"{session.target.files.name}: one token was asked for; got {len(output.token_ids)} tokens with "
            f"{len(output.logprobs or ())} log-probabilities"
        )
    try:
        return _First(token=int(output.token_ids[0]), values=values_of(output.logprobs[0]))
    except ValueError as error:
        raise EngineError(f"{session.target.files.name}: {error}") from error


def _check(session: Session, first: _First, wanted: int) -> None:
    values = list(first.values.values())
    faults = []
    if not all(map(math.isfinite, values)):
        faults.append(f"not finite: {values[:4]}")
    elif max(values) > 1e-4 or sum(map(math.exp, values)) > 1.0 + 1e-3:
        faults.append(f"no log-probabilities: {values[:4]}")
    elif first.token not in first.values or first.values[first.token] < max(values) - 1e-4:
        faults.append("the generated token is not the likeliest candidate")
    if len(values) < min(4, wanted):
        faults.append(f"only {len(values)} candidates of {wanted}")
    if faults:
        raise EngineError(f"{session.target.files.name}: candidates of a generated token are {'; '.join(faults)}")


def _logits_work(session: Session, ids: list[int], first: _First, seen: dict[str, str]) -> bool:
    """Ask for logits and compare them with the candidates."""
    try:
        params = session.library.sampling(
            max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False, return_generation_logits=True
        )
        values = logprobs_of(ask_one(session, ids, params).generation_logits)
    except (EngineError, ValueError) as error:
        seen["logits"] = str(error)
        return False
    if max(first.values) >= len(values):
        seen["logits"] = f"{len(values)} logits, but token {max(first.values)} exists"
        return False
    moved = max(abs(float(values[token]) - value) for token, value in first.values.items())
    seen["logits"] = f"{len(values)} of a generated token, {moved:.2g} nats from the candidates"
    return bool(moved <= TOLERANCE)


def logprobs_of(logits: Any) -> Any:
    """Turn logits of one generated token, shape (1, vocabulary) or (vocabulary,), into log-probabilities, float64.

    Raises:
        ValueError: there are none, they are not finite, or of another shape.
    """
    if logits is None:
        raise ValueError("no logits came back")
    array = np.asarray(logits.detach().float().cpu().numpy() if hasattr(logits, "detach") else logits, dtype=np.float64)
    row = array.reshape(-1, array.shape[-1]) if array.ndim else array
    if row.ndim != 2 or row.shape[0] != 1:
        raise ValueError(f"logits of shape {array.shape} for one token")
    if not np.isfinite(row.max()) or np.isnan(row).any():
        raise ValueError("logits are not finite")
    shifted = row[0] - row[0].max()
    return shifted - np.log(np.exp(shifted).sum())
