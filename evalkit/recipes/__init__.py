"""Recipes: how a model is quantized, as ModelOpt's own file, and what evalkit expects to read back.

In: a recipe name or file. Out: the recipe's document, its expectation and its digest.
Must not depend on: ModelOpt itself, or any model but its number of layers.
"""

from __future__ import annotations

from evalkit.recipes.recipe import (
    Calibration,
    EnabledQuantizers,
    Expectation,
    Recipe,
    ResolvedRecipe,
    load_recipe,
    recipe_names,
    resolve_recipe,
)

__all__ = [
    "Calibration",
    "EnabledQuantizers",
    "Expectation",
    "Recipe",
    "ResolvedRecipe",
    "load_recipe",
    "recipe_names",
    "resolve_recipe",
]
