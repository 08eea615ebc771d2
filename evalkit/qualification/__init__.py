"""Is a judge good enough for its word to count? Numbers with intervals, and bars that a policy sets.

In: what a judge was tried with and said, votes of people. Out: a `Qualification`, its checks, and a file with a digest.
Must not depend on: engines, how a probe is made, verdicts on recipes.
"""

from __future__ import annotations

from evalkit.qualification.agreement import (
    Agreement,
    Qualification,
    Vote,
    agreement,
    between_people,
    read_qualification,
    read_votes,
    write_qualification,
)
from evalkit.qualification.estimates import Estimates, QualificationCheck, Share, check_qualification, estimates_of

__all__ = [
    "Agreement",
    "Estimates",
    "Qualification",
    "QualificationCheck",
    "Share",
    "Vote",
    "agreement",
    "between_people",
    "check_qualification",
    "estimates_of",
    "read_qualification",
    "read_votes",
    "write_qualification",
]
