"""Building a model by lm-eval's registry.

In: an engine specification, checked options. Out: an lm-eval model object.
May not know: requests.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.registry import get_model, model_registry

from evalkit.adapters.causal.source import ModelFiles, check_headers, find_model
from evalkit.adapters.harness.options import HarnessOptions
from evalkit.errors import EngineError, UsageError, suggestion

if TYPE_CHECKING:
    from evalkit.adapters.base import Resources
    from evalkit.suite import EngineSpec


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
