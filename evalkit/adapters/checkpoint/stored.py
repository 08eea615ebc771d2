"""What the tensors of a checkpoint show: which linear layers are quantized, how, and with which scales.

In: headers of safetensors files. Out: `Stored`.
Must not depend on: what anything was called by whoever wrote it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evalkit.adapters.checkpoint.declared import NONE, Declared
from evalkit.errors import UsageError
from evalkit.recipes import ResolvedRecipe

# Headers of safetensors files: names, types and shapes of all tensors, without reading one.


_LENGTH = struct.Struct("<Q")
_HEADER_MAX = 1 << 27
"""Bytes of a header at most, as the format's own reader has it."""

_POINTER = b"version https://git-lfs"
_AGAIN = "next step: download or copy it again"
_SHOWN = 200
"""Characters of a parser's own words that an error repeats."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        file: name of its file.
        dtype: type as the format spells it ("BF16", "F8_E4M3", "U8", "I8", ...).
        shape: its dimensions.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]


def read_headers(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor of all safetensors files of a folder, by name.

    Raises:
        UsageError: no such file, a damaged, cut or empty one, a Git LFS pointer, or a tensor in two files.
    """
    found: dict[str, StoredTensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder}: no *.safetensors file; give the folder of a checkpoint")
    for file in files:
        for name, tensor in read_file(file).items():
            if name in found:
                raise UsageError(f"{folder}: tensor '{name}' is in {found[name].file} and in {file.name}")
            found[name] = tensor
    return found


def shards(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder that transformers would load: one file, those of the index, else all.

    Raises:
        UsageError: an unreadable index, or one that names a file which is not there.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if not index.exists():
        return sorted(folder.glob("*.safetensors"))
    try:
        names = sorted(set(map(str, json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{index}: no index of safetensors files ({type(error).__name__}); {_AGAIN}") from error
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{index}: names {len(missing)} files that are not there (first: {missing[0]}); {_AGAIN}")
    return [folder / name for name in names]


def read_file(file: Path) -> dict[str, StoredTensor]:
    """Return every tensor of one safetensors file, by name.

    Raises:
        UsageError: an empty file, a Git LFS pointer, a damaged header, or fewer or more bytes than the header says.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
            if start == _POINTER:
                raise UsageError(f"{file}: a Git LFS pointer, not weights; next step: git lfs pull")
            if not size:
                raise UsageError(f"{file}: is empty; {_AGAIN}")
            stream.seek(0)
            (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
            if length > _HEADER_MAX:
                raise ValueError(f"a header of {length} bytes")
            rows: Mapping[str, Any] = json.loads(stream.read(length))
        found, end = {}, 0
        for name, row in rows.items():
            if name != "__metadata__":
                found[name] = StoredTensor(file=file.name, dtype=str(row["dtype"]), shape=_shape(row["shape"]))
                end = max(end, int(row["data_offsets"][1]))
    except (
        OSError,
        struct.error,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UsageError(f"{file}: damaged safetensors header ({str(error)[:_SHOWN]}); {_AGAIN}") from error
    if size != _LENGTH.size + length + end:
        held, what = size - _LENGTH.size - length, "cut off" if size < _LENGTH.size + length + end else "too long"
        raise UsageError(f"{file}: {what}: {held} bytes of tensors where its header says {end}; {_AGAIN}")
    return found


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(int(size) for size in value)
    if any(size < 0 for size in shape):
        raise ValueError(f"a tensor of shape {shape}")
    return shape


def elements(tensor: StoredTensor) -> int:
    """Return the number of elements of a tensor.

    >>> elements(StoredTensor(file="a", dtype="U8", shape=(2, 3)))
    6
    """
    return math.prod(tensor.shape)


SCALES = ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale")
"""Last parts of the names of tensors that belong to a quantized layer, as ModelOpt names them."""

CACHE_SCALES = ("k_scale", "v_scale")

CODES = {"F8_E4M3": "FP8", "F8_E5M2": "FP8 E5M2", "F4": "FP4", "I8": "INT8", "U8": "packed 4-bit"}
"""Types that hold codes, not weights."""

_FLOAT_CODES = re.compile(r"F[468](_\w+)?")
_INTEGERS = re.compile(r"[IU](8|16|32|64)")
_BUFFERS = re.compile(r".*mask.*|bias|masked_bias|position_ids")
"""Matrices of integers that older models store beside their weights."""

_COMPANIONS = re.compile(
    r"(weight|input|output|activation|act|q|k|v|kv|prob|prob_output|pre_quant|\w*_proj)(_\w+)?_scales?(_inv|_\d+)?|"
    r"scales|scale_inv|q?zeros|qweight|g_idx|weight_packed|weight_shape|(weight|input|output)_zero_point|weight_g_idx|"
    r"absmax|nested_absmax|quant_map|nested_quant_map|quant_state\S*|bitsandbytes__\w+|SCB|\w+_blocks|\w+_amax"
)
"""Last parts of the names of tensors that only a quantized layer, cache or input has, in every format known."""

_EMBEDDINGS = ("wte", "wpe")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Quantization as the tensors show it.

    Attributes:
        linear: names of all modules with a matrix of weights, embeddings left out, sorted.
        quantized: those of them whose weights are codes, with the tensor of the codes.
        scales: for each kind of scale, the modules that have one.
    """

    linear: tuple[str, ...]
    quantized: Mapping[str, StoredTensor]
    scales: Mapping[str, frozenset[str]]

    @property
    def kinds(self) -> dict[str, str]:
        """What the codes of each quantized layer are."""
        return {module: CODES[tensor.dtype] for module, tensor in self.quantized.items()}

    @property
    def cache_scales(self) -> bool:
        """Whether the key-value cache has scales of its own."""
        return bool(self.scales["k_scale"] or self.scales["v_scale"])

    def record(self) -> dict[str, Any]:
        """Return what an identity says about it: counts."""
        return {
            "linear": len(self.linear),
            "weights": dict(sorted(Counter(self.kinds.values()).items())),
            "scales": {kind: len(modules) for kind, modules in self.scales.items() if modules},
        }


def read_stored(folder: Path) -> Stored:
    """Read what a folder holds.

    Raises:
        UsageError: no safetensors file, or a damaged one.
    """
    return stored(read_headers(folder))


def stored(tensors: Mapping[str, StoredTensor]) -> Stored:
    """Sort tensors into linear layers and scales."""
    linear: list[str] = []
    quantized: dict[str, StoredTensor] = {}
    scales: dict[str, set[str]] = {kind: set() for kind in SCALES}
    for name, tensor in tensors.items():
        module, _, last = name.rpartition(".")
        if last in scales:
            scales[last].add(module)
        elif last == "weight" and len(tensor.shape) == 2 and not _embeds(module):
            linear.append(module)
            if tensor.dtype in CODES:
                quantized[module] = tensor
    return Stored(
        linear=tuple(sorted(linear)),
        quantized=dict(sorted(quantized.items())),
        scales={kind: frozenset(modules) for kind, modules in scales.items()},
    )


def codes(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors that hold codes, wherever they are: a matrix of small floats, or of integers."""
    return sorted(name for name, tensor in tensors.items() if _is_code(name.rpartition(".")[2], tensor))


def companions(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return the names of tensors that mean nothing without quantization: scales, zero points, packed weights."""
    return sorted(name for name in tensors if _COMPANIONS.fullmatch(name.rpartition(".")[2]) or "_quantizer." in name)


def _is_code(last: str, tensor: StoredTensor) -> bool:
    if len(tensor.shape) < 2:
        return False
    if _FLOAT_CODES.fullmatch(tensor.dtype):
        return True
    return bool(_INTEGERS.fullmatch(tensor.dtype)) and not _BUFFERS.fullmatch(last)


def _embeds(module: str) -> bool:
    last = module.rpartition(".")[2]
    return last.startswith("embed") or last in _EMBEDDINGS


# Does a checkpoint hold what a recipe makes? Layer by layer.


_SHOWN_of_expected = 3


def quantized_by(recipe: ResolvedRecipe, linear: Iterable[str]) -> frozenset[str] | None:
    """Return the linear layers whose weights a recipe quantizes; None where the recipe imports parts from ModelOpt."""
    entries = recipe.document["quantize"]["quant_cfg"]
    if any("$import" in entry for entry in entries):
        return None
    return frozenset(module for module in linear if _enabled(f"{module}.weight_quantizer", entries))


def _enabled(quantizer: str, entries: Iterable[Mapping[str, Any]]) -> bool:
    return _winner(quantizer, entries).get("enable") is not False


def _winner(quantizer: str, entries: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the entry that decides about a quantizer: the last one that matches."""
    winner: Mapping[str, Any] = {}
    for entry in entries:
        applies = entry.get("parent_class") in (None, "nn.Linear")
        if applies and fnmatchcase(quantizer, entry["quantizer_name"]):
            winner = entry
    return winner


def label_faults(recipe: ResolvedRecipe, what: str, algorithm: str, kv_cache: str) -> list[str]:
    """Compare labels with a recipe's expectation; a recipe without one cannot be told apart from any other."""
    expected = recipe.expectation
    if not expected.declared:
        step = f"next step: write {recipe.name}.expect.yaml beside it"
        return [f"recipe '{recipe.name}' has no expectation file, so nothing can be compared with it; {step}"]
    pairs = (("algorithm", expected.algorithm, algorithm), ("KV cache", expected.kv_cache, kv_cache))
    return [
        f"{name} {what} is {found}, recipe '{recipe.name}' makes {wanted}"
        for name, wanted, found in pairs
        if wanted != found
    ]


def layer_faults(recipe: ResolvedRecipe, held: Stored) -> list[str]:
    """Compare the layers that hold codes, and the cache that has scales, with what the recipe quantizes."""
    wanted = quantized_by(recipe, held.linear)
    if wanted is None:
        return []
    found = frozenset(held.quantized)
    return [
        *_named(wanted - found, f"stored unquantized, recipe '{recipe.name}' quantizes them"),
        *_named(found - wanted, f"stored quantized, recipe '{recipe.name}' leaves them alone"),
        *_cache_faults(recipe, held),
    ]


def _cache_faults(recipe: ResolvedRecipe, held: Stored) -> list[str]:
    """A cache with calibrated scales stores them; one with the constant scale 1 stores none."""
    entries = recipe.document["quantize"]["quant_cfg"]
    attention = sorted(module.removesuffix(".k_proj") for module in held.linear if module.endswith(".k_proj"))
    if recipe.expectation.kv_cache != "FP8" or not attention:
        return []
    cfg = _winner(f"{attention[0]}.k_bmm_quantizer", entries).get("cfg")
    constant = isinstance(cfg, Mapping) and bool(cfg.get("use_constant_amax"))
    if constant == held.cache_scales:
        has, makes = ("calibrated scales", "the constant scale 1") if constant else ("no scales", "calibrated ones")
        return [f"the key-value cache has {has}, recipe '{recipe.name}' makes {makes}"]
    return []


def declaration_faults(declared: Declared, held: Stored) -> list[str]:
    """Compare what the files declare with what the tensors show."""
    if (declared.algorithm == NONE) and held.quantized:
        kinds = ", ".join(sorted(set(held.kinds.values())))
        return [f"{len(held.quantized)} layers hold codes ({kinds}), but no quantization is declared"]
    if declared.algorithm == NONE:
        return []
    if not held.quantized:
        return [f"{declared.algorithm} is declared, but no layer holds codes"]
    return exclusion_faults("declared", declared.excluded, held)


def undeclared_faults(declared: Declared, tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Return what the headers show that no file declares, in whatever format: the first check of every folder.

    A loader that is told of no quantization takes codes for weights and passes over their scales, without an error.
    """
    step = (
        "next step: put back quantization_config in config.json (or hf_quant_config.json) as it was published, or give "
        "the original model"
    )
    found = codes(tensors)
    if declared.algorithm == NONE:
        kinds = ", ".join(sorted({tensors[name].dtype for name in found}))
        beside = [name for name in companions(tensors) if name not in found]
        if declared.kv_cache != NONE:
            beside = [name for name in beside if name.rpartition(".")[2] not in CACHE_SCALES]
        return [
            *_named(found, f"hold codes ({kinds}), but no quantization is declared; {step}"),
            *_named(beside, f"belong to a quantized model, but no quantization is declared; {step}"),
        ]
    modules = {name.rpartition(".")[0] for name in found if name.endswith(".weight")}
    excluded = {module for module in modules if any(fnmatchcase(module, pattern) for pattern in declared.excluded)}
    return _named(excluded, "hold codes, but are excluded from quantization as declared; next step: download it again")


def exclusion_faults(
    what: str, excluded: Collection[str], held: Stored, match: Callable[[str], bool] | None = None
) -> list[str]:
    """Compare a list of excluded modules with the layers that hold codes.

    Args:
        what: who excludes, for the sentence.
        excluded: patterns.
        held: what the tensors show.
        match: whoever knows better than the patterns; None for the patterns.
    """
    out = match or (lambda module: any(fnmatchcase(module, pattern) for pattern in excluded))
    left_out = {module for module in held.linear if out(module)}
    missing = {module for module in held.linear if module not in held.quantized and module not in left_out}
    return [
        *_named(left_out & held.quantized.keys(), f"hold codes, but are excluded as {what}"),
        *_named(missing - {"lm_head"}, f"hold no codes, but are not excluded as {what}"),
    ]


def lost_in_export(recipe: ResolvedRecipe) -> list[str]:
    """Return what a recipe does that no exported checkpoint can hold."""
    cfgs = [entry.get("cfg") for entry in recipe.document["quantize"]["quant_cfg"]]
    bounds = [cfg["backend_extra_args"]["scale_ub"] for cfg in cfgs if isinstance(cfg, Mapping) and "backend" in cfg]
    return [f"the bound {bound} of an activation row's maximum is not part of the checkpoint" for bound in bounds]


_NOT_LOADED = {
    "W8A8_SQ_PER_CHANNEL": "TensorRT-LLM's PyTorch backend has no method for W8A8_SQ_PER_CHANNEL (none in "
    "`get_quant_method` of 1.2 and 1.3) and refuses it after it has read the whole model"
}
"""Formats of exports that a server is known not to load, by its source."""


def not_loaded(algorithm: str) -> list[str]:
    """Return which server does not load a format, and how that is known."""
    return [_NOT_LOADED[algorithm]] if algorithm in _NOT_LOADED else []


def _named(modules: Collection[str], fault: str) -> list[str]:
    if not modules:
        return []
    shown = ", ".join(sorted(modules)[:_SHOWN_of_expected]) + (
        f" and {len(modules) - _SHOWN_of_expected} more" if len(modules) > _SHOWN_of_expected else ""
    )
    return [f"{shown}: {fault}"]
