from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from evalkit.configuration import validate
from evalkit.policy import Policy

RULES: dict[str, Any] = {
    "policy_version": 1,
    "name": "planned",
    "tier": "test",
    "endpoints": {
        "mmlu": {
            "kind": "paired_proportion",
            "task": "mmlu",
            "metric": "acc",
            "protocol": "ll-5shot",
            "items": 14042,
            "population": 14042,
            "gating": True,
            "alpha": 0.025,
            "margins_points": [1.0, 0.5],
        },
        "mt_bench": {
            "kind": "paired_mean",
            "task": "mt-bench",
            "metric": "rating",
            "protocol": "mt-bench-greedy",
            "questions": 80,
            "judgments": 3,
            "gating": True,
            "alpha": 0.05,
            "margin": 0.3,
            "planning_sd": 1.0,
            "low_power_choice": "cap",
            "assumption": "no-rare-collapse",
        },
    },
}

SOFT = {
    "kind": "soft_accuracy",
    "task": "mmlu",
    "metric": "acc",
    "protocol": "ll-5shot",
    "items": 1000,
    "gating": False,
    "alpha": 0.025,
    "margins_points": [1.0],
}


@pytest.fixture
def make_policy() -> Callable[..., Policy]:
    """Build a policy; keyword `mmlu`, `mt_bench` change an endpoint (None drops it), others replace a section."""

    def make(**changes: Any) -> Policy:
        rules = deepcopy(RULES)
        for name, change in changes.items():
            if name in ("mmlu", "mt_bench"):
                if change is None:
                    del rules["endpoints"][name]
                else:
                    rules["endpoints"][name].update(change)
            elif name == "soft":
                rules["endpoints"]["soft"] = {**SOFT, **change}
            else:
                rules[name] = change
        return validate(Policy, rules, "test")

    return make
