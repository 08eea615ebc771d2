"""The clustered score test: published worked examples, Tango's own test at both ends, statsmodels in between."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.errors import EstimateError
from evalkit.statistics.clustered_tango import (
    ClusteredPairs,
    clustered_tango_interval,
    clustered_tango_noninferiority,
    clustered_tango_z,
)
from evalkit.statistics.clusters import cluster_values, clustered_mean, excess_design_effect
from evalkit.statistics.paired_means import paired_t
from evalkit.statistics.tango import PairedTable, tango_interval, tango_noninferiority

# Both right, only the first, only the second, neither, for each cluster.
PSYCHIATRY = [
    (1, 0, 4, 2), (1, 1, 2, 2), (3, 1, 3, 0), (2, 1, 2, 1), (2, 0, 1, 1), (0, 3, 3, 0), (0, 3, 0, 2), (0, 3, 2, 3),
    (0, 1, 2, 1), (0, 0, 4, 3), (1, 0, 2, 0), (1, 1, 4, 0), (1, 0, 3, 3), (2, 0, 2, 2), (2, 0, 1, 2), (1, 0, 3, 0),
    (2, 0, 1, 3), (1, 0, 2, 2), (0, 3, 0, 1), (2, 1, 0, 0), (1, 1, 0, 3), (0, 2, 2, 0), (1, 0, 1, 2), (0, 0, 2, 0),
    (0, 0, 2, 1), (0, 0, 0, 2), (0, 0, 0, 2), (1, 0, 1, 1), (0, 0, 1, 0),
]  # fmt: skip
"""29 psychiatrists with 1 to 8 patients each: Donner and Petryshen 1989, Psychiatry Research 28:41."""

THYROIDS = [
    (0, 0, 2, 1), (2, 0, 1, 0), (3, 0, 0, 0), (1, 0, 0, 0), (2, 0, 1, 0), (4, 0, 0, 0), (3, 0, 0, 0), (2, 0, 0, 0),
    (1, 1, 0, 0), (1, 0, 0, 0), (2, 0, 0, 1), (2, 0, 0, 0), (3, 0, 0, 0), (2, 0, 0, 0), (0, 0, 2, 0), (2, 0, 0, 1),
    (2, 0, 0, 1), (2, 0, 1, 0), (2, 0, 0, 0), (1, 0, 0, 0), (2, 0, 0, 0),
]  # fmt: skip
"""PET and SPECT on the glands of 21 patients: Obuchowski 1998, Statistics in Medicine 17:1495."""

PUBLISHED = {
    "psychiatry": (PSYCHIATRY, {"obuchowski": 7.19, "durkalski": 7.542, "yang": 8.43}),
    "thyroids": (THYROIDS, {"obuchowski": 2.86, "durkalski": 2.32, "yang": 3.13}),
}
"""Chi-squared values printed by Durkalski et al. 2003 (Statistics in Medicine 22:2417) and Yang et al. 2010
(Biometrical Journal 52:638), as the R package clust.bin.pair 0.1.2 quotes and asserts them; the papers were not opened.
Its datasets are these tables."""


def columns(rows):
    counts = np.array(rows, dtype=float)
    return counts[:, 1], counts[:, 2], counts.sum(axis=1)


def durkalski(b, c, n):
    weighted = (b - c) / n
    return weighted.sum() ** 2 / (weighted**2).sum()


def yang(b, c, n):
    d, k = b - c, b.size
    pooled = 0.5 * ((d - n * d.sum() / n.sum()) ** 2 + d**2).sum()
    return (k - 1) / k * d.sum() ** 2 / pooled


def obuchowski(b, c, _n):
    d, k = b - c, b.size
    return (k - 1) / k * d.sum() ** 2 / (d**2).sum()


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_a_margin_of_nothing_it_is_obuchowskis_test_and_that_is_as_published(name):
    rows, published = PUBLISHED[name]
    b, c, n = columns(rows)
    tests = {"obuchowski": obuchowski, "durkalski": durkalski, "yang": yang}
    for method, value in published.items():
        assert tests[method](b, c, n) == pytest.approx(value, abs=0.005), method
    pairs = ClusteredPairs(losses=b, gains=c, sizes=n)
    assert pairs.design_effect(0.0) > 1.0
    scaled = (b.size - 1) / b.size * clustered_tango_z(pairs, 0.0) ** 2
    assert scaled == pytest.approx(obuchowski(b, c, n), rel=1e-12)


def random_pairs(seed, sizes, rho=0.2):
    rng = np.random.default_rng(seed)
    shared, flips = rng.random(len(sizes)) < 0.4, rng.choice([-1, 0, 1], p=[rho / 2, 1 - rho, rho / 2], size=sum(sizes))
    codes = np.repeat(np.arange(len(sizes)), sizes)
    flips = np.where(shared[codes], flips[np.r_[0, np.cumsum(sizes)[:-1]]][codes], flips)
    return (
        flips,
        codes,
        ClusteredPairs.from_outcomes(
            (flips <= 0) * 1.0 * (flips != 1), np.where(flips == 1, 1.0, (flips == 0) * 1.0), codes
        ),
    )


@pytest.mark.parametrize("margin", [0.005, 0.03, 0.2])
def test_clusters_of_one_item_are_tangos_test_to_the_last_bit(margin):
    flips, _, _ = random_pairs(3, [1] * 500)
    pairs = ClusteredPairs(losses=flips < 0, gains=flips > 0, sizes=np.ones(500))
    table = PairedTable(
        n11=500 - int((flips != 0).sum()), n10=int((flips < 0).sum()), n01=int((flips > 0).sum()), n00=0
    )
    assert clustered_tango_noninferiority(pairs, margin) == tango_noninferiority(table, margin)
    assert clustered_tango_interval(pairs, 0.95) == tango_interval(table, 0.95)


@pytest.mark.parametrize("times", [2, 4, 14])
def test_questions_that_are_put_again_and_flip_as_one_count_as_one(times):
    flips, _, _ = random_pairs(4, [1] * 600)
    once = PairedTable(n11=600 - int((flips != 0).sum()), n10=int((flips < 0).sum()), n01=int((flips > 0).sum()), n00=0)
    again = ClusteredPairs(losses=times * (flips < 0), gains=times * (flips > 0), sizes=np.full(600, times))
    for margin in (0.01, 0.05):
        assert clustered_tango_z(again, -margin) == pytest.approx(tango_noninferiority(once, margin).z, rel=1e-9)
    single, many = tango_interval(once, 0.95), clustered_tango_interval(again, 0.95)
    assert many.upper == pytest.approx(single.upper, abs=1e-6)
    assert single.lower - 0.004 < many.lower <= single.lower + 1e-6  # the correction for skewness only lowers it


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_cluster_robust_errors_of_statsmodels(seed):
    sm = pytest.importorskip("statsmodels.api")
    sizes = np.random.default_rng(seed).integers(1, 9, size=300).tolist()
    flips, codes, pairs = random_pairs(seed, sizes)
    fit = sm.OLS(flips, np.ones(flips.size)).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=False)
    observed = flips.mean()
    flat = ((flips - observed) ** 2).sum() / flips.size**2
    ours = np.sqrt(flat * pairs.design_effect() * 300 / 299)
    assert ours == pytest.approx(float(fit.bse[0]), rel=1e-9)
    u = cluster_values(pairs.gains - pairs.losses, pairs.sizes)
    assert paired_t(u).mean == pytest.approx(observed, abs=1e-12)
    assert paired_t(u).se == pytest.approx(clustered_mean(flips, codes).se, rel=1e-9)
    score = clustered_tango_interval(pairs, 0.95)
    wald = fit.conf_int()[0]
    assert (score.lower, score.upper) == pytest.approx(tuple(wald), abs=0.004)


@pytest.mark.parametrize("seed", range(6))
def test_the_interval_holds_what_the_tests_do_not_refute(seed):
    _, _, pairs = random_pairs(seed, np.random.default_rng(seed).integers(1, 12, size=120).tolist(), rho=0.05)
    interval = clustered_tango_interval(pairs, 0.95)
    for step in (1e-4, -1e-4):
        inside = interval.lower + step
        if -1 < inside < 0:
            assert (clustered_tango_noninferiority(pairs, -inside).p_certify < 0.025) == (step < 0)
        above = interval.upper + step
        assert (clustered_tango_z(pairs, above) < -1.959963984540054) == (step > 0)


def test_without_a_flip_clusters_count_as_if_they_flipped_as_one():
    pairs = ClusteredPairs(losses=np.zeros(400), gains=np.zeros(400), sizes=np.full(400, 11))
    assert clustered_tango_z(pairs, -0.01) == pytest.approx(
        tango_noninferiority(PairedTable(n11=400, n10=0, n01=0, n00=0), 0.01).z
    )


def test_one_giant_cluster_tells_as_little_as_it_is():
    sizes = np.r_[5_000, np.ones(500)]
    flips = np.random.default_rng(1).choice([-1, 0, 1], p=[0.02, 0.96, 0.02], size=501)
    pairs = ClusteredPairs(losses=(flips < 0) * np.r_[100, np.ones(500)], gains=(flips > 0) * 1.0, sizes=sizes)
    assert pairs.effective < 2
    alone = ClusteredPairs(losses=[3], gains=[1], sizes=[900])
    assert clustered_tango_noninferiority(alone, 0.05).p_certify == 1.0


def test_groups_that_explain_nothing_have_an_excess_near_one_and_others_are_found():
    rng = np.random.default_rng(2)
    p = []
    for _ in range(400):
        flips = rng.choice([-1, 0, 1], p=[0.015, 0.97, 0.015], size=3_000).astype(float)
        p.append(excess_design_effect(flips - flips.mean(), np.arange(3_000), rng.integers(0, 750, size=3_000)).p)
    assert np.mean(np.array(p) < 0.01) <= 0.025
    flips, codes, _ = random_pairs(5, [4] * 750, rho=0.05)
    found = excess_design_effect(flips - flips.mean(), np.arange(3_000), codes)
    assert (found.groups, found.p < 1e-6) == (750, True)
    assert found.excess == pytest.approx(clustered_mean(flips, codes).deff * 749 / 750, rel=0.01)
    crossed = excess_design_effect(flips - flips.mean(), codes, np.tile(np.arange(4), 750))
    assert crossed.p > 0.01


@pytest.mark.parametrize("bad", [{"losses": [2.0]}, {"gains": [-1.0]}, {"sizes": [1.0, 2.0]}])
def test_counts_that_cannot_be_are_refused(bad):
    with pytest.raises(EstimateError):
        ClusteredPairs(**{"losses": [0.0], "gains": [0.0], "sizes": [1.0], **bad})
