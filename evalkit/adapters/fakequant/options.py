"""Options of the adapter `modelopt`.

In: the `options` mapping of an engine specification. Out: checked options.
May not know: what is loaded with them.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from evalkit.adapters.causal.options import CausalOptions
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
    """Options of `modelopt`: those of `hf` and `calibration`."""

    calibration: CalibrationOptions = CalibrationOptions()
