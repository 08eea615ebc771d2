"""What must hold for every table, every sample and every order (protocol, section 18)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from betting_process import BettingProcess
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evalkit.statistics.clusters import clustered_mean
from evalkit.statistics.distributions import choice_shift
from evalkit.statistics.multiplicity import benjamini_hochberg, holm
from evalkit.statistics.paired_means import corrected_statistics, paired_t
from evalkit.statistics.paired_proportions import (
    PairedTable,
    mcnemar,
    newcombe_interval,
    recovery_ratio,
    tango_interval,
    tango_noninferiority,
    tango_scores,
    tango_z,
    tost_p,
)
from evalkit.statistics.sequential import log_e_path

Z = 1.959963984540054
seeded = settings(derandomize=True, deadline=None, max_examples=150)

small, large = st.integers(0, 40), st.integers(0, 20_000)
tables = st.one_of(
    st.builds(dict, n11=small, n10=small, n01=small, n00=small),
    st.builds(dict, n11=large, n10=small, n01=small, n00=large),
).filter(lambda cells: sum(cells.values()) >= 2)
paired_tables = tables.map(lambda cells: PairedTable(**cells))
margins = st.floats(0.001, 0.5)
inside = st.floats(-0.999, 0.999)
samples = st.lists(st.floats(-9, 9).map(lambda x: round(x, 3)), min_size=3, max_size=40).filter(
    lambda values: max(values) - min(values) > 0.01
)


@seeded
@given(paired_tables, margins)
def test_the_test_and_the_interval_are_dual(table, margin):
    z = tango_noninferiority(table, margin).z
    lower, upper = tango_interval(table).lower, tango_interval(table).upper
    assume(min(abs(lower + margin), abs(upper + margin)) > 1e-9)
    assert (z > Z) == (lower > -margin)
    assert (z < -Z) == (upper < -margin)


@seeded
@given(paired_tables, inside, inside)
def test_z_falls_as_the_hypothesis_rises(table, first, second):
    low, high = sorted((first, second))
    assume(high - low > 1e-6)
    assert tango_z(table, low) > tango_z(table, high)


@seeded
@given(paired_tables)
def test_swapping_the_sides_negates_the_interval(table):
    for method in (tango_interval, newcombe_interval):
        ours, theirs = method(table), method(table.swapped())
        assert (ours.lower, ours.upper) == pytest.approx((-theirs.upper, -theirs.lower), abs=1e-12)


@seeded
@given(paired_tables)
def test_z_at_zero_is_mcnemars(table):
    assume(table.discordant > 0)
    assert tango_z(table, 0.0) == pytest.approx((table.n01 - table.n10) / math.sqrt(table.discordant), abs=1e-9)
    assert tango_z(table, 0.0) ** 2 == pytest.approx(mcnemar(table.n10, table.n01).chi2, abs=1e-8)


@seeded
@given(st.integers(2, 50_000))
def test_no_discordance_has_a_closed_form(n):
    interval = tango_interval(PairedTable(n11=n, n10=0, n01=0, n00=0))
    expected = Z**2 / (n + Z**2)
    assert (interval.lower, interval.upper) == pytest.approx((-expected, expected), abs=1e-12)


@seeded
@given(paired_tables, st.sampled_from([0.8, 0.9, 0.95, 0.998]))
def test_intervals_lie_inside_and_contain_the_estimate(table, level):
    for interval in (tango_interval(table, level), newcombe_interval(table, level)):
        assert -1.0 <= interval.lower <= table.difference <= interval.upper <= 1.0
    tango = tango_interval(table, level)
    assert tango.upper - tango.lower > 0.0


@seeded
@given(paired_tables, small, small)
def test_concordant_pairs_leave_mcnemar_alone(table, more_right, more_wrong):
    larger = PairedTable(n11=table.n11 + more_right, n10=table.n10, n01=table.n01, n00=table.n00 + more_wrong)
    assert tango_z(larger, 0.0) == pytest.approx(tango_z(table, 0.0), abs=1e-9)
    assert mcnemar(larger.n10, larger.n01) == mcnemar(table.n10, table.n01)


@seeded
@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 500), margins)
def test_z_never_rises_with_losses_nor_falls_with_gains(n10, n01, spare, margin):
    n = n10 + n01 + spare
    z = float(tango_scores(n10, n01, n, -margin))
    assert float(tango_scores(n10 + 1, n01, n, -margin)) <= z
    assert float(tango_scores(n10, n01 + 1, n, -margin)) >= z
    assert float(tango_scores(n10 + 1, n01 - 1, n, -margin)) <= z if n01 else True


@seeded
@given(paired_tables, margins)
def test_equivalence_is_no_easier_than_either_side(table, margin):
    p = tost_p(table, margin)
    assert 0.0 <= p <= 1.0
    assert p >= tango_noninferiority(table, margin).p_certify
    assert p == pytest.approx(tost_p(table.swapped(), margin), abs=1e-15)


@seeded
@given(st.integers(20, 400), st.integers(0, 30), st.integers(0, 30), st.integers(0, 400))
def test_recovery_contains_its_estimate_and_inverts_when_swapped(n11, n10, n01, n00):
    assume(n10 + n01 > 0)
    table = PairedTable(n11=n11, n10=n10, n01=n01, n00=n00)
    ours, theirs = recovery_ratio(table), recovery_ratio(table.swapped())
    assert 0.0 <= ours.interval.lower <= ours.ratio <= ours.interval.upper
    assert ours.interval.upper * theirs.interval.lower == pytest.approx(1.0, rel=1e-6)
    assert ours.ratio * theirs.ratio == pytest.approx(1.0, rel=1e-12)


@seeded
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=60), st.randoms(use_true_random=False))
def test_item_order_does_not_change_a_table_and_a_run_equals_itself(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert PairedTable.from_outcomes(*zip(*pairs, strict=True)) == PairedTable.from_outcomes(
        *zip(*shuffled, strict=True)
    )
    baseline = [b for b, _ in pairs]
    assert PairedTable.from_outcomes(baseline, baseline).difference == 0.0


@seeded
@given(samples, st.randoms(use_true_random=False))
def test_unit_order_does_not_change_a_mean_test(values, random):
    shuffled = list(values)
    random.shuffle(shuffled)
    assert paired_t(shuffled, 0.3).t == pytest.approx(paired_t(values, 0.3).t, rel=1e-9, abs=1e-9)
    found = [float(corrected_statistics(np.array(order), 0.3)) for order in (values, shuffled)]
    assert found[0] == pytest.approx(found[1], rel=1e-6, abs=1e-6)


@seeded
@given(samples, st.floats(-2, 2))
def test_swapping_the_sides_swaps_the_tests_of_a_mean(values, margin):
    ours, theirs = paired_t(values, margin), paired_t([-value for value in values], -margin)
    assert (ours.t, ours.p_certify) == pytest.approx((-theirs.t, theirs.p_reject), abs=1e-9)


@seeded
@given(samples)
def test_singleton_clusters_are_independent_units(values):
    clustered = clustered_mean(values, np.arange(len(values)), min_clusters=2)
    assert clustered.se == pytest.approx(np.std(values, ddof=1) / math.sqrt(len(values)), rel=1e-9)
    assert clustered.deff == pytest.approx(1.0, rel=1e-9)


@seeded
@given(st.integers(0, 2**32 - 1), st.integers(3, 15))
def test_clustered_errors_equal_statsmodels(seed, clusters):
    sm = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(clusters), rng.integers(0, clusters, 40)])
    values = rng.normal(size=labels.size)
    fit = sm.OLS(values, np.ones(values.size)).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    assert clustered_mean(values, labels, min_clusters=2).se == pytest.approx(float(fit.bse[0]), rel=1e-9)


@seeded
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_family_order_does_not_change_a_correction(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    for method in (holm, benjamini_hochberg):
        straight, shuffled = method(p, 0.05), method([p[i] for i in order], 0.05)
        assert shuffled.reject == tuple(straight.reject[i] for i in order)
        assert shuffled.adjusted == tuple(straight.adjusted[i] for i in order)
        assert all(a >= value - 1e-15 for a, value in zip(straight.adjusted, p, strict=True))


@seeded
@given(st.lists(st.integers(-1, 1), min_size=1, max_size=120), st.floats(0.001, 0.3), st.integers(0, 50))
def test_evidence_is_never_negative_and_finite_while_the_null_is_possible(values, margin, unseen):
    population = len(values) + unseen
    process = BettingProcess(population=population, null_mean=-margin)
    path = log_e_path(values, population=population, null_mean=-margin)
    seen = 0
    for i, d in enumerate(values):
        left, needed = population - i, -margin * population - seen
        e = process.update(d)
        seen += d
        assert e >= 0.0
        if needed > -left + 1e-6:
            assert math.isfinite(e)
        if needed < -left - 1e-6:
            assert e == math.inf
        assert process.log_e == pytest.approx(path[i], abs=1e-9)


@seeded
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 5))
def test_choice_measures_stay_in_range_and_change_sign_when_swapped(seed, n, k):
    rng = np.random.default_rng(seed)
    baseline, candidate = rng.normal(0, 5, (n, k)), rng.normal(0, 5, (n, k))
    targets = rng.integers(0, k, n)
    ours, theirs = choice_shift(baseline, candidate, targets), choice_shift(candidate, baseline, targets)
    assert 0.0 <= ours.candidate_soft_accuracy <= 1.0
    assert ours.divergence >= 0.0
    assert ours.top1_agreement == theirs.top1_agreement
    assert ours.log_probability_change == pytest.approx(-theirs.log_probability_change, abs=1e-12)
