"""What a transformers library makes of a folder's files, and whether another library makes the same of them.

In: a model's configuration and tokenizer as a library holds them, or the files of a folder. Out: facts by name, and
every fact in which two libraries differ; files that transformers 4 and 5 read as the same model.
Must not depend on: torch; weights; who asks.

transformers 5 keeps the rotary base and its scaling in `rope_parameters` and writes nothing else. transformers 4 passes
over that, and takes the base 10000 and no scaling without a word: the same weights are then another model.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evalkit.errors import IdentityMismatchError
from evalkit.records import digest

PROBES = (
    "The quick brown fox: 3.14159, and 1,000,000\n\nAnswer: A",
    "Grüße, naïve café: 東京 🙂",
    "def f(x):\n    return x\n",
)
"""Texts whose tokens tell two tokenizers apart."""

_NAMES: Mapping[str, Sequence[str]] = {
    "layers": ("num_hidden_layers", "n_layer"),
    "hidden": ("hidden_size", "n_embd"),
    "inner": ("intermediate_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "head_dim": ("head_dim", "attention_head_dim"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok",),
    "norm_epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
    "activation": ("hidden_act", "hidden_activation", "activation_function"),
    "positions": ("max_position_embeddings", "n_positions"),
    "sliding_window": ("sliding_window", "attention_window_size"),
    "attention_scale": ("query_pre_attn_scalar", "attention_multiplier"),
    "logit_scale": ("logit_scale", "logits_scaling"),
    "logit_cap": ("final_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "vocabulary": ("vocab_size",),
}
"""Facts to the names that configurations of the field have for them; the first that is set counts."""

_MAY_BE_NONE = ("sliding_window", "rotary_base", "rotary_scaling", "bos_token_id", "eos_token_id", "pad_token_id")
"""Facts of which a library that knows nothing differs from one that does. Others have too many names to say so."""

_OUTSIDE = ("rope_theta", "rope_type", "type", "partial_rotary_factor")


def config_facts(config: Any, generation: int) -> dict[str, Any]:
    """Return what a library takes a model to be.

    Args:
        config: transformers' configuration object.
        generation: major version of the transformers that made it; 4 does not look at `rope_parameters`.

    Returns:
        Numbers, words and, for `rotary_scaling`, a mapping; a fact that the model has not is None.
    """
    text = config.get_text_config(decoder=True)
    found = {fact: _first(text, names) for fact, names in _NAMES.items()}
    if found["head_dim"] is None and found["hidden"] and found["heads"]:
        found["head_dim"] = found["hidden"] // found["heads"]
    found["sliding_window"] = found["sliding_window"] or None  # some families write 0 for none
    dtype = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    tied = getattr(text, "tie_word_embeddings", None)
    return {
        **found,
        "tied_embeddings": None if tied is None else bool(tied),
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        **_rotary(text, generation),
    }


def tokenizer_facts(tokenizer: Any) -> dict[str, Any]:
    """Return what a library takes a tokenizer to be: its size, special tokens, and the tokens of `PROBES`."""
    ids = [
        [list(map(int, tokenizer.encode(text, add_special_tokens=special))) for text in PROBES]
        for special in (False, True)
    ]
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id")
    return {
        "tokens": len(tokenizer),
        **{name: getattr(tokenizer, name, None) for name in names},
        "tokens_of_probe_texts": digest(ids),
    }


def folder_facts(folder: Path, tokenizer: Any, *, trust_remote_code: bool = False) -> dict[str, Any]:
    """Return what the transformers of this process makes of a folder.

    Raises:
        Exception: whatever transformers raises for a configuration that it cannot read.
    """
    import transformers  # noqa: PLC0415 - optional and slow to import

    config = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    return {**config_facts(config, generation_of(transformers.__version__)), **tokenizer_facts(tokenizer)}


def generation_of(version: str) -> int:
    """Return the major version of transformers.

    >>> generation_of("4.57.3"), generation_of("5.14.1")
    (4, 5)
    """
    return int(version.partition(".")[0])


def differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Name every fact in which two libraries differ; facts that only one of them knows of are not compared.

    >>> differences({"rotary_base": 500000.0, "layers": 4}, {"rotary_base": 10000.0, "layers": 4})
    ['rotary_base: 500000.0 when it was quantized, 10000.0 here']
    """
    faults = []
    for fact in recorded:
        before, here = recorded[fact], found.get(fact)
        told = before is not None and here is not None
        if (told or (fact in _MAY_BE_NONE and (fact in found or fact == "rotary_base"))) and not _same(before, here):
            faults.append(f"{fact}: {_shown(before)} when it was quantized, {_shown(here)} here")
    return faults


def refuse_differences(
    place: str, recorded: Mapping[str, Any], found: Mapping[str, Any], reader: str, writer: str
) -> None:
    """Refuse a folder of which this process reads another model than was quantized.

    Args:
        place: the folder, for people.
        recorded: facts of its record; empty for a folder that has none.
        found: facts as this process resolves them.
        reader: who reads it here, with its version.
        writer: who wrote it, with its version.

    Raises:
        IdentityMismatchError: names every fact with both values.
    """
    faults = differences(recorded, found)
    if faults:
        steps = f"next step: run evalkit quantize again, which writes what both read, or serve it with {writer}"
        head = f"{place}: {reader} reads another model out of this folder than {writer} quantized ({steps}):"
        raise IdentityMismatchError("\n  - ".join([head, *faults]))


def _first(config: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = getattr(config, name, None)
        if value is not None and not isinstance(value, (list, tuple)):
            return value
    return None


def _rotary(config: Any, generation: int) -> dict[str, Any]:
    """Return base, scaling and share of the rotary embedding, and the base of sliding layers that have their own."""
    if generation >= 5:
        parts = by_layer_type(getattr(config, "rope_parameters", None) or {})
        whole, sliding = parts.get("full_attention", {}), parts.get("sliding_attention", {})
        base, own = whole.get("rope_theta"), sliding.get("rope_theta")
        share = whole.get("partial_rotary_factor")
    else:
        whole = getattr(config, "rope_scaling", None) or {}
        base = _first(config, ("rope_theta", "rotary_emb_base"))
        own = getattr(config, "rope_local_base_freq", None)
        share = _first(config, ("partial_rotary_factor", "rotary_pct"))
    if base is None:
        return {}  # a model without rotary embeddings, or one whose configuration does not say
    return {
        "rotary_base": float(base),
        "rotary_scaling": _scaling(whole),
        "rotary_share": 1.0 if share is None else float(share),
        "rotary_base_of_sliding_layers": float(base if own is None else own),
    }


def by_layer_type(parameters: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return rotary parameters by type of layer; those that hold for every layer are those of full attention."""
    nested = {name: value for name, value in parameters.items() if isinstance(value, Mapping)}
    return dict(nested) if nested else {"full_attention": parameters} if parameters else {}


def _scaling(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return None
    return {"type": kind, **{name: value for name, value in sorted(parameters.items()) if name not in _OUTSIDE}}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        # a library fills in the length before scaling where a file leaves it out
        filled = {"original_max_position_embeddings"} - (first.keys() & second.keys())
        names = (first.keys() | second.keys()) - filled
        return all(_same(first.get(name), second.get(name)) for name in names)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if _number(first) and _number(second):
        return math.isclose(first, second, rel_tol=1e-9)
    return bool(first == second)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False) if isinstance(value, Mapping) else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# Files that both generations read.


_TOKENIZER_FILES = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "*.tiktoken"),
    *("chat_template*", "additional_chat_templates/*", "tekken.json", "*.py"),
)
_ONLY_IN_5 = {"TokenizersBackend": "PreTrainedTokenizerFast"}
"""Class names that transformers 4 does not know, to the name that both have for the same class."""

_NOT_CARRIED = ("quantization_config", "transformers_version", "_name_or_path", "torch_dtype", "dtype")


def write_for_both(source: Path | None, folder: Path) -> None:
    """Make transformers 4 and 5 read the same model and tokenizer out of a folder that transformers 5 wrote.

    The tokenizer's files are the source's own, not those that transformers 5 wrote again. The configuration keeps what
    the source said and transformers 5 left out, and says the rotary embedding in both ways.

    Args:
        source: folder of the model before; None where it was no folder of transformers.
        folder: what was written.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    before = json.loads((source / "config.json").read_text(encoding="utf-8")) if source else {}
    path.write_text(json.dumps(config_for_both(config, before), indent=2) + "\n", encoding="utf-8")
    if source is not None:
        _carry_tokenizer(source, folder)
    path = folder / "tokenizer_config.json"
    if path.exists():
        words = json.loads(path.read_text(encoding="utf-8"))
        known = tokenizer_for_both(words)
        if known != words:
            path.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def config_for_both(config: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config.json of transformers 5 with what transformers 4 reads beside it.

    Args:
        config: as transformers 5 wrote it.
        before: the source's own, of any generation; what it says and `config` does not is kept.
    """
    found = {name: value for name, value in before.items() if name not in config and name not in _NOT_CARRIED}
    found |= config
    if isinstance(config.get("text_config"), Mapping):
        inner = before.get("text_config")
        found["text_config"] = config_for_both(config["text_config"], inner if isinstance(inner, Mapping) else {})
    if config.get("dtype") is not None:
        found["torch_dtype"] = config["dtype"]
    parts = by_layer_type(config.get("rope_parameters") or {})
    whole, sliding = parts.get("full_attention"), parts.get("sliding_attention")
    if whole is None or whole.get("rope_theta") is None:
        return found
    scaling = {name: value for name, value in whole.items() if name not in ("rope_theta", "partial_rotary_factor")}
    found["rope_theta"] = whole["rope_theta"]
    if str(config.get("model_type", "")).startswith("gpt_neox"):
        found |= {"rotary_emb_base": whole["rope_theta"], "rotary_pct": whole.get("partial_rotary_factor", 1.0)}
    found["rope_scaling"] = None if _scaling(whole) is None else scaling
    if whole.get("partial_rotary_factor") is not None:
        found["partial_rotary_factor"] = whole["partial_rotary_factor"]
    if sliding is not None and sliding.get("rope_theta") is not None:
        found["rope_local_base_freq"] = sliding["rope_theta"]
    return found


def tokenizer_for_both(words: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tokenizer_config.json in names that both generations know."""
    found = dict(words)
    kind = found.get("tokenizer_class")
    if kind in _ONLY_IN_5:
        found["tokenizer_class"] = _ONLY_IN_5[kind]
    if isinstance(found.get("extra_special_tokens"), list):  # transformers 4 expects a mapping under this name
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    return found


def _carry_tokenizer(source: Path, folder: Path) -> None:
    """Put the source's tokenizer in the place of the one that was written."""
    carried = {path for pattern in _TOKENIZER_FILES for path in source.glob(pattern) if path.is_file()}
    if not carried:
        return
    for path in {path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}:
        path.unlink()
    for path in sorted(carried):
        place = folder / path.relative_to(source)
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, place)
