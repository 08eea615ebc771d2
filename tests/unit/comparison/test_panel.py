"""Several judges: each by itself first, then all, then all but one; where noise comes from; what missing could do."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from evalkit.comparison import compare
from evalkit.comparison.conversations import variance_parts
from evalkit.errors import EstimateError
from evalkit.records import text_digest
from evalkit.statistics.agreement import krippendorff_alpha
from evalkit.statistics.clusters import cluster_wilson
from evalkit.statistics.paired_means import fitted_line
from evalkit.statistics.proportions import wilson_interval

TASK = "mt-bench"
NAN = np.nan


def panel(made: ModuleType, name: str, *scores: np.ndarray) -> Any:
    """A run judged by one judge for each array of scores (questions, turns, repeats)."""
    run = made.make_run(name, scores=scores[0])
    judges, judged = dict(run.manifest.judges), dict(run.judgments)
    for at, more in enumerate(scores[1:], start=2):
        judging = f"{TASK}@judge-{at}"
        base = made.judge_run(more.size, more.shape[2])
        judges[judging] = replace(
            base, identity=made.identity("none", model=f"judge {at}"), profile_sha256=text_digest(judging)
        )
        judged[judging] = made.judgments(run.records[TASK], more)
    return replace(run, manifest=replace(run.manifest, judges=judges), judgments=judged)


def test_each_judge_is_averaged_by_itself_before_all_are(made: ModuleType) -> None:
    rng = np.random.default_rng(0)
    left = [rng.integers(3, 8, size=(20, 2, repeats)).astype(float) for repeats in (1, 3)]
    right = [values + shift for values, shift in zip(left, (1.0, -0.4), strict=True)]
    right[0] += rng.normal(0, 0.3, right[0].shape)
    comparison = compare(panel(made, "baseline", *left), panel(made, "candidate", *right), TASK)
    rating = comparison.rating
    assert comparison.faults == ()
    assert rating is not None
    assert rating.panel is not None
    by_judge = [(b - a).mean(axis=(1, 2)) for a, b in zip(left, right, strict=True)]
    assert rating.mean.difference == pytest.approx((by_judge[0].mean() + by_judge[1].mean()) / 2)
    assert [row.difference for row in rating.panel.judges] == pytest.approx([d.mean() for d in by_judge])
    assert [row.difference for row in rating.panel.without] == pytest.approx([d.mean() for d in by_judge[::-1]])
    assert rating.mean.sd == pytest.approx(((by_judge[0] + by_judge[1]) / 2).std(ddof=1))
    assert comparison.coverage is not None
    assert comparison.coverage.candidate_judgments is not None
    assert comparison.coverage.candidate_judgments.planned == 40 + 120


def test_a_judge_counts_only_where_it_judged_both_sides(made: ModuleType) -> None:
    left = [np.full((10, 2, 1), 5.0), np.full((10, 2, 1), 9.0)]
    right = [np.full((10, 2, 1), 5.0) + np.arange(10)[:, None, None] / 10, np.full((10, 2, 1), 9.0)]
    right[1][:5] = NAN  # the severe judge alone is left: its lower scores must not look like a loss
    rating = compare(panel(made, "baseline", *left), panel(made, "candidate", *right), TASK).rating
    assert rating is not None
    expected = [at / 10 if at < 5 else at / 20 for at in range(10)]
    assert sorted(q.difference for q in rating.questions) == pytest.approx(sorted(expected))
    assert rating.bounds is not None
    assert rating.bounds.missing > 0
    low, high = rating.bounds.difference
    assert low < rating.mean.difference < high


def test_a_panel_on_one_side_only_makes_the_runs_incomparable(made: ModuleType) -> None:
    scores = np.random.default_rng(1).integers(3, 8, size=(12, 2, 1)).astype(float)
    comparison = compare(panel(made, "baseline", scores), panel(made, "candidate", scores, scores), TASK)
    assert {found.name for found in comparison.blocking} == {"judge@judge-2"}
    assert comparison.rating is not None
    assert comparison.rating.panel is None


def test_bounds_are_what_the_ends_of_the_scale_would_give(made: ModuleType) -> None:
    left, right = np.full((10, 2, 1), 6.0), np.full((10, 2, 1), 6.0)
    right[3, 0, 0] = left[5, 1, 0] = NAN
    right[:, 1, 0] += np.arange(10) / 10
    rating = compare(made.make_run("baseline", scores=left), made.make_run("candidate", scores=right), TASK).rating
    assert rating is not None
    assert rating.bounds is not None
    assert rating.bounds.missing == 2
    base_low, base_high = (118 - 4 + value - 2 for value in (1, 10))
    assert rating.bounds.baseline == pytest.approx((((19 * 6) + 1) / 20, ((19 * 6) + 10) / 20))
    moved = 4.5
    assert rating.bounds.difference == pytest.approx(
        ((19 * 6 + 1 + moved - 19 * 6 - 10) / 20, (19 * 6 + 10 + moved - 19 * 6 - 1) / 20)
    )
    assert base_low < base_high


def test_what_the_rule_does_is_shown_with_and_without_it(made: ModuleType) -> None:
    left, right = np.full((10, 2, 1), 6.0), np.full((10, 2, 1), 6.0)
    right[0, 0, 0] = 1.0
    left[:, 1, 0] += np.arange(10) / 10
    baseline, candidate = made.make_run("baseline", scores=left), made.make_run("candidate", scores=right)
    judged = list(candidate.judgments[TASK])
    judged[0] = replace(judged[0], status="rule", details={"rule": "empty"})
    rating = compare(baseline, replace(candidate, judgments={TASK: tuple(judged)}), TASK).rating
    assert rating is not None
    assert rating.rule is not None
    assert (rating.rule.baseline, rating.rule.candidate) == (0, 1)
    assert rating.mean.difference == pytest.approx((-5 - 4.5) / 20)
    expected = np.mean([-np.arange(10)[at] / 20 if at else 0.0 for at in range(10)])
    assert rating.rule.without == pytest.approx(expected)


def test_the_variance_is_split_as_it_was_made() -> None:
    rng = np.random.default_rng(7)
    tau, sg, sj, turns, generations, repeats, n = 0.9, 0.8, 0.6, 2, 3, 2, 60_000
    noise = sum(
        sign
        * (
            rng.normal(0, sg, (n, generations)).mean(axis=1)
            + rng.normal(0, sj, (n, turns * generations * repeats)).mean(axis=1)
        )
        for sign in (1, -1)
    )
    d = rng.normal(0, tau, n) + noise
    parts = variance_parts(
        float(d.std(ddof=1)), turns=turns, generations=generations, repeats=repeats, generation_sd=sg, judgment_sd=sj
    )
    assert parts is not None
    total = tau**2 + 2 * sg**2 / generations + 2 * sj**2 / (turns * generations * repeats)
    assert parts.question == pytest.approx(tau**2 / total, abs=0.02)
    assert parts.generation == pytest.approx(2 * sg**2 / generations / total, abs=0.02)
    assert parts.judge == pytest.approx(2 * sj**2 / (turns * generations * repeats) / total, abs=0.02)
    assert parts.advice == "generations"
    doubled = tau**2 + sg**2 / generations + sj**2 / (turns * generations * repeats)
    assert parts.factors["generations"] == pytest.approx(np.sqrt(doubled / total), abs=0.01)
    assert parts.factors["questions"] == pytest.approx(np.sqrt(0.5))


def test_what_is_unknown_is_not_advised_and_a_noisy_part_takes_at_most_all() -> None:
    alone = variance_parts(1.0, turns=2, generations=1, repeats=1, generation_sd=None, judgment_sd=None)
    assert alone is not None
    assert (alone.question, alone.generation, alone.judge, alone.advice) == (1.0, None, None, None)
    loud = variance_parts(0.1, turns=1, generations=1, repeats=2, generation_sd=5.0, judgment_sd=5.0)
    assert loud is not None
    assert (loud.judge, loud.generation, loud.question) == (1.0, 0.0, 0.0)
    assert variance_parts(None, turns=2, generations=1, repeats=1, generation_sd=None, judgment_sd=1.0) is None


def test_repeats_give_the_judges_share(made: ModuleType) -> None:
    left, right = made.chat_scores(40, shift=0.0, seed=4, repeats=3)
    rating = compare(made.make_run("baseline", scores=left), made.make_run("candidate", scores=right), TASK).rating
    assert rating is not None
    assert rating.variance is not None
    assert rating.variance.judge is not None
    assert rating.variance.advice == "judgments"


def test_alpha_is_one_for_equal_raters_and_near_zero_for_shuffled_ones() -> None:
    ratings = np.random.default_rng(2).integers(1, 11, size=400).astype(float)
    assert krippendorff_alpha(np.stack([ratings, ratings], axis=1)) == pytest.approx(1.0)
    shuffled = np.random.default_rng(3).permutation(ratings)
    assert abs(krippendorff_alpha(np.stack([ratings, shuffled], axis=1))) < 0.15
    with pytest.raises(EstimateError, match="all ratings are"):
        krippendorff_alpha(np.full((5, 2), 3.0))
    with pytest.raises(EstimateError, match="at least 2 are needed"):
        krippendorff_alpha([[1.0, NAN], [NAN, 2.0]])


@pytest.mark.parametrize(("k", "n"), [(0, 10), (7, 10), (30, 30)])
def test_a_share_by_cluster_is_wilsons_with_clusters_for_trials(k: int, n: int) -> None:
    found, plain = cluster_wilson(k / n, [1] * n), wilson_interval(k, n)
    assert (found.lower, found.upper) == pytest.approx((plain.lower, plain.upper))


def test_a_line_needs_three_points_and_some_variation() -> None:
    with pytest.raises(EstimateError, match="at least 3"):
        fitted_line([0.0, 1.0], [0.0, 1.0])
    with pytest.raises(EstimateError, match="needs different ones"):
        fitted_line([1.0, 1.0, 1.0], [0.0, 1.0, 2.0])
    with pytest.raises(EstimateError, match="lie on the line"):
        fitted_line([0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
