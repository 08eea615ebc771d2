"""From a GGUF file to an engine: header, process, probe, read-back.

In: an engine specification, checked options. Out: a `ServerEngine` that owns its server.
May not know: recipes.
"""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.adapters.causal.source import ModelFiles, file_sha256, find_model
from evalkit.adapters.llama.gguf_file import GgufHeader, read_header, split_parts
from evalkit.adapters.llama.options import LlamaOptions
from evalkit.adapters.llama.process import LlamaProcess
from evalkit.adapters.openai.assembly import CLOCK, probed
from evalkit.adapters.openai.card import ServerCard, read_card
from evalkit.adapters.openai.engine import Served, ServerEngine
from evalkit.adapters.openai.options import ServerOptions
from evalkit.adapters.openai.steadiness import check_steady
from evalkit.adapters.openai.tokenizing import server_tokenizer
from evalkit.adapters.openai.transport import Transport
from evalkit.adapters.processor import processor
from evalkit.errors import EngineError, UsageError, suggestion
from evalkit.records import EngineIdentity, digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec

LENGTH = 8192
"""Tokens of context without the option `max_length`, at most: the cache of keys and values is reserved at once."""

_SLACK = 8
"""Tokens of context beyond the limit, so that llama.cpp's own limit is never the one that is met."""

_PROBED = 128
"""Tokens of context that the probe needs."""


def load_gguf(spec: EngineSpec, options: LlamaOptions, resources: Resources) -> ServerEngine:
    """Load a GGUF model.

    Raises:
        UsageError: no such file, a damaged header, an unknown device.
        EngineError: llama.cpp cannot load it, or serves something else than the file.
    """
    files = find_gguf(spec.model, resources)
    paths = split_parts(files.folder / str(files.gguf))
    headers = [read_header(path) for path in paths]
    header = headers[0].joined(headers[1:])
    trained = header.trained_length
    length = options.max_length or min(trained or LENGTH, LENGTH)
    if trained is not None and length > trained:
        raise UsageError(f"{files.name}: max_length {length} is more than the {trained} tokens it was trained for")
    process = LlamaProcess(_asked(spec, files, options, length), options.start_timeout_s)
    try:
        return _engine(files, paths, header, options, length, process)
    except BaseException:
        process.end()
        raise


def find_gguf(model: str, resources: Resources) -> ModelFiles:
    """Resolve an asset name or a file.

    Raises:
        UsageError: it is neither, or no GGUF file.
    """
    names = [declared.name for declared in resources.assets.declared()]
    path = Path(model).expanduser()
    if model not in names and not path.is_file():
        raise UsageError(
            f"model {model!r} is no asset and no file{suggestion(model, names)}; next step: the path of a .gguf file"
        )
    files = find_model(model, resources)
    if files.gguf is None:
        raise UsageError(f"model {model!r} is no GGUF file; next step: adapter: hf, or a GGUF file of it")
    return files


def _asked(spec: EngineSpec, files: ModelFiles, options: LlamaOptions, length: int) -> dict[str, Any]:
    kind = spec.device.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda"):
        raise UsageError(f"unknown device {spec.device!r}; allowed: auto, cpu, cuda")
    return {
        "model": str(files.folder / str(files.gguf)),
        "alias": files.name,
        "context": (max(length, _PROBED) + _SLACK) * options.parallel,
        "parallel": options.parallel,
        "threads": options.threads,
        "kv_cache": options.kv_cache,
        "flash_attention": options.flash_attention,
        "gpu_layers": 0 if kind == "cpu" else options.gpu_layers,
    }


def _engine(
    files: ModelFiles,
    paths: list[Path],
    header: GgufHeader,
    options: LlamaOptions,
    length: int,
    process: LlamaProcess,
) -> ServerEngine:
    server = ServerOptions(
        base_url=process.address,
        concurrency=options.parallel,
        timeout_s=options.timeout_s,
        retries=2,
        scoring="next-token",
        top_logprobs=options.top_logprobs,
        max_length=length,
    )
    transport = Transport(server, process.key)
    card = read_card(transport, files.name)
    _read_back(files, header, card)
    # Its own limit is not tried: it is beyond ours, and every request is measured first.
    served = probed(transport, replace(card, max_length=None), server, server_tokenizer(transport, card), None, process)
    served = _own(served, card, header, process)
    weights = files.weights_sha256 if len(paths) == 1 else digest([[one.name, file_sha256(one)] for one in paths])
    identity = _identify(replace(files, weights_sha256=weights), header, card, served, options, process)
    warnings = [line for line in served.can.warnings if "limit" not in line]
    if header.chat_template_sha256 is None:
        warnings.append("the file has no chat template: messages are refused, plain prompts work")
    elif card.chat_clock:
        warnings.append(CLOCK)
    return ServerEngine(served, identity, server, warnings)


def _own(served: Served, card: ServerCard, header: GgufHeader, process: LlamaProcess) -> Served:
    """Take messages only where the file has a template, and check the process as well as the model.

    llama.cpp takes a template of its own where the file has none; that would be a guess.
    """
    can = replace(served.can, seen={**served.can.seen, "too long a prompt": "measured before it is sent"})
    if header.chat_template_sha256 is None:
        seen = {**can.seen, "/v1/chat/completions": "not used: the file has no chat template"}
        can = replace(can, chat=False, templated=False, seen=seen)

    def check() -> None:
        process.check()
        check_steady(served.asker, card, replace(can, canary=()))

    return replace(served, can=can, check=check)


def _read_back(files: ModelFiles, header: GgufHeader, card: ServerCard) -> None:
    """Compare what the server says it runs with what the file says of itself.

    Raises:
        EngineError: they differ.
    """
    expected = {
        "n_ctx_train": header.trained_length,
        "n_vocab": len(header.metadata.get("tokenizer.ggml.tokens") or ()) or None,
    }
    wrong: dict[str, tuple[Any, Any]] = {
        name: (card.facts[name], value)
        for name, value in expected.items()
        if value is not None and name in card.facts and card.facts[name] != value
    }
    if card.chat_template_sha256 != header.chat_template_sha256 and header.chat_template_sha256 is not None:
        wrong["chat template"] = (card.chat_template_sha256, header.chat_template_sha256)
    if wrong:
        said = "; ".join(f"{name}: the server has {has!r}, the file {wants!r}" for name, (has, wants) in wrong.items())
        raise EngineError(f"{files.name}: llama.cpp does not serve this file: {said}")


def _identify(
    files: ModelFiles,
    header: GgufHeader,
    card: ServerCard,
    served: Served,
    options: LlamaOptions,
    process: LlamaProcess,
) -> EngineIdentity:
    can = served.can
    return EngineIdentity(
        adapter="llama_cpp",
        model=files.name,
        weights_sha256=files.weights_sha256,
        recipe="none",
        recipe_sha256=None,
        fidelity="engine",
        quantization={
            "algorithm": header.quantization,
            "kv_cache": options.kv_cache,
            "enabled": dict(header.tensors),
            "served_as": card.quantization,
        },
        dtype=header.dtype,
        tokenizer_sha256=header.tokenizer_sha256,
        chat_template_sha256=header.chat_template_sha256,
        versions={"xllamacpp": metadata.version("xllamacpp")},
        device=_device(process),
        options={
            "scoring": can.scoring,
            "top_logprobs": can.top_k,
            "forced_tokens": can.forced,
            "max_length": served.max_length,
            "flash_attention": options.flash_attention,
            "fields": dict(can.fixed),
            "fields_when_sampled": dict(can.sampled),
        },
        processor=processor() if all(one.get("type") == "CPU" for one in process.devices) else None,
    )


def _device(process: LlamaProcess) -> str:
    names = [str(one.get("description") or one.get("name")) for one in process.devices]
    return f"{platform.machine()} {', '.join(names)}".strip()
