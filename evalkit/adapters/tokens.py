"""Text to token ids for scoring and for generation.

In: a tokenizer, requests made of text. Out: token ids, split into context and continuations as lm-eval splits them.
Must not depend on: torch, models, batches.

The split follows lm-eval's `TemplateLM._encode_pair` and `HFLM.tok_encode`, so that numbers agree with it: white space
at the end of the context moves to the continuation, the whole text is encoded and cut at the context's own length,
and an empty context becomes the start token (or the end token where there is none).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from evalkit.adapters.base import Failure, Message, ScoreRequest, no_chat_template
from evalkit.errors import UsageError
from evalkit.records import text_digest

Ids = npt.NDArray[np.int32]

DATE = date(2024, 7, 26)
"""What a chat template is told that asks for today's date: the one that Llama's own templates fall back to.

Two runs on two days are otherwise asked different prompts under one digest of the template.
"""

_CHUNK = 64
"""Requests encoded at a time: tokenizers and Python keep some hundred bytes for each token, so few live at once."""


def tokenizer_text(tokenizer: Any) -> str:
    """Return a tokenizer as text, for its digest: everything that decides which ids a text becomes.

    Truncation and padding are left out: calibration leaves them in the file, and evalkit never cuts or fills a prompt.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if hasattr(tokenizer, "get_vocab"):
            return repr(sorted(tokenizer.get_vocab().items()))
        return type(tokenizer).__name__
    if backend.truncation is None and backend.padding is None:
        return str(backend.to_str())
    plain = type(backend).from_str(backend.to_str())
    plain.no_truncation()
    plain.no_padding()
    return str(plain.to_str())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedRequest:
    """Token ids of one score request.

    Attributes:
        index: position of the request in the caller's sequence.
        context: token ids before the continuations, shape (c,), c >= 1.
        continuations: token ids of each continuation, k tuples, none empty.
    """

    index: int
    context: Ids
    continuations: tuple[tuple[int, ...], ...]

    @property
    def longest(self) -> int:
        """Tokens a model must be fed for the longest continuation: its last token is predicted, never fed."""
        return len(self.context) + max(len(tokens) for tokens in self.continuations) - 1


def start_token(tokenizer: Any) -> int:
    """Return the token that stands for an empty context: start of text, else end of text.

    Raises:
        UsageError: the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise UsageError(
        "the tokenizer has neither a start nor an end token, so an empty context cannot be scored; "
        "next step: use the tokenizer that was published with the model"
    )


def encode_requests(tokenizer: Any, requests: Sequence[ScoreRequest]) -> Iterator[EncodedRequest | tuple[int, Failure]]:
    """Encode score requests in order.

    Yields:
        An `EncodedRequest`, or (index, failure) where a continuation has no token of its own.
    """
    for begin in range(0, len(requests), _CHUNK):
        yield from _encode_chunk(tokenizer, begin, requests[begin : begin + _CHUNK])


def _encode_chunk(
    tokenizer: Any, begin: int, requests: Sequence[ScoreRequest]
) -> Iterator[EncodedRequest | tuple[int, Failure]]:
    cuts = [len(request.context.rstrip()) for request in requests]
    texts = [request.context[:cut] for request, cut in zip(requests, cuts, strict=True)]
    wholes = [request.context + text for request in requests for text in request.continuations]
    contexts = _encode(tokenizer, texts)
    encoded = iter(_encode(tokenizer, wholes))
    for offset, (request, context) in enumerate(zip(requests, contexts, strict=True)):
        pairs = [next(encoded) for _ in request.continuations]
        if not request.context:
            context, tails = _after_start_token(tokenizer, request)  # noqa: PLW2901 - the empty context is replaced
        else:
            tails = [whole[len(context) :] for whole in pairs]
            context = context or [start_token(tokenizer)]  # noqa: PLW2901 - white space only: nothing is left of it
        yield _encoded(begin + offset, request, context, tails)


def _after_start_token(tokenizer: Any, request: ScoreRequest) -> tuple[list[int], list[list[int]]]:
    start = start_token(tokenizer)
    tails = [_ids(tokenizer, [text], special=False)[0] for text in request.continuations]
    return [start], [tail[1:] if tail[:1] == [start] else tail for tail in tails]


def _encoded(
    index: int, request: ScoreRequest, context: list[int], tails: list[list[int]]
) -> EncodedRequest | tuple[int, Failure]:
    for text, tail in zip(request.continuations, tails, strict=True):
        if not tail:
            return index, Failure(kind="missing-token", message=f"continuation {text[:40]!r} has no token of its own")
    return EncodedRequest(
        index=index,
        context=np.asarray(context, dtype=np.int32),
        continuations=tuple(tuple(tail) for tail in tails),
    )


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts with the tokenizer's own special tokens, once, even where a text already begins with the start."""
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    start = tokenizer.decode(token, clean_up_tokenization_spaces=False) if token is not None else ""
    begun = [bool(start) and text.startswith(start) for text in texts]
    encoded: list[list[int]] = [[] for _ in texts]
    for special in (True, False):
        places = [place for place, has in enumerate(begun) if has != special]
        for place, ids in zip(places, _ids(tokenizer, [texts[place] for place in places], special), strict=True):
            encoded[place] = ids
    return encoded


def _ids(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    if not texts:
        return []
    unique = list(dict.fromkeys(texts))
    rows = tokenizer(unique, add_special_tokens=special, verbose=False)["input_ids"]
    known = dict(zip(unique, rows, strict=True))
    return [known[text] for text in texts]


def encode_prompt(tokenizer: Any, prompt: str | tuple[Message, ...]) -> list[int] | Failure:
    """Encode one prompt for generation; messages go through the tokenizer's own chat template.

    Raises:
        UsageError: messages were given and the tokenizer has no chat template.
    """
    if isinstance(prompt, str):
        ids = _encode(tokenizer, [prompt])[0] or [start_token(tokenizer)]
    else:
        text = render_chat(tokenizer, prompt)
        if isinstance(text, Failure):
            return text
        ids = _ids(tokenizer, [text], special=False)[0]
    start = tokenizer.bos_token_id
    if start is not None and tokenizer.bos_token != tokenizer.eos_token and ids[:2] == [start, start]:
        return Failure(kind="engine", message=f"the prompt begins with two start tokens {tokenizer.bos_token!r}")
    return ids


def chat_text(tokenizer: Any, rows: Sequence[Mapping[str, str]]) -> str:
    """Render messages by a tokenizer's chat template, with the clock held still at `DATE`; it may raise anything."""
    return str(
        tokenizer.apply_chat_template(
            list(rows), tokenize=False, add_generation_prompt=True, strftime_now=lambda form: DATE.strftime(str(form))
        )
    )


def chat_options(tokenizer: Any) -> dict[str, str]:
    """Return what an identity says of a chat template that asks for the time: the date it gets, and what it renders.

    Returns:
        `chat_date`, and `chat_rendered_sha256` of a fixed conversation; empty for a template without a clock.
    """
    if "strftime" not in str(getattr(tokenizer, "chat_template", None)):
        return {}
    try:
        shown = chat_text(tokenizer, [{"role": "user", "content": "What day is it?"}])
    except Exception as error:  # noqa: BLE001 - a template may raise anything; each item that meets it fails
        shown = type(error).__name__
    return {"chat_date": DATE.isoformat(), "chat_rendered_sha256": text_digest(shown)}


def render_chat(tokenizer: Any, messages: Sequence[Message]) -> str | Failure:
    """Turn messages into the text that the model was tuned on, up to where its answer begins.

    Raises:
        UsageError: the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise no_chat_template("the tokenizer")
    rows = [{"role": message.role, "content": message.content} for message in messages]
    try:
        return chat_text(tokenizer, rows)
    except Exception as error:  # noqa: BLE001 - a template may raise anything; the item fails, the run goes on
        return Failure(
            kind="engine", message=f"the chat template refused the messages: {type(error).__name__}: {error}"
        )
