"""Estimates that may be impossible for good reasons, with the reason kept.

In: a name and a calculation. Out: its result, or None and the sentence that says why.
May not know: what is estimated.

A figure beside the verdict (a ratio without losses, a clustered error of two subjects) may be missing from a report;
it may not be missing without a reason. What a verdict rests on is never attempted: there an error is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from evalkit.errors import EstimateError

T = TypeVar("T")


class Attempts:
    """Collects why estimates could not be made.

    Attributes:
        unavailable: name of the estimate to the reason.
    """

    def __init__(self) -> None:
        self.unavailable: dict[str, str] = {}

    def make(self, name: str, calculation: Callable[[], T]) -> T | None:
        """Return the result, or None after noting the reason."""
        try:
            return calculation()
        except EstimateError as error:
            self.unavailable[name] = str(error)
            return None
