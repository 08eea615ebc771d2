"""What a reader of one verdict must know though it changes nothing.

In: a recipe's results and comparisons, the noise floor. Out: cautions.
May not know: other recipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.comparison import Comparison
from evalkit.signed import signed
from evalkit.verdict.assay import NoiseFloor
from evalkit.verdict.endpoints import EndpointResult
from evalkit.verdict.outcome import Reason

ERROR_RISE = 1.10
"""Factor on wrong answers from which a small difference in points is worth a word of its own."""

_NAMED = 5
"""Subjects that a caution names; the table of subjects has them all."""


def endpoint_cautions(
    results: Sequence[EndpointResult], comparisons: Mapping[str, Comparison], noise: Sequence[NoiseFloor]
) -> list[Reason]:
    """Return the cautions of gating endpoints of accuracies; ratings have none."""
    floors = {floor.endpoint: floor for floor in noise}
    cautions: list[Reason] = []
    for result in results:
        data = comparisons[result.name].proportion
        if data is None or data.observed is None:
            continue
        cautions += _error_rise(result.name, comparisons[result.name])
        floor = floors.get(result.name)
        cautions += _flips(result.name, data.observed.discordance, floor) if floor is not None else []
        cautions += _subjects(result.name, comparisons[result.name])
    return cautions


def _error_rise(name: str, comparison: Comparison) -> list[Reason]:
    assert comparison.proportion is not None
    table = comparison.proportion.observed
    assert table is not None
    before, after = table.n01 + table.n00, table.n10 + table.n00
    if after <= before or after < ERROR_RISE * before:
        return []
    factor = f" (x{after / before:.2f})" if before else ""
    message = f"{name}: wrong answers rise from {before:,} to {after:,} of {table.n:,}{factor}"
    return [Reason(code="error-rise", message=message, endpoint=name)]


def _flips(name: str, flips: float, floor: NoiseFloor) -> list[Reason]:
    if floor.discordance is None or floor.discordance_upper is None or flips > floor.discordance_upper:
        return []
    message = (
        f"{name}: {flips:.2%} of items flip, the baseline against itself {floor.discordance:.2%} (95 % upper limit "
        f"{floor.discordance_upper:.2%}): is the recipe in force?"
    )
    return [Reason(code="flips-within-noise", message=message, endpoint=name)]


def _subjects(name: str, comparison: Comparison) -> list[Reason]:
    assert comparison.proportion is not None
    lost = sorted(
        (row for row in comparison.proportion.subjects if row.flagged and row.difference < 0),
        key=lambda row: (row.adjusted_p, row.subject),
    )
    if not lost:
        return []
    shown = ", ".join(
        f"{row.subject} {signed(100 * row.difference, 1)} points (n {row.n}, p {row.adjusted_p:.2g})"
        for row in lost[:_NAMED]
    )
    more = f" and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
    count = "1 subject" if len(lost) == 1 else f"{len(lost)} subjects"
    message = f"{name}: {count} surely lost: {shown}{more}; p after Benjamini and Hochberg over all subjects"
    return [Reason(code="subjects-lost", message=message, endpoint=name)]
