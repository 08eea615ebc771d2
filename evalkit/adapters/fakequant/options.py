"""Options of the adapter `modelopt`.

In: the `options` mapping of an engine specification. Out: checked options.
Must not depend on: what is loaded with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.source import Kind
from evalkit.configuration import Section
from evalkit.errors import UsageError

if TYPE_CHECKING:
    from evalkit.recipes import Recipe


# Formats that have no processor kernel, refused by name before any weight is loaded.


_FOUR_BIT_FLOAT = ("e2m1", (2, 1))
_POWER_OF_TWO_SCALE = ("e8m0", (8, 0))


def refuse_device(recipe: Recipe, device: str) -> None:
    """Refuse a recipe on a device where it cannot run.

    Raises:
        UsageError: names the format, the recipe, the device and the next step.
    """
    kind = device.partition(":")[0]
    if kind == "cpu":
        formats = sorted({name for entry in recipe.document["quantize"]["quant_cfg"] for name in _gpu_formats(entry)})
        if formats:
            raise UsageError(
                f"recipe '{recipe.name}' uses {' and '.join(formats)}, which ModelOpt computes on CUDA GPUs only; "
                "next step: device: cuda, or another recipe"
            )
    if kind not in recipe.expectation.devices:
        allowed = ", ".join(recipe.expectation.devices)
        raise UsageError(f"recipe '{recipe.name}' runs on {allowed}, not on {kind}; next step: device: {allowed}")


def _gpu_formats(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the GPU-only formats of one quant_cfg entry."""
    if entry.get("enable") is False:
        return
    cfgs = entry.get("cfg")
    for cfg in cfgs if isinstance(cfgs, list) else [cfgs] if isinstance(cfgs, Mapping) else []:
        scale = _plain((cfg.get("block_sizes") or {}).get("scale_bits"))
        if scale in _POWER_OF_TWO_SCALE:
            yield "an MX format"
        elif _plain(cfg.get("num_bits")) in _FOUR_BIT_FLOAT:
            yield "NVFP4"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class CalibrationOptions(Section):
    """Calibration texts instead of the shipped ones, or another amount of them.

    Attributes:
        file: `.txt` (texts separated by empty lines) or `.jsonl` (a text, or an object with "text", on each line);
            None for the texts that come with evalkit.
        samples: rows; None for the recipe's own number.
        tokens: tokens a row; None for the recipe's own number.
    """

    file: Path | None = None
    samples: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=8)


class ModelOptOptions(CausalOptions):
    """Options of `modelopt`: those of `hf`, and what is done with the model.

    Attributes:
        calibration: which texts the recipe sees.
        checkpoint: what `model` is: "original" weights, to which the recipe is applied in memory; a "state" checkpoint,
            whose quantizers are restored; an "exported" one, whose packed weights are expanded. For the last two the
            recipe says what they must turn out to be.
        trust_state: load a state file that holds more than tensors and plain values. It is a pickle: it may run any
            code. Recorded in the identity.
    """

    calibration: CalibrationOptions = CalibrationOptions()
    checkpoint: Kind = "original"
    trust_state: bool = False

    @model_validator(mode="after")
    def _only_what_is_used(self) -> ModelOptOptions:
        faults = []
        if self.trust_state and self.checkpoint != "state":
            faults.append("trust_state: only a state checkpoint has a state; set checkpoint: state")
        if self.checkpoint != "original" and self.calibration != CalibrationOptions():
            faults.append(f"calibration: the scales of a checkpoint of kind '{self.checkpoint}' are fixed already")
        if self.checkpoint == "exported" and self.device_map is not None:
            faults.append("device_map: an exported checkpoint is expanded on one device")
        if faults:
            raise ValueError("; ".join(faults))
        return self
