"""What a number must be before a formula may see it.

In: a value and the name a user knows it by. Out: the same value as a plain type, or `EstimateError`.
Must not depend on: which estimate is being made.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from evalkit.errors import EstimateError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

ROUNDING = 1e-12
"""Relative size below which a spread is rounding noise of the inputs, not variation."""


def checked_count(name: str, value: Any, *, minimum: int = 0) -> int:
    """Return `value` as an int of at least `minimum`; a bool or a fraction is refused.

    Raises:
        EstimateError: not an integer, or below `minimum`.
    """
    try:
        count = index(value)
    except TypeError:
        count = None
    if count is None or isinstance(value, bool) or count < minimum:
        raise EstimateError(f"{name} is {value!r}; allowed: an integer of at least {minimum}")
    return count


def checked_number(name: str, value: Any) -> float:
    """Return `value` as a finite float.

    Raises:
        EstimateError: not a number, NaN or infinite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise EstimateError(f"{name} is {value!r}; allowed: a finite number")
    return number


def checked_between(name: str, value: Any, low: float, high: float) -> float:
    """Return `value` as a float strictly between `low` and `high` (for levels, alphas, margins, rates).

    Raises:
        EstimateError: not a finite number, or outside the open interval.
    """
    number = checked_number(name, value)
    if not low < number < high:
        raise EstimateError(f"{name} is {number!r}; allowed: a number above {low:g} and below {high:g}")
    return number


def checked_positive(name: str, value: Any) -> float:
    """Return `value` as a finite float above zero.

    Raises:
        EstimateError: not a finite number, or not above zero.
    """
    return checked_between(name, value, 0.0, float("inf"))


def checked_vector(name: str, values: ArrayLike, *, minimum: int = 2) -> Floats:
    """Return `values` as a one-dimensional float array of finite numbers, shape (n,) with n >= `minimum`.

    Raises:
        EstimateError: wrong shape, too few values (there is no interval from one item), or a non-finite value.
    """
    array = _as_floats(name, values)
    if array.ndim != 1:
        raise EstimateError(f"{name} has shape {array.shape}; allowed: one dimension, one value for each item")
    if array.size < minimum:
        raise EstimateError(f"{name} has {array.size} value(s); at least {minimum} are needed")
    refuse_non_finite(name, array)
    return array


def checked_outcomes(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    """Return right/wrong `values` as booleans, shape (n,), n >= 1; anything but 0, 1, False and True is refused.

    Raises:
        EstimateError: wrong shape, no value, or a value that is neither 0 nor 1 (NaN included).
    """
    array = checked_vector(name, values, minimum=1)
    other = (array != 0.0) & (array != 1.0)
    if other.any():
        position = int(np.argmax(other))
        raise EstimateError(f"{name}[{position}] is {array[position]!r}; allowed: 0 (wrong) or 1 (right)")
    return array.astype(np.bool_)


def checked_same_length(first_name: str, first: NDArray[Any], second_name: str, second: NDArray[Any]) -> None:
    """Refuse two arrays that do not hold the same items.

    Raises:
        EstimateError: the first dimensions differ.
    """
    if first.shape[0] != second.shape[0]:
        raise EstimateError(
            f"{first_name} has {first.shape[0]} values and {second_name} has {second.shape[0]}; "
            "allowed: one value of each for every item, in the same item order"
        )


def refuse_non_finite(name: str, array: Floats) -> None:
    """Refuse NaN and infinities, naming the first of them.

    Raises:
        EstimateError: some value is not finite.
    """
    bad = ~np.isfinite(array)
    if bad.any():
        position = tuple(int(i) for i in np.argwhere(bad)[0])
        where = ", ".join(map(str, position))
        raise EstimateError(
            f"{name}[{where}] is {array[position]!r} ({int(bad.sum())} of {array.size} values are not finite); "
            "allowed: finite numbers only; count a failure as missing instead of giving it a number"
        )


def _as_floats(name: str, values: ArrayLike) -> Floats:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EstimateError(f"{name} is not an array of numbers: {error}") from error


def as_matrix(name: str, values: ArrayLike) -> Floats:
    """Return `values` as a finite float array of shape (n, k), n >= 1 and k >= 2.

    Raises:
        EstimateError: wrong shape or a non-finite value.
    """
    array = _as_floats(name, values)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise EstimateError(f"{name} has shape {array.shape}; allowed: (items, choices) with at least two choices")
    refuse_non_finite(name, array)
    return array


# A confidence interval.


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Two-sided confidence interval; limits in the unit of the estimate.

    >>> Interval(lower=-0.006, upper=0.002, level=0.95, method="tango")
    Interval(lower=-0.006, upper=0.002, level=0.95, method='tango')

    Attributes:
        lower, upper: limits.
        level: confidence level, in (0, 1).
        method: how it was made ("tango", "wilson", ...).

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
