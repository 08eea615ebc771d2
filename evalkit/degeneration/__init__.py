"""Degenerate answers: empty, looping, garbled, cut off, in another language; judge-free and deterministic.

In: the text of one answer and how it ended. Out: numbers, reasons and flags.
May not know: who wrote it, or what another engine wrote.
"""

from __future__ import annotations

from evalkit.degeneration.gates import GATES, NEEDS_QUESTION, tripped
from evalkit.degeneration.language import language, scripts
from evalkit.degeneration.loops import (
    Reason,
    Signals,
    compression_ratio,
    degeneration,
    garbled_share,
    repeated_share,
    run_share,
    signals,
)

__all__ = [
    "GATES",
    "NEEDS_QUESTION",
    "Reason",
    "Signals",
    "compression_ratio",
    "degeneration",
    "garbled_share",
    "language",
    "repeated_share",
    "run_share",
    "scripts",
    "signals",
    "tripped",
]
