from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap as other_bootstrap

from evalkit.errors import EstimateError
from evalkit.statistics.clusters import bootstrap_mean_interval, cluster_wilson, clustered_mean, effective_clusters


def sample(seed=3, clusters=12, size=6):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(clusters), size)
    return rng.normal(size=clusters)[labels] + rng.normal(size=labels.size), labels


def test_the_check_of_the_protocol():
    values = [1, 0, 0, -1, -1, 0, 0, 0, 0, 1]
    labels = ["a", "a", "a", "b", "b", "b", "c", "c", "c", "c"]
    assert clustered_mean(values, labels, min_clusters=3).se == pytest.approx(0.3, abs=1e-12)


def test_it_agrees_with_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    values, labels = sample()
    fit = sm.OLS(values, np.ones(values.size)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    ours = clustered_mean(values, labels)
    # statsmodels adds the factor (n - 1)/(n - 1) = 1 for one regressor, so nothing else differs
    assert ours.se == pytest.approx(float(fit.bse[0]), rel=1e-12)
    interval = ours.interval(0.95)
    assert (interval.lower, interval.upper) == pytest.approx(tuple(fit.conf_int()[0]), rel=1e-10)
    assert ours.df == 11


def test_the_design_effect_compares_with_independent_units():
    values, labels = sample()
    ours = clustered_mean(values, labels)
    assert ours.naive_se == pytest.approx(values.std(ddof=1) / np.sqrt(values.size), rel=1e-12)
    assert ours.deff == pytest.approx((ours.se / ours.naive_se) ** 2, rel=1e-12)
    assert ours.deff > 1.0


@pytest.mark.parametrize(
    ("values", "labels", "minimum", "message"),
    [
        ([1.0, 0.0] * 9, list(range(9)) * 2, 10, "9 cluster"),
        ([1.0, 0.0], [1, 1], 1, "min_clusters"),
        ([1.0, -1.0, 1.0, -1.0], [1, 1, 2, 2], 2, "would be zero"),
        ([0.1] * 30, list(range(10)) * 3, 10, "would be zero"),
        ([1.0, 2.0, 3.0], [1, 2], 2, "clusters has shape"),
        ([1.0, 2.0], [1.0, float("nan")], 2, "NaN"),
        ([1.0, float("nan")], [1, 2], 2, "not finite"),
    ],
)
def test_standard_errors_that_mean_nothing_are_refused(values, labels, minimum, message):
    with pytest.raises(EstimateError, match=message):
        clustered_mean(values, labels, min_clusters=minimum)


@pytest.mark.parametrize(("method", "name"), [("basic", "basic"), ("percentile", "percentile"), ("bca", "BCa")])
def test_the_bootstrap_agrees_with_scipy(method, name):
    values = np.random.default_rng(8).exponential(size=60)
    theirs = other_bootstrap(
        (values,), np.mean, n_resamples=40_000, method=name, rng=np.random.default_rng(1), batch=2000
    ).confidence_interval
    ours = bootstrap_mean_interval(values, np.random.default_rng(2), method=method, resamples=40_000)
    assert (ours.lower, ours.upper) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_bootstrap_repeats_with_its_seed_and_singletons_are_units():
    values, _ = sample()
    first = bootstrap_mean_interval(values, np.random.default_rng(4), resamples=500)
    again = bootstrap_mean_interval(values, np.random.default_rng(4), resamples=500)
    single = bootstrap_mean_interval(values, np.random.default_rng(4), resamples=500, clusters=np.arange(values.size))
    assert first == again
    assert (single.lower, single.upper) == pytest.approx((first.lower, first.upper), rel=1e-12)


def test_whole_clusters_are_drawn():
    values, labels = sample(clusters=30)
    clustered = bootstrap_mean_interval(
        values, np.random.default_rng(4), clusters=labels, method="percentile", resamples=5000
    )
    expected = clustered_mean(values, labels).interval(0.95)
    assert clustered.upper - clustered.lower == pytest.approx(expected.upper - expected.lower, rel=0.12)


def test_many_items_need_no_square_of_memory():
    values = np.random.default_rng(0).integers(-1, 2, size=14_042)
    interval = bootstrap_mean_interval(values, np.random.default_rng(1), method="bca", resamples=200)
    assert interval.lower < values.mean() < interval.upper


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, 1.0, 1.0], {}, "nothing varies"),
        ([1.0, 2.0], {"clusters": [1, 1]}, "1 cluster"),
        ([1.0, -1.0, 1.0, -1.0], {"clusters": [1, 1, 2, 2]}, "nothing varies"),
        ([1.0, 2.0], {"method": "student"}, "allowed: basic"),
        ([1.0, 2.0], {"resamples": 10}, "resamples"),
    ],
)
def test_a_bootstrap_of_nothing_is_refused(values, options, message):
    with pytest.raises(EstimateError, match=message):
        bootstrap_mean_interval(values, np.random.default_rng(0), **options)


@pytest.mark.parametrize(
    "sizes",
    [[5] * 40, [1] * 20 + [6] * 20, [1] * 60 + [30] * 6, list(range(1, 41))],
    ids=["equal", "1 and 6", "a few large ones", "1 to 40"],
)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_share_by_cluster_covers_what_is_true_under_full_dependence(sizes, share):
    rng, sizes = np.random.default_rng(17), np.asarray(sizes)
    right = rng.random((4_000, sizes.size)) < share
    found = (right * sizes).sum(axis=1) / sizes.sum()
    cache = {value: cluster_wilson(value, sizes) for value in np.unique(found)}
    covered = np.mean([cache[value].lower <= share <= cache[value].upper for value in found])
    assert covered >= 0.93, covered
    if effective_clusters(sizes) < 0.5 * sizes.size:  # the number of clusters is not enough
        plain = {value: cluster_wilson(value, [1] * sizes.size) for value in np.unique(found)}
        assert np.mean([plain[value].lower <= share <= plain[value].upper for value in found]) < 0.92


@pytest.mark.parametrize(("sizes", "message"), [([4], "at least 2"), ([4, 0], "at least one trial")])
def test_a_share_of_one_cluster_has_no_interval(sizes, message):
    with pytest.raises(EstimateError, match=message):
        cluster_wilson(0.5, sizes)
