"""Nights: a small sequential check of every candidate, which ends as soon as it can say OK or ALARM.

In: a suite, a policy that certifies nothing, the stored run of the baseline. Out: one folder a night, and an outcome.
Must not depend on: how an engine works, how a database keeps what was found. A night never certifies.
"""

from __future__ import annotations

from evalkit.nightly.night import Night, NightPlan, NightSettings, open_night, plan_night
from evalkit.nightly.running import finished_night, run_night
from evalkit.nightly.watch import EXIT_CODES, NightOutcome, night_exit_code, worst

__all__ = [
    "EXIT_CODES",
    "Night",
    "NightOutcome",
    "NightPlan",
    "NightSettings",
    "finished_night",
    "night_exit_code",
    "open_night",
    "plan_night",
    "run_night",
    "worst",
]
