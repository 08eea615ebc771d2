"""The identity of a served model: what the server says, what the probe saw, and what was declared, told apart.

In: a card, capabilities, options. Out: `EngineIdentity`, and what it may not rest on.
May not know: whether the server tells the truth; over HTTP nobody does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.adapters.openai.capabilities import Capabilities
from evalkit.adapters.openai.card import ServerCard
from evalkit.adapters.openai.options import ServerOptions
from evalkit.recipes import load_recipe
from evalkit.records import EngineIdentity, digest

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

DECLARED = "declared, not read back"
TOLD = "told by the server"


def identify(
    spec: EngineSpec,
    options: ServerOptions,
    card: ServerCard,
    can: Capabilities,
    *,
    tokenizer_sha256: str,
    chat_template_sha256: str | None,
    max_length: int | None,
) -> EngineIdentity:
    """Return the identity of a served model.

    Without a declared digest, the weights are told apart by what the server says of them and by its address: the same
    model behind another port is another engine then, which costs a rerun; two models taken for one would cost more.
    """
    recipe = None if spec.recipe == "none" else load_recipe(spec.recipe)
    served = {"facts": dict(card.facts), "family": card.family, "address": options.base_url}
    return EngineIdentity(
        adapter="openai_server",
        model=spec.model.rstrip("/").rsplit("/", 1)[-1] if spec.model.startswith(("/", "~", ".")) else spec.model,
        weights_sha256=options.weights_sha256 or digest(served),
        recipe=recipe.name if recipe else "none",
        recipe_sha256=recipe.sha256 if recipe else None,
        fidelity="engine",
        quantization=quantization(options, card),
        dtype="unknown",
        tokenizer_sha256=tokenizer_sha256,
        chat_template_sha256=chat_template_sha256,
        versions={card.family: card.version},
        device="behind a server",
        options=answer_options(options, card, can, max_length),
    )


def quantization(options: ServerOptions, card: ServerCard) -> dict[str, Any]:
    """Return how the model is quantized, and on whose word."""
    told = card.quantization != "unknown"
    declared = options.quantization is not None
    return {
        "algorithm": card.quantization if told else options.quantization or "unknown",
        "kv_cache": card.kv_cache,
        "enabled": {},
        "evidence": TOLD if told else DECLARED if declared else "none",
    }


def answer_options(
    options: ServerOptions, card: ServerCard, can: Capabilities, max_length: int | None
) -> dict[str, Any]:
    """Return the options that can change an answer, as they took effect."""
    scored = can.scoring != "none"
    return {
        "server": card.family,
        "scoring": can.scoring,
        "top_logprobs": can.top_k if scored else None,
        "candidates_named_by": can.matching if scored else None,
        "forced_tokens": can.forced,
        "token_ids": can.ids,
        "max_length": max_length,
        "seed": can.seed,
        "fields": dict(can.fixed),
        "fields_when_sampled": dict(can.sampled),
        "extra_body": dict(options.extra_body),
    }


def identity_warnings(spec: EngineSpec, options: ServerOptions, card: ServerCard) -> list[str]:
    """Return what the identity may not rest on."""
    found = []
    if options.weights_sha256 is None:
        found.append(
            "the weights cannot be read over HTTP: name, address and what the server says of itself stand in; "
            "declare their digest in weights_sha256"
        )
    if spec.recipe != "none":
        found.append(f"recipe '{spec.recipe}' is {DECLARED}: no server says how its model was quantized")
    if card.quantization == "unknown":
        said = f"'{options.quantization}' is {DECLARED}" if options.quantization else "it is unknown"
        found.append(f"the server does not say how its model is quantized; {said}")
    elif options.quantization is not None and options.quantization != card.quantization:
        found.append(f"quantization '{options.quantization}' was declared; the server says '{card.quantization}'")
    if options.api_key_env and not options.encrypted and not options.loopback:
        found.append("the key is sent over a connection that is not encrypted; use https")
    return found
