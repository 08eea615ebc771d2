"""From a specification with an address to an engine.

In: an engine specification, checked options. Out: a `ServerEngine`, probed.
May not know: who started the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit.adapters.openai.asking import CHAT, Asker
from evalkit.adapters.openai.card import ServerCard, read_card
from evalkit.adapters.openai.engine import Served, ServerEngine
from evalkit.adapters.openai.fields import plain_prompt
from evalkit.adapters.openai.identity import identify, identity_warnings
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.probe import Probe
from evalkit.adapters.openai.proofs import NotProvedError, attempt
from evalkit.adapters.openai.reply import ModelName, read_choice, read_usage
from evalkit.adapters.openai.secret import read_secret
from evalkit.adapters.openai.steadiness import check_steady
from evalkit.adapters.openai.tokenizing import (
    PROBES,
    LocalTokenizer,
    ServerTokenizer,
    Tokenizer,
    local_tokenizer,
    seen_digest,
    server_tokenizer,
)
from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.openai.wire import Json, RejectedError, UnusableError
from evalkit.errors import EngineError
from evalkit.records import digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

CONVERSATIONS = ("Hello", "Hello, how are you?")
"""Messages that show what a chat template adds."""

CLOCK = (
    "the server's chat template puts today's date into every conversation: runs of two days are asked different "
    "prompts; next step: start the server with a template without strftime_now"
)


def connect(spec: EngineSpec, options: ServerOptions, resources: Resources) -> ServerEngine:
    """Probe a server and make an engine of it.

    Raises:
        UsageError: the server does not serve the model, the key's variable is not set, there is no such recipe.
        EngineError: the server does not answer, refuses the key, cuts prompts, or contradicts the tokenizer.
    """
    try:
        return _connected(spec, options, resources)
    except (UnusableError, RejectedError) as error:
        raise EngineError(
            f"{options.base_url}: the probe got no usable reply: {error}; next step: look at the server's log, then "
            "repeat the same command"
        ) from error


def _connected(spec: EngineSpec, options: ServerOptions, resources: Resources) -> ServerEngine:
    transport = Transport(options, read_secret(options.api_key_env))
    card = read_card(transport, spec.model)
    local = local_tokenizer(options.tokenizer, resources) if options.tokenizer else None
    served = probed(transport, card, options, local[0] if local else server_tokenizer(transport, card), card.max_length)
    template, doubts = _template(card, served, local)
    identity = identify(
        spec,
        options,
        card,
        served.can,
        tokenizer_sha256=local[1] if local else tokenizer_seen(served),
        chat_template_sha256=template,
        max_length=served.max_length,
    )
    warnings = [*identity_warnings(spec, options, card), *doubts, *served.can.warnings]
    return ServerEngine(served, identity, options, warnings)


def probed(
    transport: Transport,
    card: ServerCard,
    options: ServerOptions,
    tokenizer: Tokenizer | None,
    limit: int | None,
    owner: object = None,
) -> Served:
    """Probe a server.

    Args:
        transport: the server.
        card: what it says of itself.
        options: what is wanted.
        tokenizer: the server's or one on this machine.
        limit: the server's own limit, tokens; the option `max_length` may lower it.
        owner: what must live as long as the server does.

    Raises:
        EngineError: as in `connect`.
    """
    asker = Asker(transport, card.model, options.extra_body, ModelName())
    can = Probe(asker, card, options, tokenizer).run()
    lengths = [one for one in (options.max_length, limit) if one is not None]
    return Served(
        asker=asker,
        can=can,
        tokenizer=tokenizer,
        max_length=min(lengths) if lengths else None,
        check=lambda: check_steady(asker, card, can),
        owner=owner,
    )


def tokenizer_seen(served: Served) -> str:
    """Return the digest of what the server's tokenizer makes of `PROBES`: ids, or counts where it gives none."""
    tokenizer = served.tokenizer
    if isinstance(tokenizer, (ServerTokenizer, LocalTokenizer)):
        return seen_digest(tokenizer(list(PROBES), add_special_tokens=True, verbose=False)["input_ids"])
    if not served.can.completions:
        return seen_digest([_chat_tokens(served.asker, text) for text in PROBES])
    try:
        return seen_digest([attempt(lambda text=text: served.asker.prompt_tokens(text)) for text in PROBES])  # type: ignore[misc]
    except NotProvedError as error:
        raise EngineError(f"{served.asker.transport}: tokens cannot be counted: {error}") from error


def _template(
    card: ServerCard, served: Served, local: tuple[LocalTokenizer, str, str | None] | None
) -> tuple[str | None, list[str]]:
    """Return the digest of the server's chat template, and what it may not rest on.

    Where the server does not tell its template, two short conversations show how many tokens it makes of them. If a
    tokenizer on this machine makes as many, its template is taken for the server's; else the counts stand in.
    """
    if card.chat_template_sha256 is not None or not served.can.chat:
        return card.chat_template_sha256, [CLOCK] if card.chat_clock else []
    counts = [_chat_tokens(served.asker, text) for text in CONVERSATIONS]
    seen = digest(["tokens of conversations", list(CONVERSATIONS), counts])
    if local is None or local[2] is None:
        return seen, []
    if counts == [local[0].chat_tokens(text) for text in CONVERSATIONS]:
        return local[2], []
    return seen, ["the server's chat template is not that of the tokenizer at hand"]


def _chat_tokens(asker: Asker, text: str) -> int:
    def read(reply: Json) -> int:
        asker.name.check(reply)
        read_choice(reply)
        return read_usage(reply).prompt

    body = asker.body(**plain_prompt(CHAT, text), max_tokens=1)
    try:
        return attempt(lambda: asker.transport.post(CHAT, body, read))
    except (NotProvedError, UnusableError) as error:
        raise EngineError(f"{asker.transport}: tokens cannot be counted: {error}") from error
