"""Is what was loaded what the recipe declares?

In: states of all enabled quantizers, an expectation. Out: nothing, or `RecipeError` with every fault.
May not know: torch, ModelOpt, models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evalkit.adapters.fakequant.state import QuantizerState, algorithm, counts, kv_cache
from evalkit.errors import RecipeError

if TYPE_CHECKING:
    from evalkit.recipes import Expectation, ResolvedRecipe

_SHOWN = 3
_OF_INPUTS = ("input", "output", "k", "v", "q")


def check_recipe(
    recipe: ResolvedRecipe, states: Sequence[QuantizerState], *, layers: int, protected: Sequence[str]
) -> None:
    """Check all enabled quantizers, before weights are folded.

    Args:
        recipe: what was asked for.
        states: every enabled leaf quantizer.
        layers: number of decoder layers of the model.
        protected: module names under which nothing may be quantized (output layer, embeddings).

    Raises:
        RecipeError: lists every fault and names the quantizers.
    """
    faults = [
        *_count_faults(recipe.expectation, states, layers),
        *_scale_faults(states),
        *_place_faults(states, protected),
        *_label_faults(recipe.expectation, states),
    ]
    if faults:
        raise RecipeError("\n  - ".join([f"recipe '{recipe.name}' was not applied as declared:", *faults]))


def _count_faults(expectation: Expectation, states: Sequence[QuantizerState], layers: int) -> list[str]:
    if not states:
        return ["no quantizer is enabled: every pattern in quant_cfg matches nothing, or a later entry switches it off"]
    declared = expectation.enabled_quantizers
    if declared is None or declared.in_model(layers) == len(states):
        return []
    found = ", ".join(f"{number} {role}" for role, number in counts(states).items())
    places = f"{declared.per_layer} in each of {max(0, layers - declared.layers_excluded)} layers"
    step = "Next step: correct the patterns in quant_cfg, or enabled_quantizers in the expectation file"
    return [
        f"{len(states)} quantizers are enabled ({found}); declared are {declared.in_model(layers)} ({places}). {step}"
    ]


def _scale_faults(states: Sequence[QuantizerState]) -> list[str]:
    unknown = [state for state in states if state.dynamic + state.constant + state.calibrated != 1]
    batchwise = [state for state in states if state.dynamic and state.role in _OF_INPUTS and not state.by_row]
    faults = []
    if unknown:
        faults.append(
            f"{_names(unknown)}: no finite scale was calibrated and none is declared dynamic or constant; "
            "ModelOpt would silently scale each batch by its own maximum. Next step: calibrate (option calibration)"
        )
    if batchwise:
        faults.append(
            f"{_names(batchwise)}: one dynamic scale for a whole batch, so an answer would depend on its neighbours; "
            "write block_sizes: {-1: null} for one scale a token, or a static scale"
        )
    return faults


def _place_faults(states: Sequence[QuantizerState], protected: Sequence[str]) -> list[str]:
    inside = [state for state in states if any(state.name.startswith(f"{place}.") for place in protected)]
    if not inside:
        return []
    step = "next step: end quant_cfg with entries that disable '*lm_head*' and parent_class nn.Embedding"
    return [f"{_names(inside)}: output layer and embeddings must stay unquantized; {step}"]


def _label_faults(expectation: Expectation, states: Sequence[QuantizerState]) -> list[str]:
    if not expectation.declared:
        return []
    pairs = (
        ("algorithm", expectation.algorithm, algorithm(states)),
        ("KV cache", expectation.kv_cache, kv_cache(states)),
    )
    return [
        f"{what} read back is {found}, declared is {declared}. Next step: correct the recipe, or its expectation file"
        for what, declared, found in pairs
        if declared != found
    ]


def _names(states: Sequence[QuantizerState]) -> str:
    shown = ", ".join(state.name for state in states[:_SHOWN])
    return shown + (f" and {len(states) - _SHOWN} more" if len(states) > _SHOWN else "")
