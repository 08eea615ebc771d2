"""Planning: what a release can show, before anything is run.

In: a policy, how many items each endpoint has, what is assumed or was measured of earlier runs. Out: a `Plan`.
Must not depend on: engines, benchmarks, clocks, or how a plan is shown.
"""

from __future__ import annotations

from evalkit.planning.composite import CompositePlan, PartPlan
from evalkit.planning.designs import ControlPlan, EndpointPlan, JudgingPlan, MarginPlan, TruePoint
from evalkit.planning.endpoint import NO_CERTIFICATE, impossible, refuse_impossible
from evalkit.planning.plan import Measured, Plan, endpoint_sizes, measure, plan, suite_gaps
from evalkit.planning.simulation import TrialReach

__all__ = [
    "NO_CERTIFICATE",
    "CompositePlan",
    "ControlPlan",
    "EndpointPlan",
    "JudgingPlan",
    "MarginPlan",
    "Measured",
    "PartPlan",
    "Plan",
    "TrialReach",
    "TruePoint",
    "endpoint_sizes",
    "impossible",
    "measure",
    "plan",
    "refuse_impossible",
    "suite_gaps",
]
