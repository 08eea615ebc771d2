"""Recipe files: found, read, and checked for the one shape evalkit accepts.

In: a name of the library, or a path. Out: a frozen `Recipe`.
May not know: ModelOpt; a document is data here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.configuration import read_yaml, validate
from evalkit.errors import ConfigError, UsageError, suggestion
from evalkit.recipes.expectation import Expectation, undeclared
from evalkit.records import digest

LIBRARY = Path(__file__).resolve().parent / "library"
"""Folder of the recipes that come with evalkit."""

LAST_LAYER = "{last_layer}"
"""Placeholder in a quantizer name for the number of the last layer."""

_SIDECAR = ".expect.yaml"
_TOP_KEYS = ("imports", "metadata", "quantize")
_QUANTIZE_KEYS = ("algorithm", "quant_cfg")
_RECIPE_TYPE = "ptq"
_MAPPING_FORM = (
    "'quantize.quant_cfg' is a mapping, the form before ModelOpt 0.44, whose last 'default' entry would switch every "
    "quantizer off; write a list of {quantizer_name: ..., cfg: ...}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One recipe file, as written.

    Attributes:
        name: file name without `.yaml`.
        path: the file.
        document: ModelOpt's recipe, with evalkit's one placeholder possibly in quantizer names.
        expectation: what must be read back.
        sha256: digest of the document.
    """

    name: str
    path: Path
    document: Mapping[str, Any]
    expectation: Expectation
    sha256: str


def recipe_names(library: Path = LIBRARY) -> list[str]:
    """Return the names of all recipes of the library, sorted; "none" is not one of them."""
    return sorted(path.stem for path in library.glob("*.yaml") if not path.name.endswith(_SIDECAR))


def load_recipe(name_or_path: str | Path, *, library: Path = LIBRARY) -> Recipe:
    """Read a recipe and its expectation.

    Args:
        name_or_path: a name of the library, or a path (a `Path`, or text with a slash or ending in `.yaml`).
        library: folder of named recipes.

    Raises:
        UsageError: there is no such recipe.
        ConfigError: the recipe or its expectation has faults.
    """
    path = _locate(name_or_path, library)
    document = read_yaml(path)
    faults = _shape_faults(document)
    if faults:
        raise ConfigError(str(path), faults)
    return Recipe(
        name=path.stem,
        path=path,
        document=document,
        expectation=_expectation(path),
        sha256=document_sha256(document),
    )


def document_sha256(document: Any) -> str:
    """Return the digest of a recipe document; keys such as -1 count as text, in the digest alone."""
    return digest(_with_text_keys(document))


def _with_text_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(child) for key, child in value.items()}
    return [_with_text_keys(child) for child in value] if isinstance(value, (list, tuple)) else value


def _locate(name_or_path: str | Path, library: Path) -> Path:
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
        if not path.is_file():
            raise UsageError(f"recipe {path}: there is no such file")
        return path
    names = recipe_names(library)
    if text == "none":
        raise UsageError("recipe 'none' means the model as it is stored; there is no recipe to read")
    if text not in names:
        raise UsageError(f"unknown recipe '{text}'{suggestion(text, [*names, 'none'])}")
    return library / f"{text}.yaml"


def _expectation(path: Path) -> Expectation:
    sidecar = path.with_name(path.stem + _SIDECAR)
    if not sidecar.exists():
        return undeclared(path.stem)
    data = read_yaml(sidecar)
    if isinstance(data, Mapping) and "declared" in data:
        raise ConfigError(str(sidecar), ["unknown key 'declared'; a recipe with this file is declared"])
    return validate(Expectation, data, str(sidecar))


def _shape_faults(document: Any) -> list[str]:
    if not isinstance(document, Mapping):
        return ["a recipe is a mapping with the key 'quantize'"]
    faults = [f"unknown key '{key}'{suggestion(str(key), _TOP_KEYS)}" for key in document if key not in _TOP_KEYS]
    metadata = document.get("metadata")
    kind = metadata.get("recipe_type") if isinstance(metadata, Mapping) else None
    if kind != _RECIPE_TYPE:
        faults.append(f"'metadata.recipe_type' is {kind!r}; write metadata: {{recipe_type: {_RECIPE_TYPE}}}")
    quantize = document.get("quantize")
    if not isinstance(quantize, Mapping):
        return [*faults, "missing mapping 'quantize' with the keys 'algorithm' and 'quant_cfg'"]
    for key in quantize:
        if key not in _QUANTIZE_KEYS:
            faults.append(f"unknown key 'quantize.{key}'{suggestion(str(key), _QUANTIZE_KEYS)}")
    if "algorithm" not in quantize:
        faults.append("missing key 'quantize.algorithm' (null for none)")
    return faults + _list_faults(quantize.get("quant_cfg"))


def _list_faults(entries: Any) -> list[str]:
    if isinstance(entries, Mapping):
        return [_MAPPING_FORM]
    if not isinstance(entries, list) or not entries:
        return ["'quantize.quant_cfg' must be a list of {quantizer_name: ..., cfg: ...}"]
    return [
        fault for index, entry in enumerate(entries) for fault in _entry_faults(f"quantize.quant_cfg.{index}", entry)
    ]


def _entry_faults(place: str, entry: Any) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"'{place}' must be a mapping with 'quantizer_name' or '$import', not {entry!r}"]
    if "$import" in entry:
        return []
    name = entry.get("quantizer_name")
    if not isinstance(name, str) or not name:
        return [f"'{place}' has no 'quantizer_name'"]
    wrong = [found for found in re.findall(r"\{[^{}]*\}?|\}", name) if found != LAST_LAYER]
    return [f"'{place}.quantizer_name' has {found!r}; the only placeholder is {LAST_LAYER}" for found in wrong]
