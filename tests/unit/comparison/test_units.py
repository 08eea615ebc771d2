"""What counts as one: contents, clusters, strata, and what is looked at without being asked."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evalkit.comparison.means import fill, mean_comparison
from evalkit.comparison.units import unit_codes, view_units
from evalkit.records import ItemFacts


def codes_of(labels, *, contents=None, subjects=None, unseen=0, facts=True, lost=(), **how):
    n = len(labels)
    subjects = subjects or ["s"] * n
    keys = [(subjects[at], f"sha{at}", 0) for at in range(n)]
    known = {
        f"t/{subjects[at]}/sha{at}/0": ItemFacts(content=(contents or list(map(str, range(n))))[at], labels=labels[at])
        for at in range(n)
    }
    known |= {f"t/s/lost{at}/0": ItemFacts(content=f"lost{at}", labels=label) for at, label in enumerate(lost)}
    return unit_codes("t", keys, unseen, known if facts else {}, **how)


def sizes(codes):
    return sorted(np.unique(codes, return_counts=True)[1].tolist())


def test_equal_contents_are_one_cluster_and_a_field_joins_more():
    labels = [{"passage": p} for p in ("a", "a", "b", "b", "c", "d")]
    contents = ["1", "2", "3", "2", "4", "5"]  # the second question of "a" is put again under "b"
    assert sizes(codes_of(labels, contents=contents).clusters) == [1, 1, 1, 1, 2]
    assert sizes(codes_of(labels, contents=contents, cluster="content").clusters) == [1, 1, 1, 1, 2]
    assert sizes(codes_of(labels, contents=contents, cluster="passage").clusters) == [1, 1, 4]


def test_without_items_digests_tell_what_is_repeated():
    keys = [("a", "x", 0), ("b", "x", 0), ("a", "y", 0), ("a", "y", 1), ("a", "z", 0)]
    codes = unit_codes("t", keys, 0, {})
    assert (sizes(codes.clusters), codes.read) == ([1, 2, 2], False)


def test_an_item_without_the_cluster_field_is_counted():
    codes = codes_of([{"passage": "a"}, {"passage": "a"}, {}], cluster="passage")
    assert codes.lacking.tolist() == [False, False, True]
    assert codes_of([{}], cluster="subject").lacking.tolist() == [False]


def test_planned_items_that_nobody_answered_belong_to_their_own_clusters():
    codes = codes_of([{"p": "a"}, {"p": "b"}], unseen=2, lost=[{"p": "a"}], cluster="p")
    assert sizes(codes.clusters) == [1, 1, 2]  # the lost item joins "a"; one more is known to nobody


def differences(n, seed=1, rho=0.2):
    return np.random.default_rng(seed).choice([-1.0, 0.0, 1.0], p=[rho / 2, 1 - rho, rho / 2], size=n)


def test_strata_are_taken_out_before_anything_else_is_looked_at():
    n, rng = 4_000, np.random.default_rng(2)
    subjects = [f"subject-{at % 20}" for at in range(n)]
    labels = [{"field": str(at % 20), "half": str(at % 10), "other": str(at % 1000)} for at in range(n)]
    effect = rng.normal(0, 0.3, size=20)[np.arange(n) % 20]
    d = np.clip(differences(n) + np.where(rng.random(n) < abs(effect), np.sign(effect), 0), -1, 1)
    seen = np.ones(n, dtype=bool)
    alarmed = view_units(codes_of(labels, subjects=subjects), seen, d).units
    assert {one.field for one in alarmed.groupings if one.p < 1e-6} >= {"subject"}
    calm = view_units(codes_of(labels, subjects=subjects, strata=("subject",)), seen, d).units
    assert [one.field for one in calm.groupings] == ["other"]  # what is made of whole strata is no question any more
    assert calm.groupings[0].p > 0.01
    assert calm.within is not None
    assert calm.within.design_effect > 1.5
    assert calm.stratum_count == 20


@pytest.mark.parametrize(
    "labels", [lambda at: {"id": str(at)}, lambda at: {"answer": "ABCD"[at % 4]}, lambda _: {"all": "x"}]
)
def test_fields_that_say_nothing_are_not_looked_at(labels):
    n = 400
    units = view_units(codes_of([labels(at) for at in range(n)]), np.ones(n, dtype=bool), differences(n)).units
    assert units.groupings == ()
    assert (units.items, units.contents, units.clusters, units.effective) == (n, n, n, n)


def test_means_are_tested_by_cluster_and_each_cluster_has_the_same_weight():
    rng = np.random.default_rng(6)
    sizes = rng.integers(1, 7, size=60)
    labels = [{"passage": str(at)} for at, size in enumerate(sizes) for _ in range(size)]
    shared = np.repeat(rng.normal(0.0, 0.1, size=60), sizes)
    baseline = rng.uniform(0.3, 0.7, size=len(labels))
    candidate = np.clip(baseline + shared + rng.normal(0.0, 0.02, size=len(labels)), 0.0, 1.0)
    baseline[5] = np.nan
    filled = fill(baseline, candidate, 0, (0.0, 1.0))
    codes = codes_of(labels, cluster="passage")
    found = mean_comparison("soft", baseline, candidate, filled, scale=(0.0, 1.0), level=0.95, codes=codes)
    d, seen = candidate - baseline, ~np.isnan(baseline)
    passages = np.array([label["passage"] for label in labels])
    means = np.array([d[(passages == name) & seen].mean() for name in dict.fromkeys(passages[seen])])
    assert (found.n, found.planned, found.units.clusters) == (len(labels) - 1, len(labels), means.size)
    assert found.difference == pytest.approx(means.mean())
    assert found.difference == pytest.approx(found.candidate_mean - found.baseline_mean)
    interval = stats.t.interval(0.95, means.size - 1, means.mean(), stats.sem(means))
    assert (found.interval.lower, found.interval.upper) == pytest.approx(interval)
    assert found.differences.unfavourable.size == 60
    assert found.differences.unfavourable.mean() < found.difference < found.differences.favourable.mean()
    alone = mean_comparison("soft", baseline, candidate, filled, scale=(0.0, 1.0), level=0.95)
    assert alone.interval.upper - alone.interval.lower < 0.75 * (found.interval.upper - found.interval.lower)
