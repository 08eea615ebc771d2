"""What must be read back from a model after a recipe was applied: the file `<recipe>.expect.yaml`.

In: the mapping of such a file. Out: a frozen `Expectation`.
May not know: how the quantizers are counted.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from evalkit.configuration import Section

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
    title: str
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
