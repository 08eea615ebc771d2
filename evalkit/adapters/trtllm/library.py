"""The installed TensorRT-LLM: its version, its classes, and which keywords they know.

In: nothing. Out: `Library`, or an error that names the version.
May not know: models, requests.

Its classes refuse unknown keywords, and gain and lose them from version to version. So a keyword that is not in every
supported version is sent only where the class is seen to have it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from packaging.version import InvalidVersion, Version

from evalkit.errors import EngineError

OLDEST = Version("1.2.0rc0")
"""Before it, temperature 0 is an error and candidates of generated tokens are missing from the PyTorch backend."""

PROMPT_SCORES = Version("1.3.0rc11")
"""Before it, `prompt_logprobs` hold the log-probability of another token than the prompt's next, or none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """TensorRT-LLM as installed.

    Attributes:
        version: its version.
        api: module `tensorrt_llm.llmapi`.
        refusals: what it raises where it refuses one request and goes on.
        sampling_fields: keywords of `SamplingParams`.
        model_fields: keywords of `LLM`.
        salted: whether a request can keep its blocks of the cache to itself.
    """

    version: Version
    api: Any
    refusals: tuple[type[Exception], ...]
    sampling_fields: frozenset[str]
    model_fields: frozenset[str]
    salted: bool

    def sampling(self, **wanted: Any) -> Any:
        """Make sampling parameters; log-probabilities are those before any truncation of the distribution.

        Raises:
            EngineError: this version refuses them.
        """
        if "logprobs_mode" in self.sampling_fields and "logprobs" in wanted:
            wanted["logprobs_mode"] = "raw"
        return self.make("SamplingParams", **wanted)

    def make(self, name: str, **wanted: Any) -> Any:
        """Make an object of the LLM API.

        Raises:
            EngineError: this version has no such class, or refuses the values.
        """
        kind = getattr(self.api, name, None)
        if kind is None:
            raise EngineError(f"TensorRT-LLM {self.version} has no {name}")
        try:
            return kind(**wanted)
        except (TypeError, ValueError) as error:
            raise EngineError(f"TensorRT-LLM {self.version} refuses {name}({_shown(wanted)}): {error}") from error


def import_library() -> Library:
    """Import TensorRT-LLM and look at it.

    Raises:
        EngineError: it cannot be imported, or is older than `OLDEST`.
    """
    try:
        package, api = import_module("tensorrt_llm"), import_module("tensorrt_llm.llmapi")
    except Exception as error:  # it loads CUDA and MPI libraries, which may fail in any way
        raise EngineError(
            f"tensorrt_llm is installed but cannot be imported: {type(error).__name__}: {error}; next step: check the "
            "CUDA and MPI libraries it was built for"
        ) from error
    version = _version(package)
    if version < OLDEST:
        raise EngineError(
            f"TensorRT-LLM {version} is too old: {OLDEST} or newer scores generated tokens and takes temperature 0; "
            "next step: pip install --upgrade tensorrt-llm"
        )
    return Library(
        version=version,
        api=api,
        refusals=_refusals(api),
        sampling_fields=frozenset(one.name for one in fields(api.SamplingParams)),
        model_fields=frozenset(getattr(getattr(api, "TorchLlmArgs", None), "model_fields", ())),
        salted="cache_salt" in inspect.signature(api.LLM.generate_async).parameters,
    )


def _version(package: Any) -> Version:
    text = str(getattr(package, "__version__", ""))
    try:
        return Version(text)
    except InvalidVersion as error:
        raise EngineError(f"tensorrt_llm says that its version is {text!r}, which cannot be compared") from error


def _refusals(api: Any) -> tuple[type[Exception], ...]:
    own = getattr(api, "RequestError", None)
    return (ValueError, own) if isinstance(own, type) and issubclass(own, Exception) else (ValueError,)


def _shown(wanted: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in wanted.items())
