"""How much of what was planned was measured, on either side.

In: paired records. Out: counts, and faults that forbid judging.
May not know: how much may be missing; that is the policy's to say.

Missing is not wrong: a failed request is counted here, and filled both ways where a verdict is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from evalkit.comparison.runs import Fault
from evalkit.records import Record

NON_FINITE = ("non-finite", "missing-token", "marking")
"""Kinds of failure that mean a broken engine, not a missing answer."""


@dataclass(frozen=True, kw_only=True)
class SideCoverage:
    """What one run has of what it planned: items, or judgments.

    Attributes:
        planned: of a complete run.
        scored: with a usable result.
        failed: asked without a usable result, by kind of failure.
        absent: never asked, or lost.
    """

    planned: int
    scored: int
    failed: Mapping[str, int]
    absent: int

    @property
    def missing(self) -> int:
        """Planned and not scored."""
        return self.planned - self.scored

    @property
    def missing_share(self) -> float:
        """Share of planned that is missing; 1 where nothing was planned."""
        return self.missing / self.planned if self.planned > 0 else 1.0


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Coverage of both sides.

    Attributes:
        baseline, candidate: items (for a conversation: answers).
        baseline_judgments, candidate_judgments: None for a task that is not judged.
        excluded: pairs that are in no estimate, by reason.
    """

    baseline: SideCoverage
    candidate: SideCoverage
    baseline_judgments: SideCoverage | None
    candidate_judgments: SideCoverage | None
    excluded: Mapping[str, int]


def side_coverage(records: Collection[Record | None], planned: int, metric: str | None) -> SideCoverage:
    """Count one side's records; `metric` None counts every answer that arrived."""
    present = [record for record in records if record is not None]
    failed: Counter[str] = Counter()
    for record in present:
        if record.status == "failed":
            failed[failure_kind(record)] += 1
        elif metric is not None and metric not in record.marks:
            failed["no-mark"] += 1
    return SideCoverage(
        planned=planned,
        scored=len(present) - sum(failed.values()),
        failed=dict(sorted(failed.items())),
        absent=max(0, planned - len(present)),
    )


def failure_kind(record: Record) -> str:
    """Return the first word of a failure: its kind."""
    return (record.failure or "unknown").split(":", 1)[0].strip() or "unknown"


def pair_exclusions(
    baseline: Sequence[Record | None], candidate: Sequence[Record | None], metric: str, unseen: int
) -> Counter[str]:
    """Count the pairs without a mark on both sides, by why; of `unseen` planned pairs neither side has a record."""
    found: Counter[str] = Counter()
    if unseen:
        found.update({"baseline-absent": unseen, "candidate-absent": unseen})
    for pair in zip(baseline, candidate, strict=True):
        for side, record in zip(("baseline", "candidate"), pair, strict=True):
            if record is None:
                found[f"{side}-absent"] += 1
            elif record.status == "failed":
                found[f"{side}-failed"] += 1
            elif metric not in record.marks:
                found[f"{side}-no-mark"] += 1
    return found


def broken_engine(side: str, records: Collection[Record | None]) -> list[Fault]:
    """Return a fault if a run met a number that is not finite, or an option without a token."""
    failed = [record for record in records if record is not None and record.status == "failed"]
    broken = [record for record in failed if failure_kind(record) in NON_FINITE]
    if not broken:
        return []
    first = min(broken, key=lambda record: record.key)
    message = (
        f"{side}: {len(broken)} record(s) without a finite number, the first at {first.key}: {first.failure}; "
        "next step: repair the engine and run again"
    )
    return [Fault(code="non-finite", message=message)]
