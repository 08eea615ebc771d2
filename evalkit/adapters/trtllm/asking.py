"""Puts requests to the library: several under way, each one's failure its own.

In: token ids with sampling parameters. Out: the library's result or a failure for each, in order.
May not know: what is read from a result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from evalkit.adapters.base import Failure
from evalkit.adapters.trtllm.loading import Session
from evalkit.errors import EngineError

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
        return _refused(error)
    except Exception as error:
        raise _broken(session, error) from error


def _finish(session: Session, question: Question[T], handle: Any) -> tuple[Question[T], Any | Failure]:
    if isinstance(handle, Failure):
        return question, handle
    try:
        output = handle.result()
    except session.library.refusals as error:
        return question, _refused(error)
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


def _refused(error: Exception) -> Failure:
    text = str(error)[:_SHOWN]
    return Failure(kind="out-of-memory" if "out of memory" in text.lower() else "refused", message=text)


def _broken(session: Session, error: Exception) -> EngineError:
    return EngineError(
        f"{session.target.files.name}: TensorRT-LLM {session.library.version} broke: {type(error).__name__}: {error}; "
        "finished records are kept and the same command resumes"
    )
