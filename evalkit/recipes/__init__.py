"""Recipes: how a model is quantized, as ModelOpt's own file, and what evalkit expects to read back.

In: a recipe name or file. Out: the recipe's document, its expectation and its digest.
May not know: ModelOpt itself, or any model but its number of layers.
"""

from __future__ import annotations

from evalkit.recipes.expectation import Calibration, EnabledQuantizers, Expectation
from evalkit.recipes.recipe import Recipe, load_recipe, recipe_names
from evalkit.recipes.resolve import ResolvedRecipe, resolve_recipe

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
