"""Proves that prompt log-probabilities can be read, or says why they cannot.

In: a session, a tokenizer. Out: "" or a reason, and what was seen.
May not know: what will be scored.

Three things must hold: a list as long as the prompt even when the same prompt was seen before (blocks of the cache that
are reused have no log-probabilities), layout C, and the same value for one token in three places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evalkit.adapters.base import Failure
from evalkit.adapters.trtllm.asking import Question, ask
from evalkit.adapters.trtllm.layouts import seen_layout, values_of
from evalkit.adapters.trtllm.library import PROMPT_SCORES
from evalkit.adapters.trtllm.loading import Session
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError

TOLERANCE = 0.25
"""Largest difference between two ways to the same log-probability, nats: kernels that batch otherwise stay below 0.1
in bf16, a number from the wrong place is off by several."""

_PROBED, _LEAST = 72, 8
_STRIDE = 7919


def ask_one(session: Session, ids: list[int], params: Any, salt: str | None = None) -> Any:
    """Put one request; return its output.

    Raises:
        EngineError: the library refuses it, or broke.
    """
    ((_, output),) = ask(session, [Question(about=None, ids=ids, params=params, salt=salt)], 1)
    if isinstance(output, Failure):
        raise EngineError(
            f"{session.target.files.name}: TensorRT-LLM {session.library.version} refuses the probe: {output.message}"
        )
    return output


def prompt_scores_fault(session: Session, options: TensorRTOptions, tokenizer: Any, seen: dict[str, str]) -> str:
    """Return why prompt log-probabilities cannot be read; "" if they can."""
    if options.kv_reuse and not session.library.salted:
        return "this version cannot keep cached blocks out of a request (cache_salt); next step: kv_reuse: false"
    ids = unlikely_tokens(tokenizer, min(_PROBED, session.max_length - 2))
    if len(ids) < _LEAST:
        return f"max_length {session.max_length} leaves no room for the probe"
    try:
        return _fault(session, ids, reuse=options.kv_reuse, seen=seen)
    except (EngineError, ValueError) as error:
        return str(error)


def _fault(session: Session, ids: list[int], *, reuse: bool, seen: dict[str, str]) -> str:
    params = session.library.sampling(
        max_tokens=1, temperature=0.0, ignore_eos=True, detokenize=False, logprobs=1, prompt_logprobs=1
    )
    outputs = [ask_one(session, ids, params, f"evalkit probe {turn}" if reuse else None) for turn in (1, 2)]
    lengths = [len(output.prompt_logprobs or ()) for output in outputs]
    if lengths != [len(ids)] * 2:
        seen["prompt log-probabilities"] = f"{lengths[0]} and {lengths[1]} for a prompt of {len(ids)} tokens, twice"
        return f"a prompt of {len(ids)} tokens got {lengths[0]}, then {lengths[1]} prompt log-probabilities"
    entries = [values_of(entry) for entry in outputs[1].prompt_logprobs]
    layout = seen_layout(ids, entries)
    seen["prompt log-probabilities"] = f"layout {layout}"
    if layout != "C":
        return f"prompt log-probabilities are in layout {layout}, which does not hold the next token"
    if session.library.version < PROMPT_SCORES:
        return f"version {session.library.version} is below {PROMPT_SCORES}, where this layout begins"
    return _cross_check(session, ids, outputs[1], entries, params, "evalkit probe 3" if reuse else None)


def _cross_check(
    session: Session,
    ids: list[int],
    output: Any,
    entries: Sequence[Mapping[int, float]],
    params: Any,
    salt: str | None,
) -> str:
    """Compare the value of the generated token in three places: as generated, at the prompt's end, and inside one."""
    token = int(output.token_ids[0])
    value = values_of(output.logprobs[0]).get(token, math.nan)
    at_end = entries[-1].get(token, math.nan)
    longer = ask_one(session, [*ids, token], params, salt).prompt_logprobs
    inside = values_of(longer[len(ids) - 1]).get(token, math.nan) if len(longer) >= len(ids) else math.nan
    if abs(at_end - value) <= TOLERANCE and abs(inside - value) <= TOLERANCE:
        return ""
    return (
        f"the same token has the log-probability {value:.4g} when generated, {at_end:.4g} at the end of a prompt and "
        f"{inside:.4g} inside one"
    )


def unlikely_tokens(tokenizer: Any, count: int) -> list[int]:
    """Return distinct token ids spread over the vocabulary: no text, so each is unlikely after the one before."""
    special = set(getattr(tokenizer, "all_special_ids", ()))
    size = len(tokenizer)
    found: list[int] = []
    for place in range(size):
        token = (place * _STRIDE + size // 3) % size
        if token not in special and token not in found:
            found.append(token)
        if len(found) >= count:
            break
    return found
