"""Where an engine's weights come from: the model that somebody quantized, not the file that was loaded.

In: an identity. Out: `Origin`: a model's name, and the digest of its original weights where anybody recorded it.
May not know: which run is the baseline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records.identity import EngineIdentity

_FORMATS = re.compile(
    r"^(fp|int|mxfp|mxint|nvfp|bf|e4m|w\d+a)\d+$"
    r"|^(\d+bit|awq|gptq|kv|cast|dynamic|static|block|modelopt|official|quantized|quant|hf|gguf|bnb|rtn|sq|"
    r"compressed|tensors|quantized\.w\d+a\d+|trtllm|vllm|exported|checkpoint)$"
)
_GGUF = re.compile(r"[-._](i?q\d(_\w+)?|b?f(16|32))$")
"""Parts of a name that say how a model is stored, not which model it is."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model before quantization.

    Attributes:
        model: name: that of the source which an exported checkpoint records, else that of what was loaded.
        weights_sha256: digest of the original weights; None where nobody recorded it.
    """

    model: str
    weights_sha256: str | None

    def same_as(self, other: Origin) -> bool | None:
        """Say whether two models come from the same weights; None where only their names agree.

        Two digests decide. Without them two different names are two models: nothing shows the contrary.
        """
        if self.weights_sha256 is not None and other.weights_sha256 is not None:
            return self.weights_sha256 == other.weights_sha256
        return None if model_key(self.model) == model_key(other.model) else False


def origin_of(identity: EngineIdentity) -> Origin:
    """Return where an engine's weights come from.

    A checkpoint that evalkit exported says it (`evalkit.json`); weights that were quantized in memory are the original
    ones. Any other checkpoint is known by its name alone.
    """
    trace = identity.quantization.get("trace")
    if isinstance(trace, Mapping) and isinstance(trace.get("source"), str):
        sha = trace.get("source_weights_sha256")
        return Origin(model=trace["source"], weights_sha256=sha if isinstance(sha, str) else None)
    in_memory = identity.fidelity == "simulated" and identity.quantization.get("algorithm") != "scripted"
    return Origin(model=identity.model, weights_sha256=identity.weights_sha256 if in_memory else None)


def model_key(name: str) -> str:
    """Return a model's name without its owner, letter case, and words that say how it is stored.

    >>> model_key("meta-llama/Meta-Llama-3.1-8B-Instruct"), model_key("RedHatAI/Llama-3.1-8B-Instruct-FP8-dynamic")
    ('llama-3.1-8b-instruct', 'llama-3.1-8b-instruct')
    >>> model_key("llama-3.1-405b-pruned") == model_key("llama-3.1-405b")
    False
    """
    plain = name.rstrip("/").rsplit("/", 1)[-1].casefold().removesuffix(".gguf")
    words = re.split(r"[-_\s]+", _GGUF.sub("", plain))
    kept = [word for at, word in enumerate(words) if word and not (at and _FORMATS.match(word))]
    if len(kept) > 1 and kept[0] == "meta" and kept[1].startswith("llama"):
        kept = kept[1:]
    return "-".join(kept)
