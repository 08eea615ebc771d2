"""Replies by rule: numbers and words drawn from the digest of a request.

In: a request and options. Out: a reply that depends on nothing else.
May not know: recordings, the order of requests.

A word counts as one token.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from evalkit.adapters.base import Failure, GenerateRequest, Generation, Message, ScoreReply, ScoreRequest
from evalkit.adapters.scripting.options import ScriptedOptions
from evalkit.adapters.scripting.recording import Request, request_digest
from evalkit.records import digest, text_digest

WORD = r"\s*\S+"
"""A token: a word and the white space before it."""

CHAT = "{role}: {content}\n"
"""How a chat message becomes text."""

_WORDS = ("a", "few", "small", "words", "say", "nothing", "but", "can", "be", "read", "and", "counted", "by", "tests")
_FEWEST, _MORE = 6, 10
_DIGITS = 12


def draw(*parts: object) -> float:
    """Return a number in [0, 1) that follows from the parts alone.

    >>> 0.0 <= draw(7, "slip", "a") < 1.0 and draw(7, "slip", "a") == draw(7, "slip", "a")
    True
    """
    return int(text_digest("\n".join(map(str, parts)))[:_DIGITS], 16) / float(16**_DIGITS)


def picked(every: int | None, purpose: str, request: Request) -> bool:
    """Whether a request is one of the one-in-`every` that something happens to."""
    return every is not None and draw(purpose, request_digest(request)) * every < 1.0


def score(request: ScoreRequest, options: ScriptedOptions, key: Mapping[str, int]) -> ScoreReply | Failure:
    """Score the continuations of a request by rule."""
    lengths = tuple(len(re.findall(WORD, text)) or 1 for text in request.continuations)
    if not all(request.continuations):
        return Failure(kind="missing-token", message="an empty continuation has no token of its own")
    needed = count(request.context) + max(lengths)
    if needed > options.max_length:
        return _too_long(needed, options)
    name, places = request_digest(request), range(len(lengths))
    best = key.get(name, -1)
    if best >= len(lengths):
        return Failure(kind="engine", message=f"the key names continuation {best}, but there are {len(lengths)}")
    best = _favoured(request, options, name) if best < 0 else best
    others = [place for place in places if place != best]
    if others and draw(options.seed, "slip", name) >= options.accuracy:
        best = others[int(draw(options.seed, "other", name) * len(others))]
    top = -0.5 - draw(options.seed, "top", name)
    sizes = [len(text.strip()) or 1 for text in request.continuations]
    gaps = [0.0 if place == best else 0.05 + 3.0 * draw(options.seed, "gap", name, place) for place in places]
    return ScoreReply(
        logprobs=tuple(top * max(1.0, sizes[place] / sizes[best]) - gaps[place] for place in places),
        greedy=tuple(place == best for place in places),
        tokens=lengths,
    )


def broken(reply: ScoreReply) -> ScoreReply:
    """Return a reply whose first log-probability is not a number."""
    return ScoreReply(logprobs=(math.nan, *reply.logprobs[1:]), greedy=reply.greedy, tokens=reply.tokens)


def generate(request: GenerateRequest, options: ScriptedOptions) -> Generation | Failure:
    """Write an answer by rule: the first `max_tokens` words of a text, or what comes before a stop text."""
    fed = count(prompt_text(request.prompt))
    if fed + request.max_tokens > options.max_length:
        return _too_long(fed + request.max_tokens, options)
    words = re.findall(WORD, _text(request, options))
    text = "".join(words[: request.max_tokens])
    ends = [place for place in (text.find(stop) for stop in request.stop) if place >= 0]
    text = text[: min(ends, default=len(text))]
    return Generation(
        text=text,
        finish="stop" if ends or len(words) <= request.max_tokens else "length",
        prompt_tokens=fed,
        completion_tokens=len(re.findall(WORD, text)),
    )


def prompt_text(prompt: str | tuple[Message, ...]) -> str:
    """Return a prompt as one text."""
    if isinstance(prompt, str):
        return prompt
    return "".join(CHAT.format(role=message.role, content=message.content) for message in prompt) + "assistant:"


def count(text: str) -> int:
    """Return the number of words, 1 for none: something always stands for an empty text."""
    return len(re.findall(WORD, text)) or 1


def _favoured(request: ScoreRequest, options: ScriptedOptions, name: str) -> int:
    if options.favour == "first":
        return 0
    if options.favour == "longest":
        sizes = [len(text) for text in request.continuations]
        return sizes.index(max(sizes))
    return int(draw("favoured", name) * len(request.continuations))


def _text(request: GenerateRequest, options: ScriptedOptions) -> str:
    """Return the whole answer; neither `max_tokens` nor `stop` has a say in it, so cutting is all they do."""
    dice = [request.seed, request.temperature, request.top_p] if request.temperature > 0.0 else []
    name = digest([prompt_text(request.prompt), *dice])
    if isinstance(options.text, str):
        return options.text
    if options.text is not None:
        return options.text[int(draw(options.seed, "text", name) * len(options.text))]
    length = _FEWEST + int(_MORE * draw(options.seed, "length", name))
    places = [int(draw(options.seed, "word", name, place) * len(_WORDS)) for place in range(length)]
    return " ".join(_WORDS[place] for place in places).capitalize() + "."


def _too_long(needed: int, options: ScriptedOptions) -> Failure:
    return Failure(kind="too-long", message=f"the request needs {needed} words; the limit is {options.max_length}")
