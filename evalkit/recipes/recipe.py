"""Recipe files: found, read, and checked for the one shape evalkit accepts.

In: a name of the library, or a path. Out: a frozen `Recipe`.
Must not depend on: ModelOpt; a document is data here.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from evalkit.configuration import Section, Title, read_yaml, validate
from evalkit.errors import ConfigError, UsageError, suggestion
from evalkit.records.canonical import digest

# What must be read back from a model after a recipe was applied: the file `<recipe>.expect.yaml`.


Count = Annotated[int, Field(ge=0)]


class EnabledQuantizers(Section):
    """How many quantizers must be enabled.

    Attributes:
        per_layer: enabled quantizers of one quantized layer.
        layers_excluded: layers that stay unquantized.
    """

    per_layer: Annotated[int, Field(ge=1)]
    layers_excluded: Count = 0

    def in_model(self, layers: int) -> int:
        """Return the number of enabled quantizers in a model with so many layers.

        >>> EnabledQuantizers(per_layer=6, layers_excluded=2).in_model(30)
        168
        """
        return self.per_layer * max(0, layers - self.layers_excluded)


class Calibration(Section):
    """What a recipe needs to see before its scales are fixed.

    Attributes:
        needed: False for a recipe whose scales follow from weights, or are found anew for every token.
        samples: texts.
        tokens: length of each text, tokens.
        asset: asset with the texts; None for the adapter's own.
    """

    needed: bool
    samples: Count = 0
    tokens: Count = 0
    asset: str | None = None


class Expectation(Section):
    """What evalkit checks about an engine made by a recipe.

    Attributes:
        declared: False where the recipe has no expectation file; then at least one enabled quantizer is expected and
            every enabled static one calibrated, and no more is known.
        title: one line for people.
        algorithm: label of the quantization (`FP8`, `FP8_PER_CHANNEL_PER_TOKEN`, `W4A16_AWQ`, ...).
        kv_cache: type of the key-value cache; None if not declared.
        enabled_quantizers: how many must be enabled; None if not declared.
        calibration: what the recipe must see first.
        devices: where it runs.
        control: True for a recipe made to be rejected.
    """

    declared: bool = True
    title: Title
    algorithm: str
    kv_cache: Literal["none", "FP8", "NVFP4"] | None = "none"
    enabled_quantizers: EnabledQuantizers | None = None
    calibration: Calibration
    devices: Annotated[tuple[Literal["cpu", "cuda"], ...], Field(min_length=1)] = ("cpu", "cuda")
    control: bool = False


def undeclared(name: str) -> Expectation:
    """Return what is expected of a recipe without an expectation file."""
    return Expectation(
        declared=False,
        title=f"{name} (no expectation file)",
        algorithm="undeclared",
        kv_cache=None,
        calibration=Calibration(needed=True),
    )


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


# A recipe made concrete for one model.


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedRecipe:
    """A recipe for one model.

    Attributes:
        name: name of the recipe.
        document: ModelOpt's recipe without placeholders.
        expectation: what must be read back.
        sha256: digest of the document.
    """

    name: str
    document: Mapping[str, Any]
    expectation: Expectation
    sha256: str


def resolve_recipe(recipe: Recipe, layers: int) -> ResolvedRecipe:
    """Write the number of the last layer (`layers - 1`) into the quantizer names.

    Raises:
        UsageError: `layers` is below 1.
    """
    if layers < 1:
        raise UsageError(f"recipe '{recipe.name}': a model with {layers} layers has no last layer")
    document = copy.deepcopy(dict(recipe.document))
    for entry in document["quantize"]["quant_cfg"]:
        if "quantizer_name" in entry:
            entry["quantizer_name"] = entry["quantizer_name"].replace(LAST_LAYER, str(layers - 1))
    return ResolvedRecipe(
        name=recipe.name, document=document, expectation=recipe.expectation, sha256=document_sha256(document)
    )
