"""Numbers from the protocol and from textbooks; refusals; agreement with other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from statsmodels.stats.contingency_tables import mcnemar as other_mcnemar

from evalkit.errors import EstimateError
from evalkit.statistics.paired_proportions import (
    PairedTable,
    clopper_pearson_interval,
    discordant_ratio,
    mcnemar,
    newcombe_interval,
    recovery_ratio,
    tango_interval,
    tango_limits,
    tango_noninferiority,
    tango_scores,
    tango_z,
    tost_p,
    unpaired_interval,
    wald_interval,
    wilson_interval,
)

WORKED = PairedTable(n11=11845, n10=231, n01=190, n00=1776)
PERFECT = PairedTable(n11=12076, n10=0, n01=0, n00=1966)


def limits(interval, digits=4):
    return round(interval.lower, digits), round(interval.upper, digits)


def test_the_worked_example_of_the_protocol():
    assert WORKED.n == 14042
    assert round(100 * WORKED.baseline_accuracy, 2) == 86.00
    assert round(100 * WORKED.candidate_accuracy, 2) == 85.71
    assert round(100 * WORKED.difference, 3) == -0.292
    assert limits(tango_interval(WORKED), 6) == (-0.005807, -0.000056)
    assert limits(newcombe_interval(WORKED), 6) == (-0.005796, -0.000050)
    near = tango_noninferiority(WORKED, 0.005)
    comparable = tango_noninferiority(WORKED, 0.010)
    assert round(comparable.z, 3) == 4.689
    assert comparable.p_certify == pytest.approx(1.4e-6, abs=0.05e-6)
    assert (round(near.z, 3), round(near.p_certify, 4)) == (1.416, 0.0783)
    assert near.p_certify + near.p_reject == pytest.approx(1.0, abs=1e-15)
    assert round(mcnemar(231, 190).midp_p, 4) == 0.0458
    assert round(100 * WORKED.discordance, 2) == 3.00
    assert limits(wilson_interval(WORKED.discordant, WORKED.n)) == (0.0273, 0.0329)
    recovery = recovery_ratio(WORKED)
    assert round(recovery.ratio, 5) == 0.99660
    assert limits(recovery.interval, 5) == (0.99326, 0.99993)
    assert round(100 * unpaired_interval(WORKED).lower, 3) == -1.107


@pytest.mark.parametrize(
    ("counts", "level", "expected"),
    [
        ((4, 3, 9, 16), 0.95, (-0.027, 0.390)),
        ((43, 1, 0, 0), 0.90, (-0.096, 0.037)),
        ((53, 8, 16, 9), 0.95, (-0.020, 0.207)),
    ],
)
def test_tango_intervals_of_the_literature(counts, level, expected):
    table = PairedTable(**dict(zip(("n11", "n10", "n01", "n00"), counts, strict=True)))
    assert limits(tango_interval(table, level), 3) == expected


def test_a_limit_is_where_z_crosses_the_quantile():
    interval = tango_interval(WORKED, 0.95)
    assert tango_z(WORKED, interval.lower) == pytest.approx(1.959963984540054, abs=1e-9)
    assert tango_z(WORKED, interval.upper) == pytest.approx(-1.959963984540054, abs=1e-9)


def test_no_discordant_pair_still_has_a_width():
    interval = tango_interval(PERFECT)
    assert interval.lower < 0.0 < interval.upper
    assert tango_noninferiority(PERFECT, 0.01).z == pytest.approx(math.sqrt(14042 * 0.01 / 0.99), abs=1e-9)


@pytest.mark.parametrize(("margin", "n"), [(0.01, 381), (0.005, 765)])
def test_the_fewest_items_a_perfect_copy_needs(margin, n):
    fewest = PairedTable(n11=n, n10=0, n01=0, n00=0)
    too_few = PairedTable(n11=n - 1, n10=0, n01=0, n00=0)
    assert tango_noninferiority(fewest, margin).z > 1.959963984540054
    assert tango_noninferiority(too_few, margin).z < 1.959963984540054


def test_an_interval_ends_at_one_when_every_pair_is_discordant_the_same_way():
    all_lost = PairedTable(n11=0, n10=20, n01=0, n00=0)
    assert tango_interval(all_lost).lower == -1.0
    assert tango_interval(all_lost.swapped()).upper == 1.0


def test_the_vectorised_limits_are_the_single_ones():
    losses, gains = np.array([3, 0, 231]), np.array([9, 0, 190])
    lower, upper = tango_limits(losses, gains, 14042, 0.95)
    for i in range(3):
        table = PairedTable(n11=14042 - losses[i] - gains[i], n10=losses[i], n01=gains[i], n00=0)
        single = tango_interval(table)
        assert (lower[i], upper[i]) == (single.lower, single.upper)


def test_the_restricted_estimate_maximises_the_likelihood():
    n10, n01, n, x = 231, 190, 14042, -0.01
    z = float(tango_scores(n10, n01, n, x))
    q = ((n01 - n10 - n * x) ** 2 / (n * z**2) - x * (1 - x)) / 2
    rates = np.linspace(q - 5e-4, q + 5e-4, 2001)
    log_likelihood = n10 * np.log(rates) + n01 * np.log(rates + x) + (n - n10 - n01) * np.log1p(-2 * rates - x)
    assert rates[np.argmax(log_likelihood)] == pytest.approx(q, abs=1e-6)


def test_tost_is_the_worse_side():
    assert tost_p(WORKED, 0.005) == tango_noninferiority(WORKED, 0.005).p_certify
    assert tost_p(WORKED.swapped(), 0.005) == tost_p(WORKED, 0.005)


@pytest.mark.parametrize(("n10", "n01"), [(1, 7), (121, 59), (5, 5), (0, 3), (0, 1)])
def test_mcnemar_agrees_with_statsmodels(n10, n01):
    table = [[10, n10], [n01, 20]]
    ours = mcnemar(n10, n01)
    assert ours.exact_p == pytest.approx(other_mcnemar(table, exact=True).pvalue, rel=1e-10)
    assert ours.chi2_p == pytest.approx(other_mcnemar(table, exact=False, correction=False).pvalue, rel=1e-10)
    if n10 != n01:
        assert ours.chi2_cc_p == pytest.approx(other_mcnemar(table, exact=False, correction=True).pvalue, rel=1e-10)


def test_mid_p_of_equal_counts_and_of_none():
    assert mcnemar(3, 3).midp_p == pytest.approx(1 - 0.3125 / 2, abs=1e-12)
    assert mcnemar(3, 3).chi2_cc_p == 1.0
    nothing = mcnemar(0, 0)
    assert (nothing.exact_p, nothing.midp_p, nothing.chi2_p, nothing.chi2_cc_p) == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (421, 14042), (1, 2)])
@pytest.mark.parametrize("level", [0.9, 0.95, 0.998])
def test_binomial_intervals_agree_with_scipy(k, n, level):
    test = binomtest(k, n)
    for ours, method in ((wilson_interval, "wilson"), (clopper_pearson_interval, "exact")):
        theirs, mine = test.proportion_ci(level, method=method), ours(k, n, level)
        assert (mine.lower, mine.upper) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_the_ratio_of_gains_to_losses_contains_one_when_they_are_even():
    ratio = discordant_ratio(30, 30)
    assert ratio.ratio == 1.0
    assert ratio.interval.lower * ratio.interval.upper == pytest.approx(1.0, rel=1e-9)


def test_outcomes_become_counts():
    baseline, candidate = [1, 1, 1, 0, 0], np.array([True, True, False, True, False])
    assert PairedTable.from_outcomes(baseline, candidate) == PairedTable(n11=2, n10=1, n01=1, n00=1)


@pytest.mark.parametrize(
    ("baseline", "candidate"), [([1, 0], [1]), ([], []), ([1, 0], [1, float("nan")]), ([1, 0], [2, 0])]
)
def test_outcomes_that_do_not_pair_are_refused(baseline, candidate):
    with pytest.raises(EstimateError):
        PairedTable.from_outcomes(baseline, candidate)


@pytest.mark.parametrize(
    "counts",
    [
        {"n11": 0, "n10": 0, "n01": 0, "n00": 0},
        {"n11": -1, "n10": 1, "n01": 1, "n00": 1},
        {"n11": 1.0, "n10": 1, "n01": 1, "n00": 1},
    ],
)
def test_a_table_holds_whole_counts_of_at_least_one_item(counts):
    with pytest.raises(EstimateError):
        PairedTable(**counts)


@pytest.mark.parametrize(
    "method", [tango_interval, newcombe_interval, wald_interval, recovery_ratio, unpaired_interval]
)
def test_there_is_no_interval_from_one_item(method):
    with pytest.raises(EstimateError, match="from 1 item"):
        method(PairedTable(n11=1, n10=0, n01=0, n00=0))


def test_there_is_no_test_of_one_item_or_of_a_margin_of_zero():
    with pytest.raises(EstimateError, match="from 1 item"):
        tango_noninferiority(PairedTable(n11=0, n10=0, n01=1, n00=0), 0.01)
    with pytest.raises(EstimateError, match="margin"):
        tango_noninferiority(WORKED, 0.0)
    with pytest.raises(EstimateError, match="hypothesised difference"):
        tango_z(WORKED, -1.0)


def test_intervals_of_width_zero_are_refused():
    with pytest.raises(EstimateError, match="width zero"):
        wald_interval(PERFECT)
    with pytest.raises(EstimateError, match="width zero"):
        unpaired_interval(PairedTable(n11=9, n10=0, n01=0, n00=0))


def test_ratios_without_a_loss_and_counts_out_of_range_are_refused():
    with pytest.raises(EstimateError, match="at least one loss"):
        discordant_ratio(0, 4)
    with pytest.raises(EstimateError, match="at most 4"):
        wilson_interval(5, 4)
    with pytest.raises(EstimateError, match="allowed: 8 or 10"):
        newcombe_interval(WORKED, method=9)
