"""False PASS at the margin when items come in clusters, with a cluster key and, stopped, without one.

Every decision goes through the functions that `decide` uses: the clustered score test, the states of the gate, the
guard on the design effect and the reasons for repeated items.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from evalkit.comparison.proportions import compare_proportions
from evalkit.comparison.units import unit_codes
from evalkit.records import ItemFacts
from evalkit.statistics.clustered_tango import ClusteredPairs, clustered_tango_noninferiority
from evalkit.statistics.clusters import excess_design_effect
from evalkit.statistics.tango import tango_scores
from evalkit.verdict.checks import OWN_REPEATS
from evalkit.verdict.guards import DESIGN_EFFECT_MAX, DESIGN_EFFECT_P
from evalkit.verdict.outcome import endpoint_states

CRITICAL = -float(ndtri(0.025))
RHO = 0.03


def flips(rng, clusters, size, *, loss, rho, correlation, collapse=0.0):
    """Differences -1, 0, 1 of shape (clusters, size), mean -loss; a pair of a cluster has this correlation of flips.

    `collapse`: share of clusters that lose every item, in place of that much of the loss.
    """
    rest = loss - collapse
    chances = [(rho + rest) / 2, 1 - rho, (rho - rest) / 2]
    own = rng.choice([-1, 0, 1], p=chances, size=(clusters, size))
    shared = rng.choice([-1, 0, 1], p=chances, size=(clusters, 1))
    made = np.where(rng.random((clusters, size)) < np.sqrt(correlation), shared, own)
    return np.where(rng.random((clusters, 1)) < collapse, -1, made)


def pairs_of(d):
    return ClusteredPairs(losses=(d < 0).sum(axis=1), gains=(d > 0).sum(axis=1), sizes=np.full(d.shape[0], d.shape[1]))


def shares(clusters, size, margin, repeats, seed=1, **how):
    """Shares of PASS and FAIL by cluster, and of PASS with every item for itself."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(repeats):
        d = flips(rng, clusters, size, loss=margin, rho=how.get("rho", RHO), correlation=how.get("correlation", 1.0),
                  collapse=how.get("collapse", 0.0))  # fmt: skip
        test = clustered_tango_noninferiority(pairs_of(d), margin)
        state = int(endpoint_states(min(test.z, -float(ndtri(test.p_certify))), test.z, CRITICAL))
        found.append((state == 1, state == -1, tango_scores((d < 0).sum(), (d > 0).sum(), d.size, -margin) > CRITICAL))
    return np.mean(found, axis=0)


@pytest.mark.parametrize(
    ("clusters", "size", "margin", "how", "plain_exceeds"),
    [
        (7_021, 2, 0.01, {}, 0.05),
        (3_510, 4, 0.01, {}, 0.12),
        (1_003, 14, 0.01, {}, 0.25),
        (3_500, 4, 0.01, {"correlation": 0.09}, 0.028),
        (3_500, 4, 0.01, {"correlation": 0.25}, 0.05),
        (250, 11, 0.02, {"correlation": 0.09, "rho": 0.06}, 0.05),
        (250, 11, 0.02, {"correlation": 0.25, "rho": 0.06}, 0.10),
        (400, 11, 0.01, {"correlation": 0.25}, 0.10),
        (800, 4, 0.01, {"correlation": 0.0, "collapse": 0.01, "rho": 0.02}, 0.06),
        (400, 11, 0.01, {"correlation": 0.0, "collapse": 0.01, "rho": 0.02}, 0.12),
    ],
)
def test_false_pass_at_the_margin_with_a_cluster_key(clusters, size, margin, how, plain_exceeds):
    repeats = max(1_000, min(4_000, 9_000_000 // (clusters * size)))
    passed, failed, plain = shares(clusters, size, margin, repeats, **how)
    noise = 2.5 * np.sqrt(0.025 * 0.975 / repeats)
    assert passed <= 0.025 + noise, passed  # 0.025 is nominal; noise is that of the simulation
    assert failed <= 0.04 + noise, failed
    assert plain > plain_exceeds, plain  # the same data, every item for itself


def test_unequal_clusters_hold_the_level_too():
    rng, passes = np.random.default_rng(5), []
    sizes = np.r_[np.ones(900, dtype=int), np.full(200, 6), np.full(20, 25)]
    codes = np.repeat(np.arange(sizes.size), sizes)
    for _ in range(2_000):
        shared = rng.choice([-1, 0, 1], p=[0.035, 0.95, 0.015], size=sizes.size)[codes]
        d = np.where(
            rng.random(codes.size) < 0.6, shared, rng.choice([-1, 0, 1], p=[0.035, 0.95, 0.015], size=codes.size)
        )
        pairs = ClusteredPairs.from_outcomes(np.where(d < 0, 1.0, 0.0), np.where(d > 0, 1.0, 0.0), codes)
        passes.append(clustered_tango_noninferiority(pairs, 0.02).p_certify < 0.025)
    assert np.mean(passes) <= 0.025 + 2.5 * np.sqrt(0.025 * 0.975 / 2_000)


def compared(d, facts):
    """The comparison of differences of shape (clusters, size) whose items are known by `facts(cluster, place)`."""
    keys = [("all", f"{c}.{i}", 0) for c in range(d.shape[0]) for i in range(d.shape[1])]
    known = {f"t/all/{c}.{i}/0": facts(c, i) for c in range(d.shape[0]) for i in range(d.shape[1])}
    flat = d.ravel()
    left, right = np.where(flat == 1, 0.0, 1.0), np.where(flat == -1, 0.0, 1.0)
    codes = unit_codes("t", keys, 0, known)
    return compare_proportions(left, right, ["all"] * flat.size, 0, margin=0.01, subjects_q=0.1, seed=1, codes=codes)


@pytest.mark.parametrize("correlation", [0.09, 0.25])
@pytest.mark.parametrize(("clusters", "size"), [(250, 11), (3_500, 4)])
def test_without_a_cluster_key_clusters_are_found(clusters, size, correlation):
    rng, stopped = np.random.default_rng(7), 0
    codes = np.repeat(np.arange(clusters), size)
    for _ in range(60):
        d = flips(rng, clusters, size, loss=0.01, rho=RHO, correlation=correlation).ravel().astype(float)
        found = excess_design_effect(d - d.mean(), np.arange(d.size), codes)
        stopped += found.excess > DESIGN_EFFECT_MAX and 5 * found.p < DESIGN_EFFECT_P
    assert stopped >= 50


def test_the_comparison_itself_finds_clusters_and_repeats_and_leaves_independent_items_alone():
    rng = np.random.default_rng(8)
    d = flips(rng, 250, 11, loss=0.0, rho=RHO, correlation=0.25)
    units = compared(d, lambda c, i: ItemFacts(content=f"{c} in {i}", labels={"row": str(c), "language": str(i)})).units
    worst = units.groupings[0]
    assert (worst.field, worst.groups, units.contents) == ("row", 250, 2_750)
    assert worst.design_effect > DESIGN_EFFECT_MAX
    assert worst.p * worst.looked_at < DESIGN_EFFECT_P
    again = compared(d, lambda c, _: ItemFacts(content=str(c), labels={})).units
    assert (again.contents, again.clusters, again.effective) == (250, 250, pytest.approx(250))
    assert again.repeated_share > OWN_REPEATS
    alone = flips(rng, 250, 11, loss=0.0, rho=RHO, correlation=0.0)
    calm = compared(alone, lambda c, i: ItemFacts(content=f"{c} in {i}", labels={"row": str(c)})).units
    assert all(
        one.design_effect <= DESIGN_EFFECT_MAX or one.p * one.looked_at >= DESIGN_EFFECT_P for one in calm.groupings
    )
