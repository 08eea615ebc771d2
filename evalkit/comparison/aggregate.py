"""Compare a run with a published number, when that is all there is of a baseline.

In: a published accuracy with its number of items, and one run. Out: `AggregateComparison`.
May not know: verdicts, except that nothing here can carry a certificate.

Without item records nothing is paired: the interval is about three times as wide as a paired one, and differences in
prompts or marking are inside it, unseen. Newcombe's hybrid score interval for independent proportions (1998, Statistics
in Medicine 17:873, method 10).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from evalkit.comparison.coverage import SideCoverage, side_coverage
from evalkit.comparison.pairing import designated_planned
from evalkit.comparison.plain import to_plain
from evalkit.comparison.runs import RunLabel, RunView, label
from evalkit.errors import DataError, EstimateError
from evalkit.statistics.interval import Interval
from evalkit.statistics.proportions import wilson_interval


@dataclass(frozen=True, kw_only=True)
class PublishedAccuracy:
    """A baseline that is only a number.

    Attributes:
        accuracy: proportion.
        items: number of items it is from.
        source: where it was published.
    """

    accuracy: float
    items: int
    source: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.accuracy) and 0.0 <= self.accuracy <= 1.0):
            raise EstimateError(f"published accuracy is {self.accuracy!r}; allowed: a proportion from 0 to 1")
        if self.items < 2 or not self.source.strip():
            raise EstimateError(f"a published accuracy needs its source and at least 2 items, not {self.items}")


@dataclass(frozen=True, kw_only=True)
class AggregateComparison:
    """An unpaired comparison; it says so wherever it is shown.

    Attributes:
        task, metric: what was measured.
        published: the baseline.
        candidate: who was measured.
        coverage: of the candidate; missing items are not in the estimate.
        candidate_accuracy: proportion of the scored items.
        difference: candidate minus published.
        interval: of the difference, at 95 %, for independent samples.
        warning: what must be said beside every number here.
    """

    task: str
    metric: str
    published: PublishedAccuracy
    candidate: RunLabel
    coverage: SideCoverage
    candidate_accuracy: float
    difference: float
    interval: Interval
    warning: str

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data, unrounded."""
        plain: dict[str, Any] = to_plain(self)
        return plain


def compare_aggregate(
    published: PublishedAccuracy, run: RunView, task: str, *, metric: str | None = None, level: float = 0.95
) -> AggregateComparison:
    """Compare a run with a published accuracy, unpaired.

    Raises:
        DataError: the run lacks the task, has fewer than two marks, or a mark that is neither 0 nor 1, or more of the
            metric is not known to be better.
    """
    asked = run.manifest.tasks.get(task)
    if asked is None:
        raise DataError(f"task '{task}' is not in the run; next step: run it")
    name = metric or asked.metric
    if asked.direction(name) is not True:
        raise DataError(
            f"task '{task}': a published accuracy is compared with a metric of which more is better, and nobody says "
            f"so of '{name}'; next step: name such a metric"
        )
    records = [record for record in run.records.get(task, ()) if record.sample == 0]
    marks = [record.marks[name] for record in records if name in record.marks]
    if len(marks) < 2 or any(mark not in (0.0, 1.0) for mark in marks):
        raise EstimateError(f"task '{task}', metric '{name}': {len(marks)} mark(s) of 0 or 1; at least 2 are needed")
    right = round(sum(marks))
    interval = independent_interval(
        right, len(marks), round(published.accuracy * published.items), published.items, level
    )
    return AggregateComparison(
        task=task,
        metric=name,
        published=published,
        candidate=label(run.manifest),
        coverage=side_coverage(records, designated_planned(asked), name),
        candidate_accuracy=right / len(marks),
        difference=right / len(marks) - published.accuracy,
        interval=interval,
        warning=(
            f"UNPAIRED: the baseline is a published number ({published.source}), so prompts, marking and items cannot "
            "be checked and this can never certify; next step: run the baseline"
        ),
    )


def independent_interval(k_c: int, n_c: int, k_b: int, n_b: int, level: float = 0.95) -> Interval:
    """Return the hybrid score interval of k_c/n_c - k_b/n_b for independent samples.

    >>> interval = independent_interval(56, 70, 48, 80)
    >>> round(interval.lower, 4), round(interval.upper, 4)
    (0.0524, 0.3339)

    Raises:
        EstimateError: fewer than two trials, counts out of range, or a bad level.
    """
    c, b = wilson_interval(k_c, n_c, level), wilson_interval(k_b, n_b, level)
    p_c, p_b = k_c / n_c, k_b / n_b
    down, up = math.hypot(p_c - c.lower, b.upper - p_b), math.hypot(c.upper - p_c, p_b - b.lower)
    return Interval(lower=p_c - p_b - down, upper=p_c - p_b + up, level=level, method="newcombe-independent")
