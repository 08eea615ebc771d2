"""Numbers as people read them.

In: unrounded numbers. Out: text with its unit.
May not know: which number it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.signed import signed


def percent(value: float, places: int = 1) -> str:
    """Write a proportion in percent.

    >>> percent(0.4217)
    '42.2 %'
    """
    return f"{100 * value:.{places}f} %"


def points(value: float, places: int = 2) -> str:
    """Write a difference of proportions in percentage points, with its sign.

    >>> points(-0.0029)
    '-0.29 points'
    """
    return f"{signed(100 * value, places)} points"


def rating(value: float, places: int = 2) -> str:
    """Write a difference of ratings, with its sign.

    >>> rating(-0.3)
    '-0.30'
    """
    return signed(value, places)


def probability(value: float) -> str:
    """Write a p-value; a small one is not written as zero.

    >>> probability(0.04), probability(3e-9)
    ('0.040', '3.0e-09')
    """
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def count(value: float) -> str:
    """Write a whole number with thousands marked.

    >>> count(14042)
    '14,042'
    """
    return f"{value:,.0f}"


def interval(found: Mapping[str, Any] | None, unit: str) -> str:
    """Write an interval with its level and method; unit is "points", "percent", "rating" or "ratio".

    >>> interval({"lower": -0.0058, "upper": -0.0001, "level": 0.95, "method": "tango"}, "points")
    '[-0.58, -0.01] points (95 %, tango)'
    """
    if found is None:
        return "no interval"
    scale, with_sign, suffix = {
        "points": (100, True, " points"),
        "percent": (100, False, " %"),
        "rating": (1, True, ""),
        "ratio": (1, False, ""),
    }[unit]
    places = 3 if unit == "ratio" else 1 if unit == "percent" else 2
    values = (scale * found[side] for side in ("lower", "upper"))
    low, high = (signed(value, places) if with_sign else f"{value:.{places}f}" for value in values)
    return f"[{low}, {high}]{suffix} ({100 * found['level']:g} %, {found['method']})"
