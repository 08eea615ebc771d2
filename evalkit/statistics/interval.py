"""A confidence interval.

In: two limits, a level and the name of the method. Out: one immutable value.
May not know: what was estimated.
"""

from __future__ import annotations

from dataclasses import dataclass

from scipy.special import ndtri

from evalkit.errors import EstimateError
from evalkit.statistics.checks import checked_between, checked_number


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Two-sided confidence interval; limits in the unit of the estimate.

    >>> Interval(lower=-0.006, upper=0.002, level=0.95, method="tango")
    Interval(lower=-0.006, upper=0.002, level=0.95, method='tango')

    Raises:
        EstimateError: a limit is not finite, the limits are in the wrong order, or `level` is not inside (0, 1).
    """

    lower: float
    upper: float
    level: float
    method: str

    def __post_init__(self) -> None:
        checked_number(f"lower limit ({self.method})", self.lower)
        checked_number(f"upper limit ({self.method})", self.upper)
        checked_between("level", self.level, 0.0, 1.0)
        if self.lower > self.upper:
            raise EstimateError(f"{self.method} interval has lower limit {self.lower!r} above upper {self.upper!r}")


def two_sided_z(level: float) -> float:
    """Return the normal quantile of a two-sided level.

    >>> round(two_sided_z(0.95), 6)
    1.959964

    Raises:
        EstimateError: `level` is not inside (0, 1).
    """
    return float(ndtri((1.0 + checked_between("level", level, 0.0, 1.0)) / 2.0))
