"""Text to token ids, by the server itself or by a tokenizer on this machine.

In: a server, or the name of a tokenizer. Out: an object with the few methods of a transformers tokenizer that
`causal/tokens.py` uses, so that contexts and continuations are split here exactly as for the other adapters.
May not know: what the ids are for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.adapters.causal.tokens import chat_text, tokenizer_text
from evalkit.adapters.openai.card import ServerCard
from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.openai.wire import Json, MalformedError, RejectedError, UnusableError
from evalkit.errors import EngineError, MissingExtraError
from evalkit.records import digest, text_digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources

PROBES = (
    "The quick brown fox jumps over the lazy dog.",
    " 3.14159  and 1,000,000\n\nAnswer: A",
    "Grüße, naïve café: 東京 🙂",
    "def f(x):\n    return x**2  # Question:\n",
)
"""Texts whose token ids tell tokenizers apart."""

_KEPT = 4096
"""Texts whose ids are remembered: contexts come back with each of their continuations."""


class Tokenizer(Protocol):
    """What is used of a tokenizer."""

    bos_token_id: int | None
    eos_token_id: int | None
    bos_token: str | None
    eos_token: str | None

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return the ids of each text under `input_ids`."""

    def decode(self, ids: Any, **options: Any) -> str:
        """Return the text of one id or several."""


class ServerTokenizer:
    """The server's own tokenizer, reached through `/tokenize`.

    vLLM, SGLang and llama.cpp have such a page, each with fields of its own; the first form that works is kept.
    """

    eos_token_id: int | None = None
    eos_token: str | None = None

    def __init__(self, transport: Transport, card: ServerCard, form: str) -> None:
        self._transport, self._card, self._form = transport, card, form
        self._lock, self._known = threading.Lock(), dict[tuple[str, bool], list[int]]()
        self._texts: dict[tuple[int, ...], str] = {}
        self.bos_token = card.start_text
        start = self._ids(card.start_text, special=False) if card.start_text else self._ids("", special=True)
        self.bos_token_id = start[0] if len(start) == 1 else None
        if self.bos_token_id is not None and self.bos_token is None:
            self.bos_token = self.decode(self.bos_token_id) or None

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return the ids of each text."""
        del verbose
        return {"input_ids": [self._ids(text, special=add_special_tokens) for text in texts]}

    def decode(self, ids: Any, **_options: Any) -> str:
        """Return the text of one id or several; "" where the server cannot say."""
        rows = (ids,) if isinstance(ids, int) else tuple(int(one) for one in ids)
        if rows not in self._texts:
            body = {"tokens": list(rows)}
            try:
                found = self._transport.post(
                    "/detokenize", body if self._form == "content" else {"model": self._card.model, **body}, _read_text
                )
            except RejectedError:
                found = ""
            self._texts[rows] = found
        return self._texts[rows]

    def _ids(self, text: str, *, special: bool) -> list[int]:
        with self._lock:
            found = self._known.get((text, special))
        if found is None:
            found = self._transport.post("/tokenize", _body(self._form, self._card.model, text, special), _read_ids)
            with self._lock:
                if len(self._known) >= _KEPT:
                    self._known.clear()
                self._known[text, special] = found
        return list(found)


class LocalTokenizer:
    """A transformers tokenizer that several threads may use: it keeps state while it works."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._lock = tokenizer, threading.Lock()
        self.bos_token_id: int | None = tokenizer.bos_token_id
        self.eos_token_id: int | None = tokenizer.eos_token_id
        self.bos_token: str | None = tokenizer.bos_token
        self.eos_token: str | None = tokenizer.eos_token

    def __call__(self, texts: list[str], *, add_special_tokens: bool, verbose: bool) -> Mapping[str, Any]:
        """Return the ids of each text."""
        with self._lock:
            found = self._tokenizer(texts, add_special_tokens=add_special_tokens, verbose=verbose)
        return {"input_ids": found["input_ids"]}

    def decode(self, ids: Any, **options: Any) -> str:
        """Return the text of one id or several."""
        with self._lock:
            return str(self._tokenizer.decode(ids, **options))

    def chat_tokens(self, text: str) -> int | None:
        """Return the length of a conversation of one message under the tokenizer's own template; None without one."""
        if not getattr(self._tokenizer, "chat_template", None):
            return None
        rendered = chat_text(self._tokenizer, [{"role": "user", "content": text}])
        return len(self([rendered], add_special_tokens=False, verbose=False)["input_ids"][0])


def server_tokenizer(transport: Transport, card: ServerCard) -> ServerTokenizer | None:
    """Return the server's tokenizer; None where it offers none.

    A refusal (4xx) says that the page is not offered; any other fault is raised, for without its tokenizer the server
    would be another engine.

    A form is right only if it gives ids, and more ids for twice the text: a page that ignores the field it does not
    know would give the same for every text.
    """
    for form in ("content", "prompt") if card.family == "llamacpp" else ("prompt", "content"):
        try:
            once, twice = (
                transport.post("/tokenize", _body(form, card.model, text, True), _read_ids)
                for text in ("one two three", "one two three one two three")
            )
            if len(twice) > len(once) >= 3:
                return ServerTokenizer(transport, card, form)
        except RejectedError:
            continue
        except UnusableError as error:
            raise EngineError(
                f"{transport}: the probe got no usable reply: {error}; next step: look at the server's log, then "
                "repeat the same command"
            ) from error
    return None


def local_tokenizer(name: str, resources: Resources) -> tuple[LocalTokenizer, str, str | None]:
    """Load a tokenizer on this machine.

    Returns:
        The tokenizer, the digest of its serialised form, and that of its chat template (None without one).

    Raises:
        MissingExtraError: transformers is not installed.
        UsageError: no such asset, folder or hub id.
        EngineError: transformers cannot load it.
    """
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415 - optional, slow to import
    except ImportError as error:
        raise MissingExtraError("the option 'tokenizer'", "transformers", "hf") from error
    from pathlib import Path  # noqa: PLC0415

    declared = {one.name for one in resources.assets.declared()}
    place = resources.assets.fetch(name).path if name in declared else Path(name).expanduser()
    keywords: dict[str, Any] = {"trust_remote_code": False}
    if place.is_file():
        place, keywords["gguf_file"] = place.parent, place.name
    try:
        found: Any = AutoTokenizer.from_pretrained(str(place) if place.exists() else name, **keywords)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise EngineError(f"tokenizer {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    text = tokenizer_text(found)
    template = getattr(found, "chat_template", None)
    return LocalTokenizer(found), text_digest(text), text_digest(str(template)) if template else None


def seen_digest(rows: Sequence[Any]) -> str:
    """Return the digest of what a tokenizer makes of `PROBES`: equal for equal tokenizers, as far as they tell."""
    return digest(["what the tokenizer did with", list(PROBES), list(rows)])


def _body(form: str, model: str, text: str, special: bool) -> Json:
    if form == "content":
        return {"content": text, "add_special": special}
    return {"model": model, "prompt": text, "add_special_tokens": special}


def _read_ids(reply: Json) -> list[int]:
    ids = reply.get("tokens")
    if not isinstance(ids, list) or not all(isinstance(one, int) for one in ids):
        raise MalformedError("the reply to /tokenize has no list of token ids")
    return [int(one) for one in ids]


def _read_text(reply: Json) -> str:
    for name in ("content", "prompt", "text"):
        if isinstance(reply.get(name), str):
            return str(reply[name])
    raise MalformedError("the reply to /detokenize has no text")
