"""Models behind an OpenAI-compatible endpoint: trtllm-serve, vLLM, SGLang, NIM, llama.cpp and others.

In: an engine specification whose options name an address. Out: a `ServerEngine`, probed before its first item.
Must not depend on: tasks; how the server runs its model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from evalkit.adapters.base import Engine, Resources, read_options
from evalkit.adapters.openai.options import DIGEST, ServerOptions
from evalkit.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from evalkit.suite import EngineSpec

SUMMARY = "any OpenAI-compatible server (trtllm-serve, vLLM, SGLang, NIM, llama.cpp), probed first"


def load(spec: EngineSpec, resources: Resources) -> Engine:
    """Connect to a server.

    Raises:
        UsageError: an option is wrong, the server does not serve the model, or the key's variable is not set.
        MissingExtraError: httpx is not installed.
        EngineError: the server does not answer, or does something that makes its numbers worthless.
    """
    if find_spec("httpx") is None:
        raise MissingExtraError("adapter 'openai_server'", "httpx", "server")
    options: ServerOptions = read_options(ServerOptions, spec)
    from evalkit.adapters.openai.engine import connect  # noqa: PLC0415 - httpx is optional

    return connect(spec, options, resources)


def reusable(options: Mapping[str, Any]) -> bool:
    """Say whether a finished run may be reused without asking the server: only if its weights are declared.

    Another model may be served at the same address, under the same name, since then.
    """
    return bool(options.get("weights_sha256"))


def at(options: Mapping[str, Any], url: str) -> dict[str, Any]:
    """Return the options for the same model behind another address.

    Without a declared digest the address is part of what tells weights apart, for nothing else would notice that one of
    several servers runs another model.

    Raises:
        UsageError: the digest of the weights is not declared, or is none.
    """
    declared = options.get("weights_sha256")
    if not re.match(DIGEST, str(declared)):
        raise UsageError(
            f"{url}: several servers are taken for one engine only on somebody's word that they serve the same "
            f"weights, and weights_sha256 is {declared!r}; next step: declare their digest, 64 hexadecimal "
            "digits, in the option weights_sha256"
        )
    return {**options, "base_url": url}
