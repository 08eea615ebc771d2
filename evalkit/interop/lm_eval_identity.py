"""Who answered, as far as lm-eval's files say it.

In: the results object. Out: an `EngineIdentity` in which everything else reads "unknown".
May not know: samples, comparisons.

lm-eval records what it was asked for, not what was loaded. All of that stands under "declared", without secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evalkit.interop.redaction import redacted
from evalkit.records import EngineIdentity, Fidelity

UNKNOWN = "unknown"

_NAMES = ("peft", "delta", "pretrained", "model", "path", "engine")
_OF_THE_RECIPE = re.compile(r"quant|bit|gptq|awq|bnb|kv_?cache|dtype|compressed|gguf", re.IGNORECASE)


def identity_of(results: Mapping[str, Any], recipe: str, fidelity: Fidelity) -> EngineIdentity:
    """Return the identity of an imported run.

    Args:
        results: content of `results_*.json`.
        recipe: how the model was quantized, as the user declares it; lm-eval does not say.
        fidelity: as the user declares it.
    """
    config = _mapping(results.get("config"))
    arguments = _arguments(config.get("model_args"))
    told = {key: config[key] for key in ("model_revision", "model_sha", "model_num_parameters") if config.get(key)}
    of_recipe = {key: value for key, value in arguments.items() if _OF_THE_RECIPE.search(key)}
    others = {
        key: value
        for key, value in arguments.items()
        if key not in of_recipe and key not in (*_NAMES, "recipe", "fidelity")
    }
    own = "evalkit_version" in results
    return EngineIdentity(
        adapter=f"lm_eval:{results.get('model_source') or UNKNOWN}",
        model=str(redacted(results.get("model_name") or config.get("model") or UNKNOWN)),
        weights_sha256=UNKNOWN,
        recipe=recipe,
        recipe_sha256=None,
        fidelity=fidelity,
        quantization={"declared": {"recipe": recipe, "fidelity": fidelity, "model_args": of_recipe, **told}},
        dtype=str(config.get("model_dtype") or UNKNOWN).removeprefix("torch."),
        tokenizer_sha256=UNKNOWN,
        chat_template_sha256=results.get("chat_template_sha") or None,
        versions={
            "evalkit" if own else "lm_eval": str(
                results.get("evalkit_version" if own else "lm_eval_version") or UNKNOWN
            ),
            "transformers": str(results.get("transformers_version") or UNKNOWN),
        },
        device=str(config.get("device") or UNKNOWN),
        options={
            **{f"model_args.{key}": value for key, value in others.items()},
            "max_length": results.get("max_length"),
            "batch_size": _text(config.get("batch_size")),
            "gen_kwargs": redacted(config.get("gen_kwargs")),
            "declared": {"not read back from what was loaded": ["model", "recipe", "fidelity", "dtype", "options"]},
            "unknown": ["weights", "tokenizer", "token counts", "why an answer ended"],
        },
    )


def _arguments(value: Any) -> dict[str, Any]:
    """Return `model_args` as a mapping without secrets; lm-eval writes text or an object."""
    if isinstance(value, str):
        pairs = (part.partition("=") for part in value.split(",") if part.strip())
        value = {key.strip(): text for key, _, text in pairs}
    cleaned = redacted(_mapping(value))
    return {str(key): cleaned[key] for key in sorted(cleaned)}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
