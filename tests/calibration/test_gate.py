"""How often does the whole gate certify what it must not, and what it should? (C6, C7, C12)

The simulations go through the functions that `decide` uses: states, one p-value for each recipe, Holm, outcomes.
Guards are left out: they only demote.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, stdtr, stdtrit

from evalkit.comparison import compare_endpoints
from evalkit.statistics.paired_means import t_statistics
from evalkit.statistics.power import exact_power
from evalkit.statistics.tango import tango_scores
from evalkit.verdict import Evidence, Outcome, Verdict, decide
from evalkit.verdict.outcome import OUTCOMES, endpoint_states, holm_rejections, outcomes, recipe_p
from evalkit.verdict.words import WEAKER

ITEMS, QUESTIONS, DRAWS = 14_042, 80, 20_000
MMLU_MARGIN, MT_MARGIN = 0.01, 0.3
ALPHAS, FAMILY = (0.025, 0.05), 0.05
Z, T = 1.959963984540054, float(stdtrit(QUESTIONS - 1, 0.95))
TIGHT = np.cumsum([0.02, 0.06, 0.17, 0.50, 0.17, 0.06])
CERTIFIED = OUTCOMES.index(Outcome.CERTIFIED)


def accuracy_scores(rng: np.random.Generator, shape: tuple[int, ...], *, rho: float, difference: float) -> np.ndarray:
    """z against the margin of simulated MMLU runs."""
    p10, p01 = (rho - difference) / 2, (rho + difference) / 2
    counts = rng.multinomial(ITEMS, [p10, p01, 1 - rho], size=shape)
    return tango_scores(counts[..., 0], counts[..., 1], ITEMS, -MMLU_MARGIN)


def rating_scores(rng: np.random.Generator, shape: tuple[int, ...], *, loses: bool) -> np.ndarray:
    """t against the margin of simulated MT-Bench runs: tight turns, with 0.3 lost on average if it `loses`."""
    d = np.zeros((*shape, QUESTIONS), dtype=np.float32)
    for _ in range(2):
        d += np.searchsorted(TIGHT, rng.random(d.shape, dtype=np.float32)).astype(np.float32) - 3
        if loses:
            d -= rng.random(d.shape, dtype=np.float32) < 0.3
    return t_statistics(d / 2, MT_MARGIN)


def certified(z: np.ndarray, t: np.ndarray, *, holm: bool = True) -> np.ndarray:
    """Whether each recipe is certified; statistics of shape (releases, recipes)."""
    p = recipe_p(np.stack([ndtr(-z), stdtr(QUESTIONS - 1, -t)], axis=-1), ALPHAS, FAMILY)
    rejected = holm_rejections(p, FAMILY) if holm else p < FAMILY
    states = np.stack([endpoint_states(z, z, Z), endpoint_states(t, t, T)], axis=-1)
    return outcomes(states, rejected, False, False) == CERTIFIED


# ---- C6: one recipe


@pytest.mark.parametrize("rho", [0.01, 0.03, 0.06])
def test_c6_accuracy_at_the_margin_is_rarely_certified(rho: float) -> None:
    rng = np.random.default_rng(606)
    z = accuracy_scores(rng, (DRAWS, 1), rho=rho, difference=-MMLU_MARGIN)
    share = certified(z, rating_scores(rng, (DRAWS, 1), loses=False)).mean()
    assert share == pytest.approx(0.023, abs=0.0045)
    assert share <= 0.0295


def test_c6_ratings_at_the_margin_are_rarely_certified() -> None:
    rng = np.random.default_rng(616)
    z = accuracy_scores(rng, (DRAWS, 1), rho=0.03, difference=0.0)
    share = certified(z, rating_scores(rng, (DRAWS, 1), loses=True)).mean()
    assert share == pytest.approx(0.051, abs=0.0065)
    assert share <= 0.0575


def test_c6_both_at_the_margin_are_almost_never_certified() -> None:
    rng = np.random.default_rng(626)
    z = accuracy_scores(rng, (DRAWS, 1), rho=0.03, difference=-MMLU_MARGIN)
    assert certified(z, rating_scores(rng, (DRAWS, 1), loses=True)).mean() <= 0.004


# ---- C7: four recipes


@pytest.fixture(scope="module")
def losing_ratings() -> np.ndarray:
    return rating_scores(np.random.default_rng(707), (DRAWS, 4), loses=True)


@pytest.fixture(scope="module")
def equal_ratings() -> np.ndarray:
    return rating_scores(np.random.default_rng(717), (DRAWS, 4), loses=False)


def accuracies(difference: float) -> np.ndarray:
    return accuracy_scores(np.random.default_rng(727), (DRAWS, 4), rho=0.03, difference=difference)


def test_c7_no_recipe_of_a_release_is_falsely_certified_more_often_than_one(losing_ratings: np.ndarray) -> None:
    share = certified(accuracies(0.0), losing_ratings).any(axis=1).mean()
    assert share == pytest.approx(0.050, abs=0.0065)
    assert share <= 0.058


def test_c7_nor_is_one_whose_accuracy_is_at_the_margin(equal_ratings: np.ndarray) -> None:
    share = certified(accuracies(-MMLU_MARGIN), equal_ratings).any(axis=1).mean()
    assert share == pytest.approx(0.022, abs=0.0045)
    assert share <= 0.030


def test_c7_without_a_correction_false_certificates_add_up(losing_ratings: np.ndarray) -> None:
    share = certified(accuracies(0.0), losing_ratings, holm=False).any(axis=1).mean()
    assert share == pytest.approx(0.184, abs=0.011)
    assert share > 0.15


def test_c7_equal_recipes_are_certified(equal_ratings: np.ndarray) -> None:
    assert certified(accuracies(0.0), equal_ratings).mean() == pytest.approx(0.958, abs=0.01)


# ---- the accuracy endpoint alone


@pytest.mark.parametrize("n", [200, 1000, 14_042])
@pytest.mark.parametrize("rho", [0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
def test_a_loss_of_the_margin_passes_at_most_three_times_in_a_hundred(n: int, rho: float) -> None:
    rng = np.random.default_rng(n)
    for margin in (0.005, 0.01, 0.02):
        if margin > rho:
            continue
        p10, p01 = (rho + margin) / 2, (rho - margin) / 2
        counts = rng.multinomial(n, [p10, p01, 1 - rho], size=DRAWS)
        z = tango_scores(counts[:, 0], counts[:, 1], n, -margin)
        assert np.mean(endpoint_states(z, z, Z) == 1) <= 0.03
        assert exact_power(n, rho, margin, true_difference=-margin) <= 0.03


@pytest.mark.parametrize(("rho", "margin", "wanted"), [(0.03, 0.005, 0.90), (0.06, 0.01, 0.99)])
def test_an_equal_recipe_passes_on_all_of_mmlu(rho: float, margin: float, wanted: float) -> None:
    counts = np.random.default_rng(14).multinomial(ITEMS, [rho / 2, rho / 2, 1 - rho], size=DRAWS)
    z = tango_scores(counts[:, 0], counts[:, 1], ITEMS, -margin)
    assert np.mean(endpoint_states(z, z, Z) == 1) >= wanted
    assert exact_power(ITEMS, rho, margin) >= wanted


# ---- C12: end to end, from records to verdicts

FILE = Path(__file__).resolve().parents[1] / "synthetic_runs.py"


@pytest.fixture(scope="module")
def made() -> ModuleType:
    """The factory of synthetic runs."""
    return importlib.import_module("synthetic_runs")


class Laboratory:
    """A full evaluation, 14,042 items and 80 questions, under the release policy with a planning SD of 1."""

    def __init__(self, made: ModuleType) -> None:
        self.made = made
        self.policy = made.policy(mt_bench={"planning_sd": 1.0})
        self.rng = np.random.default_rng(1212)
        self.marks = (self.rng.random(ITEMS) < 0.86).astype(float)
        self.scores = self.rng.integers(5, 8, size=(QUESTIONS, 2, 3)).astype(float)
        self.baseline = made.make_run("baseline", marks=self.marks, scores=self.scores, seed=1)
        self.rerun = self.compare(self.run("baseline-rerun", recipe="baseline", rho=0.005))
        self.broken = self.compare(self.run("broken", points=-3.0, rating=-1.0))

    def run(
        self, name: str = "candidate", *, rho: float = 0.03, points: float = 0.0, rating: float = 0.0, **how: Any
    ) -> Any:
        """A run whose losses and gains are drawn, and whose question scores move by `rating` on average."""
        p_loss, p_gain = (rho - points / 100) / 2 / 0.86, (rho + points / 100) / 2 / 0.14
        flips = self.rng.random(ITEMS) < np.where(self.marks == 1.0, p_loss, p_gain)
        moved = np.clip(self.scores + rating + self.rng.normal(0.0, 0.5, size=(QUESTIONS, 1, 1)), 1.0, 10.0)
        given = {"marks": np.where(flips, 1.0 - self.marks, self.marks), "scores": moved, "seed": sum(name.encode())}
        return self.made.make_run(name, **{"policy_sha256": self.policy.sha256, **given, **how})

    def compare(self, run: Any) -> Any:
        return compare_endpoints(self.policy, self.baseline, run)

    def verdict(self, run: Any, policy: Any = None) -> Verdict:
        evidence = Evidence(
            candidates={"candidate": self.compare(run)}, rerun=self.rerun, controls={"broken": self.broken}
        )
        return decide(policy or self.policy, evidence).verdicts[0]


@pytest.fixture(scope="module")
def laboratory(made: ModuleType) -> Laboratory:
    return Laboratory(made)


def codes(verdict: Verdict) -> set[str]:
    return {reason.code for reason in verdict.reasons}


def test_c12_the_baseline_against_itself_is_certified(laboratory: Laboratory) -> None:
    verdict = laboratory.verdict(laboratory.run(rho=0.005))
    assert (verdict.outcome, verdict.claim, verdict.reasons) == (Outcome.CERTIFIED, f"near-lossless {WEAKER}", ())


def test_c12_a_loss_of_three_points_is_rejected(laboratory: Laboratory) -> None:
    verdict = laboratory.verdict(laboratory.run(rho=0.06, points=-3.0, rating=-1.0))
    assert (verdict.outcome, codes(verdict)) == (Outcome.REJECTED, {"endpoint-fail"})
    assert {reason.endpoint for reason in verdict.reasons} == {"mmlu", "mt_bench"}


def test_c12_200_of_14042_items_are_invalid(laboratory: Laboratory) -> None:
    run = laboratory.run()
    verdict = laboratory.verdict(replace(run, records={**run.records, "mmlu": run.records["mmlu"][:200]}))
    assert verdict.outcome is Outcome.INVALID
    assert "coverage" in codes(verdict)


def test_c12_200_items_planned_as_such_are_invalid_too(laboratory: Laboratory) -> None:
    verdict = laboratory.verdict(laboratory.run(marks=laboratory.marks[:200]))
    assert verdict.outcome is Outcome.INVALID
    assert {"coverage", "not-comparable"} <= codes(verdict)


def test_c12_one_number_that_is_not_finite_is_invalid(laboratory: Laboratory) -> None:
    run = laboratory.run()
    first, *others = run.records["mmlu"]
    broken = replace(first, status="failed", failure="non-finite: log-probability is nan", reply=None, marks={})
    verdict = laboratory.verdict(replace(run, records={**run.records, "mmlu": (broken, *others)}))
    assert (verdict.outcome, codes(verdict)) == (Outcome.INVALID, {"non-finite"})


def test_c12_a_policy_edited_after_the_start_is_invalid(laboratory: Laboratory) -> None:
    run = laboratory.run()
    edited = laboratory.made.policy(mt_bench={"planning_sd": 1.0, "margin": 0.31})
    assert laboratory.verdict(run).outcome is Outcome.CERTIFIED
    verdict = laboratory.verdict(run, edited)
    assert (verdict.outcome, codes(verdict)) == (Outcome.INVALID, {"policy-changed"})
