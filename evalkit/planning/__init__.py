"""Planning: what a release can show, before anything is run.

In: a policy, how many items each endpoint has, what is assumed or was measured of earlier runs. Out: a `Plan`.
Must not depend on: engines, benchmarks, clocks, or how a plan is shown.
"""

from __future__ import annotations

from evalkit.planning.designs import ControlPlan, EndpointPlan, JudgingPlan, MarginPlan, TruePoint
from evalkit.planning.plan import Measured, Plan, measure, plan, planned_sizes, suite_gaps

__all__ = [
    "ControlPlan",
    "EndpointPlan",
    "JudgingPlan",
    "MarginPlan",
    "Measured",
    "Plan",
    "TruePoint",
    "measure",
    "plan",
    "planned_sizes",
    "suite_gaps",
]
