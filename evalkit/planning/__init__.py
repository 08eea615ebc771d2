"""Planning: what a release can show, before anything is run.

In: a policy, how many items each endpoint has, what is assumed or was measured of earlier runs. Out: a `Plan`.
May not know: engines, benchmarks, clocks, or how a plan is shown.
"""

from __future__ import annotations

from evalkit.planning.figures import ControlPlan, EndpointPlan, JudgingPlan, MarginPlan, TruePoint
from evalkit.planning.gaps import suite_gaps
from evalkit.planning.measured import Measured, measure, planned_sizes
from evalkit.planning.plan import Plan, plan

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
