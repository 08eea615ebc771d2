"""Does a checkpoint hold what a recipe makes? Layer by layer.

In: a resolved recipe, what files declare and hold. Out: one sentence for each contradiction.
May not know: ModelOpt; its rule that the last matching entry of `quant_cfg` wins is all that is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from evalkit.adapters.checkpoint.declared import NONE, Declared
from evalkit.adapters.checkpoint.headers import StoredTensor
from evalkit.adapters.checkpoint.stored import CACHE_SCALES, Stored, codes, companions
from evalkit.recipes import ResolvedRecipe

_SHOWN = 3


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


def _named(modules: Collection[str], fault: str) -> list[str]:
    if not modules:
        return []
    shown = ", ".join(sorted(modules)[:_SHOWN]) + (
        f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
    )
    return [f"{shown}: {fault}"]
