"""How often does a composite of six tasks certify a loss of its margin? Skewed, clustered and lopsided losses.

The simulations go through the functions that `decide` uses; one test ties them to its results. Every draw loses exactly
the margin, so any PASS is false. Small tasks of large weight are the hard case: few marks change there, and much hangs
on them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from evalkit.comparison import compare_endpoints
from evalkit.comparison.proportions import ClusteredTables
from evalkit.policy import Policy, bind
from evalkit.statistics.clustered_tango import ClusteredPairs
from evalkit.statistics.stratified import Stratum, fewest_of_part, stratified_mean
from evalkit.verdict import EndpointState
from evalkit.verdict.composite import evaluate_composite

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Draws differences of one task, shape (draws, units); the generators are this test's own."""

SIZES = (60, 80, 120, 198, 300, 500)
EQUAL = (1 / 6,) * 6
BY_ITEMS = tuple(n / sum(SIZES) for n in SIZES)
ALPHA, MARGIN = 0.025, 0.02
LEVEL = 0.027
SAMPLES = 10_000


def flips(lost: float, gained: float) -> Draw:
    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        u = rng.random(shape, dtype=np.float32)
        return (u > 1.0 - gained).astype(np.float64) - (u < lost)

    return draw


def averaged(k: int, loss: float, share: float) -> Draw:
    """Means of k answers; the loss sits in a share of the items, in proportion to what they knew: skewed."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        p = rng.beta(0.5, 0.5, shape)
        hit = rng.random(shape) < share
        return (rng.binomial(k, np.where(hit, p * (1.0 - 2.0 * loss / share), p)) - rng.binomial(k, p)) / k

    return draw


def together(lost: float, gained: float) -> Draw:
    """Clusters of four items that flip as a whole, beside single flips; one mean for each cluster."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        whole = flips(lost, gained)(rng, shape)
        single = (rng.binomial(4, 0.02, shape) - rng.binomial(4, 0.02, shape)) / 4.0
        return np.where(whole == 0.0, single, whole)

    return draw


def one_task(at: int, weights: Sequence[float], others: Draw) -> list[Draw]:
    """The whole loss in one task, by items that lose all."""
    return [flips(MARGIN / weights[at], 0.0) if place == at else others for place in range(len(SIZES))]


def passing(
    draws: Sequence[Draw],
    weights: Sequence[float],
    step: float,
    *,
    seed: int,
    samples: int = SAMPLES,
    plain: bool = False,
) -> float:
    """Share of draws that PASS; `plain` is t alone, and without the mark that was not seen."""
    rng, passed, done = np.random.default_rng(seed), 0, 0
    while done < samples:
        found = stratified_mean(
            [
                Stratum(values=draw(rng, (2_000, n)), weight=weight, step=0.0 if plain else step)
                for draw, n, weight in zip(draws, SIZES, weights, strict=True)
            ]
        )
        t, corrected = found.statistics(MARGIN)
        critical = float(stdtrit(found.df, 1.0 - ALPHA))
        passed += int(np.count_nonzero((t if plain else np.minimum(t, corrected)) > critical))
        done += 2_000
    return passed / done


LOSSES: dict[str, tuple[list[Draw], Sequence[float], float]] = {
    "3 % flips, equal weights": ([flips(0.025, 0.005)] * 6, EQUAL, 1.0),
    "12 % flips, equal weights": ([flips(0.07, 0.05)] * 6, EQUAL, 1.0),
    "12 % flips, weights by items": ([flips(0.07, 0.05)] * 6, BY_ITEMS, 1.0),
    "losses alone": ([flips(0.02, 0.0)] * 6, EQUAL, 1.0),
    "clusters of four": ([together(0.03, 0.01)] * 6, EQUAL, 1.0),
    "all in the smallest task": (one_task(0, EQUAL, flips(0.015, 0.015)), EQUAL, 1.0),
    "all in a middle task, the rest without a flip": (one_task(2, EQUAL, flips(0.001, 0.001)), EQUAL, 1.0),
    "all in a small task of small weight": (one_task(1, BY_ITEMS, flips(0.015, 0.015)), BY_ITEMS, 1.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_composite_of_six_tasks_keeps_its_level(name: str) -> None:
    draws, weights, step = LOSSES[name]
    assert all(n >= fewest_of_part(w, MARGIN, ALPHA) for n, w in zip(SIZES, weights, strict=True))
    assert passing(draws, weights, step, seed=18) <= LEVEL


@pytest.mark.parametrize(("k", "share"), [(4, 0.3)])
def test_averaged_marks_keep_it_too(k: int, share: float) -> None:
    assert passing([averaged(k, MARGIN, share)] * 6, EQUAL, 1.0 / k, seed=k, samples=4_000) <= LEVEL + 0.004


def test_without_correction_and_unseen_marks_the_level_is_lost() -> None:
    """What must exceed the bound: without this row the tests above could not fail."""
    assert passing([flips(0.02, 0.0)] * 6, EQUAL, 1.0, seed=18, samples=6_000, plain=True) > 0.06


def test_the_fewest_items_of_a_part_exclude_what_none_of_them_shows() -> None:
    for weight in (1 / 6, 0.3, 0.05):
        n = fewest_of_part(weight, 0.01, ALPHA)
        assert (1.0 - 0.01 / weight) ** n <= ALPHA < (1.0 - 0.01 / weight) ** (n - 1)


def test_six_gates_of_one_point_pass_an_equal_recipe_hardly_ever_and_the_composite_does() -> None:
    """1,209, 3,000, 541, 500, 800 and 600 items of which 3 % flip: six gates against one composite at one point."""
    sizes, rng = np.array([1_209, 3_000, 541, 500, 800, 600]), np.random.default_rng(5)
    counts = rng.multinomial(sizes, [0.015, 0.015, 0.97], size=(4_000, 6))
    d, errors = (counts[..., 1] - counts[..., 0]) / sizes, np.sqrt(0.03 / sizes)
    alone = (d + 0.01) / errors > 1.96
    weights = sizes / sizes.sum()
    whole = ((d * weights).sum(axis=1) + 0.01) / np.sqrt(((weights * errors) ** 2).sum()) > 1.96
    assert alone.all(axis=1).mean() < 0.01
    assert whole.mean() > 0.99


def test_decide_is_the_gate_that_was_simulated() -> None:
    made: Any = importlib.import_module("synthetic_runs")
    names = [f"task-{at}" for at in range(6)]
    plain = {"kind": "paired_proportion", "metric": "acc", "protocol": "ll-5shot", "gating": False, "alpha": ALPHA}
    composite = {"alpha": ALPHA, "margins_points": [2.0], "parts": {name: {"floor_points": 50.0} for name in names}}
    policy = Policy.model_validate(
        {
            "policy_version": 1,
            "name": "six",
            "tier": "test",
            "claims": ["close"],
            "assay": {"required": []},
            "endpoints": {name: {**plain, "task": name, "margins_points": [5.0]} for name in names},
            "composites": {"overall": composite},
        }
    )
    bound = bind(policy, "baseline", ["candidate"])
    base = {name: np.tile([1.0, 1.0, 0.0, 1.0], n)[:n] for name, n in zip(names, SIZES, strict=True)}
    runs = made.make_tasks_run("baseline", base, seed=1), made.make_tasks_run("candidate", base, seed=2)
    compared, rng, states = compare_endpoints(bound, *runs), np.random.default_rng(23), []
    for _ in range(30):
        d = [flips(0.03, 0.022)(rng, (1, n)) for n in SIZES]
        moved = {
            name: replace(compared[name], proportion=table(compared[name], one[0]))
            for name, one in zip(names, d, strict=True)
        }
        found = evaluate_composite(bound, "overall", moved)
        mean = stratified_mean([Stratum(values=one, weight=1 / 6, step=1.0) for one in d])
        least = min(float(part[0]) for part in mean.statistics(MARGIN))
        assert found.steps[0].statistic == pytest.approx(least, rel=1e-9)
        critical = float(stdtrit(59, 1.0 - ALPHA))
        assert (found.state is EndpointState.PASS) == (least > critical)
        states.append(found.state)
    assert len(set(states)) > 1  # both kinds were compared


def table(comparison: Any, differences: np.ndarray) -> Any:
    """The comparison's outcomes moved so that every item has these differences."""
    right = np.where(differences == 0.0, 1.0, (differences < 0.0).astype(float))
    pairs = ClusteredPairs.from_outcomes(right, right + differences, np.arange(differences.size))
    tables = ClusteredTables(observed=pairs, unfavourable=pairs, favourable=pairs)
    whole = pairs.table
    return replace(comparison.proportion, observed=whole, unfavourable=whole, favourable=whole, clustered=tables)
