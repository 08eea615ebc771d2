"""A number with its sign, as people read it.

In: a number. Out: text; what rounds to zero has no sign, for it is neither a gain nor a loss.
Must not depend on: which number it is, or its unit.
"""

from __future__ import annotations


def signed(value: float, places: int = 2) -> str:
    """Write a number with its sign and so many decimal places.

    >>> signed(0.25), signed(-0.3, 1), signed(-0.001), signed(0.0)
    ('+0.25', '-0.3', '0.00', '0.00')
    """
    text = f"{value:+.{places}f}"
    return text if text.strip("+-0.") else text[1:]
