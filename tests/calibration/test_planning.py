"""Does `plan` promise what simulated releases keep? (C11)"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from evalkit.planning import EndpointPlan, TruePoint, plan
from evalkit.policy import load_policy
from evalkit.statistics.paired_means import t_statistics
from evalkit.statistics.tango import tango_scores

DRAWS = 40_000
Z = {1: 1.959963984540054, 4: 2.497705474412454}
"""Quantiles of one-sided 0.025 and of its fourth part, Holm's first step over four recipes."""


def planned(name: str, changes: dict[str, Any], recipes: int, **spread: Any) -> EndpointPlan:
    loaded = load_policy("release")
    endpoint = loaded.endpoints[name].model_copy(update=changes)
    policy = loaded.model_copy(update={"endpoints": {name: endpoint}})
    return plan(policy, {}, recipes=recipes, simulated=False, **spread).endpoints[0]


def at(points: tuple[TruePoint, ...], true_difference: float) -> TruePoint:
    (found,) = (point for point in points if point.true_difference == pytest.approx(true_difference, abs=1e-12))
    return found


@pytest.mark.parametrize(
    ("items", "rho", "margin", "true"),
    [
        (500, 0.06, 3.0, 0.0),
        (1000, 0.03, 1.0, -0.25),
        (2480, 0.03, 1.0, 0.0),
        (4770, 0.06, 1.0, -0.5),
        (14_042, 0.01, 0.5, -0.25),
        (14_042, 0.03, 1.0, -1.25),
        (14_042, 0.10, 1.0, -1.5),
    ],
)
def test_c11_planned_power_of_accuracy_is_what_simulated_runs_show(
    items: int, rho: float, margin: float, true: float
) -> None:
    changes = {"items": items, "population": items, "margins_points": (margin,)}
    found = planned("mmlu", changes, 4, discordance={"mmlu": rho})
    promised = at(found.curve, true)
    p10, p01 = (rho - true / 100) / 2, (rho + true / 100) / 2
    counts = np.random.default_rng(1111).multinomial(items, [p10, p01, 1 - rho], size=DRAWS)
    z = tango_scores(counts[:, 0], counts[:, 1], items, -margin / 100)
    shares = np.mean([z > Z[1], z > Z[4], z < -Z[1]], axis=1)
    assert (promised.passes, promised.passes_first_step, promised.fails) == pytest.approx(tuple(shares), abs=0.01)


@pytest.mark.parametrize(
    ("questions", "sd", "margin", "true"),
    [(80, 1.0, 0.3, 0.0), (80, 1.4, 0.3, -0.3), (160, 1.2, 0.2, -0.1), (40, 0.8, 0.5, -0.875)],
)
def test_c11_planned_power_of_ratings_is_what_simulated_runs_show(
    questions: int, sd: float, margin: float, true: float
) -> None:
    changes = {"questions": questions, "population": questions, "margin": margin}
    found = planned("mt_bench", changes, 4, planning_sd={"mt_bench": sd})
    promised = at(found.curve, true)
    d = np.random.default_rng(1112).normal(true, sd, size=(DRAWS, questions))
    t = t_statistics(d, margin)
    alone, first_step = (float(stdtrit(questions - 1, 1 - alpha)) for alpha in (0.05, 0.05 / 4))
    shares = np.mean([t > alone, t > first_step, t < -alone], axis=1)
    assert (promised.passes, promised.passes_first_step, promised.fails) == pytest.approx(tuple(shares), abs=0.01)


def test_c11_the_chance_to_see_a_control_is_what_simulated_controls_show() -> None:
    found = planned("mmlu", {"items": 2000, "margins_points": (1.0,)}, 1, discordance={"mmlu": 0.06})
    rho, loss = found.control.discordance, found.control.loss / 100
    counts = np.random.default_rng(1113).multinomial(2000, [(rho + loss) / 2, (rho - loss) / 2, 1 - rho], size=DRAWS)
    z = tango_scores(counts[:, 0], counts[:, 1], 2000, -0.01)
    assert found.control.fails == pytest.approx(np.mean(z < -Z[1]), abs=0.01)
    assert found.control.does_not_pass == pytest.approx(np.mean(z <= Z[1]), abs=0.01)
