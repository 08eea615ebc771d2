"""A recipe made concrete for one model.

In: a recipe and the model's number of layers. Out: a document ModelOpt can read as it is.
May not know: ModelOpt, the model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalkit.errors import UsageError
from evalkit.recipes.expectation import Expectation
from evalkit.recipes.recipe import LAST_LAYER, Recipe, document_sha256


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
