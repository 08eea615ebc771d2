"""The verdict: CERTIFIED, REJECTED, INCONCLUSIVE or INVALID, with reasons, by a policy written down before.

In: a bound policy and comparisons. Out: a `Decision`.
Must not depend on: engines, files, clocks, how numbers are shown.
"""

from __future__ import annotations

from evalkit.verdict.assay import AssayReport
from evalkit.verdict.checks import AssayCheck
from evalkit.verdict.decide import Decision, Evidence, Verdict, decide
from evalkit.verdict.endpoints import EndpointResult, MarginStep, Role
from evalkit.verdict.guards import GuardResult, JudgeStanding, Tried
from evalkit.verdict.outcome import CAUTIONS, REASONS, EndpointState, NoiseFloor, Outcome, Reason, exit_code
from evalkit.verdict.published import UnpairedDecision, UnpairedResult, decide_unpaired

__all__ = [
    "CAUTIONS",
    "REASONS",
    "AssayCheck",
    "AssayReport",
    "Decision",
    "EndpointResult",
    "EndpointState",
    "Evidence",
    "GuardResult",
    "JudgeStanding",
    "MarginStep",
    "NoiseFloor",
    "Outcome",
    "Reason",
    "Role",
    "Tried",
    "UnpairedDecision",
    "UnpairedResult",
    "Verdict",
    "decide",
    "decide_unpaired",
    "exit_code",
]
