"""Options of the adapter `modelopt`.

In: the `options` mapping of an engine specification. Out: checked options.
May not know: what is loaded with them.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from evalkit.adapters.causal.options import CausalOptions
from evalkit.adapters.causal.source import Kind
from evalkit.configuration import Section


class CalibrationOptions(Section):
    """Calibration texts in place of the shipped ones, or another amount of them.

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
