"""What a checkpoint's own files say about its quantization.

In: `config.json` and `hf_quant_config.json` of a folder. Out: `Declared`.
Must not depend on: whether it is true; `stored` looks at the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import UsageError

NONE = "none"
QUANT_FILE = "hf_quant_config.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Declared:
    """Quantization as a checkpoint declares it.

    Attributes:
        algorithm: `FP8`, `W4A16_AWQ`, ...; the `quant_method` where that is all there is; "none" without quantization.
        kv_cache: type of the key-value cache; "none" if it is not quantized.
        group_size: values that share a scale; None if not declared.
        excluded: patterns of modules that stay as they were.
        method: `quant_method` of config.json; "" without.
        producer: name and version of the program that wrote it.
    """

    algorithm: str = NONE
    kv_cache: str = NONE
    group_size: int | None = None
    excluded: tuple[str, ...] = ()
    method: str = ""
    producer: str = ""

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it."""
        return {
            "algorithm": self.algorithm,
            "kv_cache": self.kv_cache,
            "group_size": self.group_size,
            "excluded": list(self.excluded),
            "producer": self.producer,
        }


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's config.json.

    Raises:
        UsageError: missing or not JSON.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: no config.json; give the folder of a transformers model") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder / 'config.json'}: not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{folder / 'config.json'}: not a JSON object; give the folder of a transformers model")
    return config


def quantization_config(folder: Path) -> Mapping[str, Any]:
    """Return the quantization that config.json declares; empty without one.

    Raises:
        UsageError: no readable config.json, or a declaration that is no mapping.
    """
    found = read_config(folder).get("quantization_config") or {}
    if not isinstance(found, Mapping):
        raise UsageError(f"{folder / 'config.json'}: quantization_config is {str(found)[:80]!r}, no mapping")
    return found


def read_declared(folder: Path) -> Declared:
    """Read what a folder declares.

    Raises:
        UsageError: a file is unreadable, the two contradict each other, or layers are quantized in different ways.
    """
    inside = quantization_config(folder)
    beside = _beside(folder)
    first, second = _from_config(inside), _from_modelopt(beside) if beside else None
    if second is None:
        found = first
    elif not inside:
        found = second
    else:
        _same(folder, first, second)
        found = second
    if found.algorithm == "MIXED_PRECISION":
        raise UsageError(
            f"{folder}: MIXED_PRECISION, layers quantized in different ways, cannot be compared with one recipe yet; "
            "next step: a checkpoint with one format"
        )
    return found


def layer_count(folder: Path) -> int:
    """Return the number of decoder layers.

    Raises:
        UsageError: config.json does not say.
    """
    config = read_config(folder)
    for place in (config, config.get("text_config") or {}):
        count = place.get("num_hidden_layers")
        if isinstance(count, int) and count >= 1:
            return count
    raise UsageError(f"{folder / 'config.json'}: no num_hidden_layers, so a recipe cannot be resolved for this model")


def _beside(folder: Path) -> Mapping[str, Any]:
    path = folder / QUANT_FILE
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        details = document["quantization"]
        return {**details, "producer": document.get("producer") or {}}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: no ModelOpt quantization ({type(error).__name__}: {error})") from error


def _from_modelopt(details: Mapping[str, Any]) -> Declared:
    return Declared(
        algorithm=str(details.get("quant_algo") or NONE),
        kv_cache=str(details.get("kv_cache_quant_algo") or NONE),
        group_size=details.get("group_size"),
        excluded=_patterns(details.get("exclude_modules")),
        method="modelopt",
        producer=_producer(details.get("producer")),
    )


def _from_config(details: Mapping[str, Any]) -> Declared:
    if not details:
        return Declared()
    method = str(details.get("quant_method", ""))
    cache = details.get("kv_cache_scheme")
    return Declared(
        algorithm=str(details.get("quant_algo") or method or NONE),
        kv_cache=_cache(cache),
        group_size=details.get("group_size"),
        excluded=_patterns(details.get("ignore") or details.get("modules_to_not_convert")),
        method=method,
        producer=_producer(details.get("producer")),
    )


def _patterns(value: Any) -> tuple[str, ...]:
    """Return names of modules that a checkpoint declares as not quantized; one name may stand for a list."""
    if value is not None and not isinstance(value, (list, tuple, str)):
        raise UsageError(
            f"the checkpoint's quantization leaves out {value!r:.80}, and a list of module names belongs there; "
            "next step: restore config.json or hf_quant_config.json as it was exported"
        )
    return tuple(map(str, [value] if isinstance(value, str) and value else value or ()))


def _cache(scheme: Any) -> str:
    if isinstance(scheme, Mapping):
        eight_bit_float = scheme.get("type") == "float" and scheme.get("num_bits") == 8
        return "FP8" if eight_bit_float else json.dumps(dict(scheme), sort_keys=True)
    return str(scheme) if scheme else NONE


def _producer(value: Any) -> str:
    return f"{value.get('name', '')} {value.get('version', '')}".strip() if isinstance(value, Mapping) else ""


def _same(folder: Path, config: Declared, beside: Declared) -> None:
    for name in ("algorithm", "kv_cache", "excluded"):
        left, right = getattr(config, name), getattr(beside, name)
        if (sorted(left) if name == "excluded" else left) != (sorted(right) if name == "excluded" else right):
            raise UsageError(
                f"{folder}: config.json declares {name} {left!r}, {QUANT_FILE} declares {right!r}; engines read one or "
                "the other. Next step: export the checkpoint again"
            )
