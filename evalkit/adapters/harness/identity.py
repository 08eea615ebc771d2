"""The identity of a model that lm-eval built, as far as it can be read back.

In: lm-eval's object and the arguments it was built with. Out: `EngineIdentity`, and what it may not rest on.
Must not depend on: requests.
"""

from __future__ import annotations

import inspect
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import get_model, model_registry

from evalkit.adapters.checkpoint.declared import NONE, read_declared
from evalkit.adapters.harness.options import HarnessOptions
from evalkit.adapters.processor import device_name, processor_of
from evalkit.adapters.source import ModelFiles, check_headers, find_model
from evalkit.adapters.tokens import chat_options, tokenizer_text
from evalkit.errors import EngineError, UsageError, suggestion
from evalkit.records import EngineIdentity, digest, text_digest

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


# Building a model by lm-eval's registry.


def build_model(
    spec: EngineSpec, options: HarnessOptions, resources: Resources
) -> tuple[Any, Mapping[str, Any], ModelFiles | None]:
    """Build a model.

    Returns:
        lm-eval's object, the arguments it was built with, and the files of an asset or a local folder.

    Raises:
        UsageError: lm-eval registers no such model, or an argument is wrong.
        EngineError: lm-eval cannot build it.
    """
    kind = _class(spec.model)
    arguments, files = _arguments(spec, options, resources, kind)
    shared = {"batch_size": options.batch_size, "device": None if spec.device == "auto" else spec.device}
    given = {name: value for name, value in shared.items() if value is not None and name not in arguments}
    try:
        with quiet():
            return kind.create_from_arg_obj(dict(arguments), given), arguments, files
    except Exception as error:  # lm-eval's backends raise many unrelated types
        raise EngineError(
            f"engine '{spec.name}': lm-eval's model '{spec.model}' cannot be built: {type(error).__name__}: {error}"
        ) from error


def _class(name: str) -> Any:
    import lm_eval.models  # noqa: F401, PLC0415 - fills the registry

    if name not in model_registry:
        raise UsageError(f"lm-eval registers no model {name!r}{suggestion(name, sorted(model_registry))}")
    try:
        return get_model(name)
    except ImportError as error:
        raise EngineError(
            f"lm-eval's model '{name}' needs a package that is missing: {error}; next step: install what lm-eval names"
        ) from error


def _arguments(
    spec: EngineSpec, options: HarnessOptions, resources: Resources, kind: Any
) -> tuple[dict[str, Any], ModelFiles | None]:
    arguments, files = dict(options.model_args), None
    if options.asset is not None:
        files = find_model(options.asset, resources)
        arguments["pretrained"] = str(files.folder)
        if files.gguf is not None:
            arguments["gguf_file"] = files.gguf
    place = arguments.get("pretrained")
    if files is None and isinstance(place, str) and (Path(place) / "config.json").is_file():
        check_headers(Path(place))
    known = inspect.signature(kind.__init__).parameters
    if "dtype" in known:
        arguments.setdefault("dtype", spec.dtype)
    if options.max_length is not None and "max_length" in known:
        arguments.setdefault("max_length", options.max_length)
    return arguments, files


@contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's advice and bars off stderr; failures still raise."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "transformers", "accelerate")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _no_bars():
                yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Keep the loader's progress bars off stderr, where transformers is installed."""
    if find_spec("transformers") is None:
        yield
        return
    import transformers  # noqa: PLC0415
    import transformers.modeling_gguf_pytorch_utils as gguf  # noqa: PLC0415

    shown, bar = transformers.logging.is_progress_bar_enabled(), gguf.tqdm
    transformers.logging.disable_progress_bar()
    gguf.tqdm = lambda tensors, **_: tensors
    try:
        yield
    finally:
        gguf.tqdm = bar
        if shown:
            transformers.logging.enable_progress_bar()


_PACKAGES = {"torch": "torch", "transformers": "transformers", "vllm": "vllm", "sglang": "sglang"}
"""Module to distribution; only those that were imported can matter."""

_PLACES = ("pretrained", "model", "tokenizer", "gguf_file")
"""Arguments that may be paths; their last part is the name."""


def torch_model(model: Any) -> Any | None:
    """Return the torch module inside lm-eval's object; None where there is none in this process."""
    inner = getattr(model, "_model", None)
    return inner if hasattr(inner, "parameters") and hasattr(inner, "config") else None


def identify(
    spec: EngineSpec,
    options: HarnessOptions,
    model: Any,
    arguments: Mapping[str, Any],
    files: ModelFiles | None,
    resources: Resources,
) -> tuple[EngineIdentity, list[str]]:
    """Return the identity and what it may not rest on."""
    inner = torch_model(model)
    name = files.name if files else _named(arguments.get("pretrained") or arguments.get("model") or spec.model)
    weights, doubts = _weights(options, arguments, files, inner, resources)
    tokenizer = getattr(model, "tokenizer", None)
    template = getattr(tokenizer, "chat_template", None)
    quantization, more = _quantization(inner, _folder(arguments, files))
    identity = EngineIdentity(
        adapter="lm_eval",
        model=name,
        weights_sha256=weights,
        recipe="none",
        recipe_sha256=None,
        fidelity="dequantised" if quantization.get("expanded") else "engine",
        quantization=quantization,
        dtype=_dtype(inner),
        tokenizer_sha256=_tokenizer(tokenizer),
        chat_template_sha256=text_digest(str(template)) if template else None,
        versions={"lm-eval": metadata.version("lm-eval"), **_versions()},
        device=_device(model, inner),
        options={
            "lm_eval_model": spec.model,
            "model_args": {
                key: _named(value) if key in _PLACES else value
                for key, value in arguments.items()
                if options.asset is None or key not in ("pretrained", "gguf_file")  # the asset's own place
            },
            "scoring": "loglikelihood",
            "max_length": length_limit(model, options),
            **chat_options(tokenizer),
        },
        processor=_processor(inner),
    )
    return identity, [*doubts, *more]


def length_limit(model: Any, options: HarnessOptions) -> int | None:
    """Return the tokens a request may need: the lower of the model's own limit and the option's."""
    own = getattr(model, "max_length", None)
    found = [one for one in (own if isinstance(own, int) else None, options.max_length) if one is not None]
    return min(found) if found else None


def _weights(
    options: HarnessOptions,
    arguments: Mapping[str, Any],
    files: ModelFiles | None,
    inner: Any,
    resources: Resources,
) -> tuple[str, list[str]]:
    if options.weights_sha256 is not None:
        return options.weights_sha256, ["the digest of the weights is declared, not read back"]
    if files is not None:
        return files.weights_sha256, []
    place = arguments.get("pretrained")
    if isinstance(place, str) and Path(place).is_dir():
        gguf = arguments.get("gguf_file")
        return find_model(str(Path(place) / gguf) if gguf else place, resources).weights_sha256, []
    commit = getattr(getattr(inner, "config", None), "_commit_hash", None)
    if commit:
        return digest({"hub": str(place), "commit": str(commit)}), []
    return digest({"arguments": {key: str(value) for key, value in arguments.items()}}), [
        "the weights cannot be read back: the arguments stand in; declare their digest in weights_sha256"
    ]


def _folder(arguments: Mapping[str, Any], files: ModelFiles | None) -> Path | None:
    """Return the folder of safetensors that was loaded; None where there is none on this machine."""
    if files is not None:
        return None if files.gguf else files.folder
    place = arguments.get("pretrained")
    local = isinstance(place, str) and not arguments.get("gguf_file") and (Path(place) / "config.json").is_file()
    return Path(str(place)) if local else None


def _quantization(inner: Any, folder: Path | None) -> tuple[Mapping[str, Any], list[str]]:
    found: dict[str, Any] = {"algorithm": "unknown", "kv_cache": "unknown", "enabled": {}}
    if inner is None:
        return found, ["how the model is quantized cannot be read back: it is not in this process"]
    declared = getattr(inner.config, "quantization_config", None)
    found |= {"algorithm": "none", "kv_cache": "none"}
    if declared is not None:
        values = declared if isinstance(declared, dict) else declared.to_dict()
        method = values.get("quant_method")
        found["algorithm"] = str(getattr(method, "value", method))
    elif folder is not None and (stored := read_declared(folder)).algorithm != NONE:
        found |= {"algorithm": stored.method or stored.algorithm, "expanded": True}
    return found, []


def _dtype(inner: Any) -> str:
    return "unknown" if inner is None else str(next(inner.parameters()).dtype).removeprefix("torch.")


def _tokenizer(tokenizer: Any) -> str:
    return text_digest("unknown" if tokenizer is None else tokenizer_text(tokenizer))


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for module, name in _PACKAGES.items() if module in sys.modules}


def _processor(inner: Any) -> Mapping[str, Any] | None:
    if inner is None:
        return None
    return processor_of(inner)


def _device(model: Any, inner: Any) -> str:
    if inner is None:
        return "unknown"
    return device_name(str(getattr(model, "device", "cpu")))


def _named(value: Any) -> Any:
    """Return the last part of a path, the value itself where it is none.

    >>> _named("/data/models/llama"), _named("meta-llama/Llama-3.1-8B")
    ('llama', 'meta-llama/Llama-3.1-8B')
    """
    if isinstance(value, str) and (value.startswith(("/", "~", ".")) or Path(value).exists()):
        return Path(value).name
    return value
