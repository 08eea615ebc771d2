"""How often does a gate on means certify a loss of its margin? Every kind of mean, every shape of loss.

The simulations go through the functions that `decide` uses; two tests tie them to its verdicts. All recipes of a
release lose exactly the margin, so any certificate is false. The first is given where the smallest of m p-values is
below alpha/m, so for independent recipes the family error is 1 - (1 - q)^m, q the share of one recipe below alpha/m.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtrit

from evalkit.comparison import Comparison, FilledDifferences, compare_endpoints
from evalkit.policy import Policy, ResolvedPolicy, bind, load_policy
from evalkit.statistics.paired_means import fewest_units
from evalkit.verdict import Evidence, Outcome, decide
from evalkit.verdict.outcome import MeanRule, holm_rejections, mean_p, mean_statistics

FILE = Path(__file__).resolve().parents[1] / "synthetic_runs.py"

Shape = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
"""Draws differences whose mean is -1, in units of the margin; the generators are this test's own."""

RECIPES = (1, 2, 4, 8)
SAMPLES = 8_000
RATINGS, SOFT = 0.056, 0.0265
"""Bounds on the family error: the nominal 0.05 and 0.025, with what Monte-Carlo error may add."""


def spread(draw: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], sd: float) -> Shape:
    """Noise with mean 0 around a loss of one margin on every unit."""
    return lambda rng, shape: sd * draw(rng, shape) - 1.0


def collapse(size: float, noise: float, *, diffuse: float = 0.0) -> Shape:
    """A few units lose `size` margins; the share `diffuse` of the loss lies on all units instead."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        hit = rng.random(shape) < (1.0 - diffuse) / size
        return noise * rng.standard_normal(shape) - diffuse - size * hit

    return draw


def gains_and_collapses(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Right-skewed gains, paid for by units that lose 28 margins."""
    return 2.0 * rng.standard_exponential(shape) - 28.0 * (rng.random(shape) < 3.0 / 28.0)


def near_verbatim(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Nine answers of ten are the baseline's to the letter; of the rest some drop by 17 margins."""
    changed = rng.random(shape) < 0.1
    return np.where(changed, rng.standard_normal(shape) - 17.0 * (rng.random(shape) < 10.0 / 17.0), 0.0)


def bounded(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A beta distribution over the whole scale: many small losses, a long tail."""
    return -rng.beta(0.3, 8.7, shape) * 30.0


SPREAD_LOSSES: dict[str, Shape] = {
    "normal": spread(lambda rng, shape: rng.standard_normal(shape), 3.0),
    "heavy tails (t3)": spread(lambda rng, shape: rng.standard_t(3, shape), 2.0),
    "left-skewed": spread(lambda rng, shape: 1.0 - rng.standard_exponential(shape), 3.0),
    "very left-skewed": spread(lambda rng, shape: 0.5 - rng.standard_gamma(0.5, shape), 4.0),
    "log-normal losses": spread(lambda rng, shape: np.exp(0.245) - np.exp(rng.normal(0.0, 0.7, shape)), 3.0),
    "right-skewed": spread(lambda rng, shape: rng.standard_exponential(shape) - 1.0, 3.0),
    "drops of 3 points in 10 %": lambda rng, shape: 1.7 * rng.standard_normal(shape) - 10.0 * (rng.random(shape) < 0.1),
}
"""What `assumption: no-rare-collapse` speaks of."""

RARE_LOSSES: dict[str, Shape] = {
    **{f"collapse of {0.3 * size:g} points": collapse(size, 1e-3) for size in (10, 17, 30)},
    **{f"collapse of {0.3 * size:g} points, noise": collapse(size, 2.0) for size in (10, 17, 27)},
    "collapse of 8.1 points, much noise": collapse(27, 3.3),
    "half diffuse, half collapse": collapse(27, 1.0, diffuse=0.5),
    "nearly all diffuse, hardly any noise": collapse(29, 0.01, diffuse=0.9),
    "gains and collapses": gains_and_collapses,
    "near-verbatim": near_verbatim,
    "beta over the scale": bounded,
}


def family_error(
    shape: Shape, n: int, rule: MeanRule, margin: float, seed: int, samples: int = SAMPLES, test: str = "certifying"
) -> float:
    """Share of releases with any false certificate; in range, and without variation nothing is certified."""
    rng, passed, total = np.random.default_rng(seed), 0, 0
    while total < samples:
        rows = min(samples - total, max(1, 4_000_000 // n))
        d = margin * shape(rng, (rows, n))
        if rule.largest_loss is not None:
            d = np.clip(d, -rule.largest_loss, rule.largest_loss)
        with np.errstate(invalid="ignore", divide="ignore"):
            p = mean_p(getattr(mean_statistics(d, margin, rule), test), n)
        passed += int(np.count_nonzero((p < rule.first_step_alpha) & (np.ptp(d, axis=1) > 0)))
        total += rows
    return 1.0 - (1.0 - passed / total) ** rule.recipes


def ratings(recipes: int, *, assumed: bool = False) -> MeanRule:
    return MeanRule(alpha=0.05, recipes=recipes, largest_loss=None if assumed else 9.0)


def soft(recipes: int) -> MeanRule:
    return MeanRule(alpha=0.025, recipes=recipes, largest_loss=1.0)


@pytest.mark.parametrize("name", [*SPREAD_LOSSES, *RARE_LOSSES])
@pytest.mark.parametrize("recipes", RECIPES)
def test_ratings_keep_their_level_for_every_shape_from_the_fewest_questions_on(recipes: int, name: str) -> None:
    rule, shape = ratings(recipes), {**SPREAD_LOSSES, **RARE_LOSSES}[name]
    fewest = rule.fewest(0.3)
    for n in (fewest, 2 * fewest):
        assert family_error(shape, n, rule, 0.3, seed=n) <= RATINGS


@pytest.mark.parametrize("name", SPREAD_LOSSES)
@pytest.mark.parametrize("recipes", RECIPES)
def test_with_rare_collapses_assumed_away_spread_losses_keep_the_level(recipes: int, name: str) -> None:
    """80 questions, as the release policy has; with 30 the level of very skewed losses is not that of normal ones."""
    rule = ratings(recipes, assumed=True)
    assert family_error(SPREAD_LOSSES[name], 80, rule, 0.3, seed=80, samples=16_000) <= RATINGS + 0.004


SOFT_LOSSES: dict[str, Shape] = {
    "normal": SPREAD_LOSSES["normal"],
    "heavy tails (t3)": SPREAD_LOSSES["heavy tails (t3)"],
    "left-skewed": SPREAD_LOSSES["left-skewed"],
    "right-skewed": SPREAD_LOSSES["right-skewed"],
    "collapse of one item in 100": collapse(100, 1e-3),
    "collapse of one item in 100, noise": collapse(95, 1.0),
    "collapse of one item in 30": collapse(30, 0.3),
    "half diffuse, half collapse": collapse(95, 0.5, diffuse=0.5),
}


@pytest.mark.parametrize("name", SOFT_LOSSES)
@pytest.mark.parametrize("recipes", RECIPES)
def test_soft_accuracy_keeps_its_level_for_every_shape_from_the_fewest_items_on(recipes: int, name: str) -> None:
    rule = soft(recipes)
    for n, samples in ((rule.fewest(0.01), 20_000 if name.startswith("collapse") else 6_000), (1_403, 1_500)):
        error = family_error(SOFT_LOSSES[name], n, rule, 0.01, seed=n, samples=samples)
        # Monte-Carlo error: the worst shape is exactly at its level, which the next test says without drawing.
        assert error <= SOFT + (0.012 if n > 1_000 else 0.004 if name == "collapse of one item in 100" else 0.0)


@pytest.mark.parametrize("margin", [0.01, 0.03])
def test_the_worst_shape_is_known_exactly(margin: float) -> None:
    """All lost where items collapse, nothing elsewhere: a pass needs that no item shows it, and n excludes that."""
    for rule, width in ((soft(1), margin), (soft(4), margin), (ratings(1), 30 * margin), (ratings(8), 30 * margin)):
        assert rule.largest_loss is not None
        n = rule.fewest(width)
        unseen = (1.0 - width / rule.largest_loss) ** n
        assert unseen <= rule.first_step_alpha < (1.0 - width / rule.largest_loss) ** (n - 1)
        copy = np.zeros((1, n))
        copy[0, 0] = 1e-9  # some variation, or there is no verdict at all
        assert mean_p(mean_statistics(copy, width, rule).certifying, n)[0] <= rule.first_step_alpha
        copy[0, 1] = -rule.largest_loss
        assert mean_p(mean_statistics(copy, width, rule).certifying, n)[0] > rule.first_step_alpha


# ---- the same through `decide`


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


def bound(endpoint: dict[str, Any], recipes: int) -> ResolvedPolicy:
    loaded = load_policy("release")
    plain = {"assay": {"required": []}, "claims": ["comparable"], "endpoints": {"one": endpoint}, "judge": None}
    guards = {"guards": {"length_ratio": [0.1, 10.0], "catastrophic_p": 1e-12}}
    document = {**loaded.model_dump(mode="json"), **plain, **guards, "name": "one", "tier": "test"}
    return bind(Policy.model_validate(document), "baseline", [f"recipe-{at}" for at in range(recipes)])


def certificates(policy: ResolvedPolicy, compared: Comparison, d: np.ndarray, part: str) -> list[bool]:
    """Certified or not, for releases whose recipes have the differences d of shape (recipes, n)."""
    candidates = {}
    for at, differences in enumerate(d):
        filled = FilledDifferences(observed=differences, unfavourable=differences, favourable=differences)
        old = compared.soft if part == "soft" else compared.rating.mean
        mean = replace(old, differences=filled, n=differences.size, planned=differences.size)
        changed = {"soft": mean} if part == "soft" else {"rating": replace(compared.rating, mean=mean)}
        name = f"recipe-{at}"
        label = replace(compared.candidate, name=name, policy_sha256=policy.sha256)
        candidates[name] = {"one": replace(compared, planned=differences.size, candidate=label, **changed)}
    decision = decide(policy, Evidence(candidates=candidates))
    assert {verdict.outcome.value for verdict in decision.verdicts} <= {"CERTIFIED", "INCONCLUSIVE", "REJECTED"}
    return [verdict.outcome is Outcome.CERTIFIED for verdict in decision.verdicts]


@pytest.mark.parametrize("assumption", ["none", "no-rare-collapse"])
def test_decide_on_ratings_is_the_gate_that_was_simulated(made: ModuleType, assumption: str) -> None:
    endpoint = {
        **load_policy("release").endpoints["mt_bench"].model_dump(mode="json"),
        "assumption": assumption,
        "questions": 120,
        "planning_sd": 0.5,
        "task": "mt-bench",
        "generations": 1,
        "protocol": "mt-bench-greedy",
        "judgments": 1,
    }
    policy = bound(endpoint, 2)
    base, moved = made.chat_scores(120, shift=0.0, seed=4)
    runs = [made.make_run(name, scores=scores) for name, scores in (("baseline", base), ("recipe-0", moved))]
    compared = compare_endpoints(policy, *runs)["one"]
    rule, rng, passed = ratings(2, assumed=assumption != "none"), np.random.default_rng(21), 0
    for _ in range(40):
        d = np.clip(0.3 * RARE_LOSSES["half diffuse, half collapse"](rng, (2, 120)), -9.0, 9.0) + 0.25
        p = mean_p(mean_statistics(d, 0.3, rule).certifying, 120)
        assert certificates(policy, compared, d, "rating") == holm_rejections(p, 0.05).tolist()
        passed += int(np.count_nonzero(p < 0.025))
    assert 10 < passed < 80  # both kinds of verdict were compared


def test_decide_on_soft_accuracy_is_the_gate_that_was_simulated(made: ModuleType) -> None:
    endpoint = {"kind": "soft_accuracy", "task": "mmlu", "metric": "acc", "protocol": "ll-5shot", "items": 500}
    policy = bound({**endpoint, "gating": True, "alpha": 0.025, "margins_points": [1.0]}, 2)
    marks = np.tile([1.0, 1.0, 0.0], 167)[:500]
    runs = [made.make_run(name, marks=marks, seed=seed) for name, seed in (("baseline", 1), ("recipe-0", 2))]
    compared = compare_endpoints(policy, *runs)["one"]
    rng, passed = np.random.default_rng(22), 0
    for _ in range(40):
        d = np.clip(0.01 * SOFT_LOSSES["collapse of one item in 100, noise"](rng, (2, 500)), -1.0, 1.0) + 0.004
        p = mean_p(mean_statistics(d, 0.01, soft(2)).certifying, 500)
        assert certificates(policy, compared, d, "soft") == holm_rejections(np.minimum(1.0, 2 * p), 0.05).tolist()
        passed += int(np.count_nonzero(p < 0.0125))
    assert 0 < passed < 80


# ---- what must exceed the bounds: without these rows the tests above could not fail


@pytest.mark.parametrize(
    ("test", "name", "n", "recipes", "least"),
    [
        ("t", "left-skewed", 80, 8, 0.10),  # plain t, Holm's first step
        ("t", "collapse of 9 points", 80, 1, 0.20),
        ("corrected", "collapse of 9 points", 80, 4, 0.20),  # too few questions, whatever the correction
        ("corrected", "half diffuse, half collapse", 150, 8, 0.20),
        ("corrected", "nearly all diffuse, hardly any noise", 89, 1, 0.50),
    ],
)
def test_tests_that_do_not_know_the_range_of_ratings_exceed_it(
    test: str, name: str, n: int, recipes: int, least: float
) -> None:
    shape = {**SPREAD_LOSSES, **RARE_LOSSES}[name]
    assert family_error(shape, n, ratings(recipes), 0.3, seed=5, test=test) > least


@pytest.mark.parametrize(("n", "least"), [(20, 0.7), (50, 0.5), (100, 0.3), (368, 0.03)])
def test_plain_t_certifies_a_soft_accuracy_that_a_few_items_lost(n: int, least: float) -> None:
    assert family_error(collapse(95, 0.3), n, soft(1), 0.01, seed=6, test="t", samples=2_000) > least


# ---- power: what the level costs


@pytest.mark.parametrize(("n", "sd", "least"), [(80, 0.85, 0.83), (80, 0.6, 0.98)])
def test_an_equal_recipe_passes_with_rare_collapses_assumed_away(n: int, sd: float, least: float) -> None:
    rule = ratings(2, assumed=True)
    d = np.random.default_rng(8).normal(0.0, sd, (SAMPLES, n))
    assert np.mean(mean_p(mean_statistics(d, 0.3, rule).certifying, n) < 0.025) > least


@pytest.mark.parametrize(
    ("kind", "margin", "n", "sd"),
    [("ratings", 0.3, 240, 1.0), ("soft", 0.01, 1_600, 0.1), ("soft", 0.01, 14_042, 0.25)],
)
def test_an_equal_recipe_passes_without_any_assumption_on_enough_units(
    kind: str, margin: float, n: int, sd: float
) -> None:
    rule = {"ratings": ratings(2), "soft": soft(2)}[kind]
    largest = rule.largest_loss or 0.0
    d = np.clip(np.random.default_rng(9).normal(0.0, sd, (400, n)), -largest, largest)
    assert np.mean(mean_p(mean_statistics(d, margin, rule).certifying, n) < rule.first_step_alpha) > 0.8


def test_the_fewest_units_are_those_of_the_formula() -> None:
    for recipes, questions, items in zip(RECIPES, (89, 109, 130, 150), (368, 437, 505, 574), strict=True):
        assert ratings(recipes).fewest(0.3) == questions == fewest_units(0.3, 9.0, 0.05 / recipes)
        assert soft(recipes).fewest(0.01) == items
    assert float(stdtrit(79, 0.95)) == pytest.approx(1.664, abs=1e-3)
