"""What a server says of itself, without what changes from one second to the next.

In: a server and the name of a model. Out: a `ServerCard`; two equal cards are one and the same serving.
May not know: what the server can do; that is probed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.openai.wire import Json, UnusableError
from evalkit.errors import EngineError, UsageError, suggestion
from evalkit.records import text_digest

_STABLE = ("id", "root", "parent", "owned_by", "max_model_len", "aliases")
"""Fields of a model's entry that do not change while it is served (`created` and `permission` of vLLM do)."""

_STABLE_META = ("ftype", "n_ctx", "n_ctx_train", "n_embd", "n_params", "n_vocab", "size")
_QUANTIZATION = ("quantization", "quant_algo", "quantization_level", "ftype")
_KV_CACHE = ("kv_cache_dtype", "kv_cache_quant_algo")
_LENGTHS = ("max_model_len", "max_seq_len", "context_length", "n_ctx")


@dataclass(frozen=True, kw_only=True)
class ServerCard:
    """What a server says of itself.

    Attributes:
        model: id of the model, as requests name it.
        family: who serves, as `owned_by` says: "llamacpp", "vllm", "sglang", "tensorrt_llm", ...; "unknown" without.
        version: version of the server; "unknown" where it does not say.
        facts: stable fields of the model's entry.
        max_length: tokens a request may need; None where the server does not say.
        quantization, kv_cache: as the server tells; "unknown" where it does not.
        start_text: text of the start token, where the server tells.
        chat_template_sha256: digest of the chat template, where the server tells it.
        chat_clock: whether that template asks for today's date.
    """

    model: str
    family: str
    version: str
    facts: Mapping[str, Any]
    max_length: int | None
    quantization: str
    kv_cache: str
    start_text: str | None
    chat_template_sha256: str | None
    chat_clock: bool = False


def read_card(transport: Transport, model: str) -> ServerCard:
    """Ask a server what it serves.

    Raises:
        UsageError: it does not serve this model.
        EngineError: it does not answer, or refuses the key.
    """
    try:
        listed = transport.get("/v1/models", "data")
    except UnusableError as error:
        raise EngineError(f"{transport}: no list of models: {error.failure.message}") from error
    if listed is None:
        raise EngineError(f"{transport}: no page /v1/models; next step: give the address of an OpenAI-like server")
    entry = _entry(listed, model, str(transport))
    family = str(entry.get("owned_by") or "unknown")
    facts = _facts(entry)
    # Only where the server is known to have a page: a strange page is not asked for, let alone every few seconds.
    props = _page(transport, "/props", "model_path") if family == "llamacpp" else {}
    info = _page(transport, "/get_server_info", "model_path") if family == "sglang" else {}
    told = {**facts, **{name: value for name, value in _leaves(info) if name in (*_QUANTIZATION, *_KV_CACHE)}}
    template = props.get("chat_template")
    return ServerCard(
        model=str(entry["id"]),
        family=family,
        version=_version(transport, family, props, info),
        facts=facts,
        max_length=next((told[name] for name in _LENGTHS if isinstance(told.get(name), int) and told[name] > 0), None),
        quantization=_first(told, _QUANTIZATION),
        kv_cache=_first(told, _KV_CACHE),
        start_text=str(props["bos_token"]) if props.get("bos_token") else None,
        chat_template_sha256=text_digest(template) if isinstance(template, str) and template else None,
        chat_clock="strftime" in str(template),
    )


def _entry(listed: Json, model: str, where: str) -> Mapping[str, Any]:
    data = listed.get("data")
    entries = (
        [entry for entry in data if isinstance(entry, Mapping) and entry.get("id")] if isinstance(data, list) else []
    )
    found = [entry for entry in entries if entry["id"] == model]
    if len(found) == 1:
        return found[0]
    names = [str(entry["id"]) for entry in entries]
    if found:
        raise EngineError(f"{where}: {len(found)} models are called {model!r}; an engine must be one model")
    raise UsageError(f"{where} serves no model {model!r}{suggestion(model, names) or '; it lists none at all'}")


def _facts(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    meta = entry.get("meta")
    inner = {name: meta[name] for name in _STABLE_META if name in meta} if isinstance(meta, Mapping) else {}
    return {**{name: entry[name] for name in _STABLE if entry.get(name) is not None}, **inner}


def _page(transport: Transport, path: str, field: str) -> Json:
    """Return a page; an empty one where the server has none.

    A page that cannot be read at the moment is an error: the server would seem to have changed when it can be again.
    """
    try:
        return transport.get(path, field) or {}
    except UnusableError as error:
        raise EngineError(f"{transport}: {error.failure.message}") from error


def _version(transport: Transport, family: str, props: Json, info: Json) -> str:
    found = props.get("build_info") or info.get("version")
    if not found and family != "llamacpp":
        found = _page(transport, "/version", "version").get("version")
    return str(found) if found else "unknown"


def _first(told: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(told[name]) for name in names if isinstance(told.get(name), str) and told[name]), "unknown")


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every (name, value) of a nested object whose value is no object."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, (Mapping, list)):
                yield from _leaves(inner)
            else:
                yield str(name), inner
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
