"""What this version does with this model, found by trying, before the first item.

In: a session, a tokenizer. Out: `Methods`: how continuations are scored, what was seen, what to be warned of.
Must not depend on: tasks.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from evalkit.adapters.base import Failure, is_machine_failure
from evalkit.adapters.trtllm.loading import PROMPT_SCORES, Session
from evalkit.adapters.trtllm.options import TensorRTOptions
from evalkit.errors import EngineError

# Puts requests to the library: several under way, each one's failure its own.


T = TypeVar("T")

_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question(Generic[T]):
    """One request.

    Attributes:
        about: whatever the asker wants back with the result.
        ids: the prompt.
        params: the library's sampling parameters.
        salt: text that keeps its cached blocks from other prompts; None shares them.
    """

    about: T
    ids: list[int]
    params: Any
    salt: str | None = None


def ask(
    session: Session, questions: Iterable[Question[T]], in_flight: int
) -> Iterator[tuple[Question[T], Any | Failure]]:
    """Yield each question with the library's completed output, or a failure.

    Raises:
        EngineError: the library itself broke; what was yielded before stays valid.
    """
    waiting: deque[tuple[Question[T], Any]] = deque()
    for question in questions:
        waiting.append((question, _submit(session, question)))
        if len(waiting) >= in_flight:
            yield _finish(session, *waiting.popleft())
    while waiting:
        yield _finish(session, *waiting.popleft())


def _submit(session: Session, question: Question[T]) -> Any:
    keywords = {} if question.salt is None else {"cache_salt": question.salt}
    try:
        return session.llm.generate_async(question.ids, sampling_params=question.params, **keywords)
    except session.library.refusals as error:
        return _refused(session, error)
    except Exception as error:
        raise _broken(session, error) from error


def _finish(session: Session, question: Question[T], handle: Any) -> tuple[Question[T], Any | Failure]:
    if isinstance(handle, Failure):
        return question, handle
    try:
        output = session.wait(handle.result)
    except EngineError:
        raise
    except session.library.refusals as error:
        return question, _refused(session, error)
    except Exception as error:
        raise _broken(session, error) from error
    return question, _same_prompt(question, output)


def _same_prompt(question: Question[T], output: Any) -> Any | Failure:
    seen = [int(token) for token in output.prompt_token_ids]
    if seen != question.ids:
        message = f"the engine saw another prompt: {len(seen)} tokens, sent were {len(question.ids)}"
        return Failure(kind="engine", message=message)
    if not output.outputs:
        return Failure(kind="engine", message="the engine gave no output")
    return output.outputs[0]


def _refused(session: Session, error: Exception) -> Failure:
    """Return a request's refusal; the library also refuses all that is under way where its own machine failed.

    Raises:
        EngineError: the words are about the machine.
    """
    if is_machine_failure(str(error)):
        raise _broken(session, error) from error
    return Failure(kind="refused", message=str(error)[:_SHOWN])


def _broken(session: Session, error: Exception) -> EngineError:
    return EngineError(
        f"{session.target.files.name}: TensorRT-LLM {session.library.version} broke: {type(error).__name__}: {error}; "
        "finished records are kept and the same command resumes"
    )


# The three layouts of `prompt_logprobs`, told apart, and the one that can be read.
#
# Entry i always comes from the distribution after token i. In layout A it holds the likeliest tokens only; in B also
# token i itself, which this distribution does not predict: read naively, every score would be wrong and look right;
# in C also token i + 1, which it does.


Layout = Literal["A", "B", "C", "unclear"]


def values_of(entry: Any) -> dict[int, float]:
    """Return log-probability by token id.

    Raises:
        ValueError: the entry names no tokens.
    """
    if not isinstance(entry, Mapping):
        raise ValueError(f"log-probabilities without token ids ({type(entry).__name__})")
    return {int(token): _number(value) for token, value in entry.items()}


def _number(value: Any) -> float:
    return float(value.logprob if hasattr(value, "logprob") else value)


def seen_layout(ids: Sequence[int], entries: Sequence[Mapping[int, float]]) -> Layout:
    """Tell the layout from the entries of a prompt of distinct, unlikely tokens.

    >>> seen_layout([5, 6, 7], [{6: -9.0, 1: -1.0}, {7: -9.0}, {2: -1.0}])
    'C'
    """
    following = all(after in entry for after, entry in zip(ids[1:], entries, strict=False))
    own = all(token in entry for token, entry in zip(ids, entries, strict=False))
    if following and own:
        return "unclear"
    return "C" if following else "B" if own else "A"


@dataclass(frozen=True, kw_only=True, slots=True)
class TailScores:
    """Scores of the last tokens of a prompt.

    Attributes:
        logprob: their summed natural log-probability.
        greedy: whether each is the likeliest.
    """

    logprob: float
    greedy: bool


def read_tail(ids: Sequence[int], context: int, entries: Sequence[Any]) -> TailScores | Failure:
    """Score the tokens after the first `context` ones from entries in layout C.

    Args:
        ids: the prompt.
        context: tokens before the scored ones, >= 1.
        entries: one for each token; the last may be missing.
    """
    if len(entries) not in (len(ids), len(ids) - 1):
        message = f"{len(entries)} prompt log-probabilities for {len(ids)} tokens: the engine left some out"
        return Failure(kind="engine", message=message)
    total, greedy = 0.0, True
    for place in range(context, len(ids)):
        try:
            values = values_of(entries[place - 1])
        except ValueError as error:
            return Failure(kind="engine", message=str(error))
        value = values.get(ids[place])
        if value is None:
            return Failure(kind="missing-token", message=f"token {ids[place]} has no prompt log-probability")
        if not all(map(math.isfinite, values.values())):
            return Failure(kind="non-finite", message=f"prompt log-probabilities at token {place} are not finite")
        total += value
        greedy = greedy and value >= max(values.values())
    return TailScores(logprob=total, greedy=greedy)


# Proves that prompt log-probabilities can be read, or says why they cannot.
#
# Three things must hold: a list as long as the prompt even when the same prompt was seen before (blocks of the cache
# that are reused have no log-probabilities), layout C, and the same value for one token in three places.


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
