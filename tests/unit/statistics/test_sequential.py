from __future__ import annotations

import math

import numpy as np
import pytest
from betting_process import BettingProcess, MarginProcess

from evalkit.errors import EstimateError
from evalkit.statistics.sequential import log_e_path


def test_the_fixed_check_of_the_protocol():
    process = MarginProcess(population=1000, margin=0.01)
    for d in (0, 0, 0, -1, 0, 1):
        evidence = process.update(d)
    assert evidence.seen == 6
    assert evidence.e_above == pytest.approx(0.817055295, abs=5e-10)
    assert evidence.e_below == pytest.approx(0.798640551, abs=5e-10)


@pytest.mark.parametrize(("margin", "item"), [(0.01, 505), (0.005, 994)])
def test_a_perfect_copy_is_shown_at_a_known_item(margin, item):
    path = log_e_path(np.zeros(1200), population=14042, null_mean=-margin)
    assert int(np.argmax(path >= math.log(20))) + 1 == item


def test_the_path_is_the_stream():
    d = np.random.default_rng(1).choice([-1, 0, 1], p=[0.05, 0.9, 0.05], size=300)
    path = log_e_path(d, population=300, null_mean=-0.03)
    process = BettingProcess(population=300, null_mean=-0.03)
    stream = []
    for value in d:
        process.update(value)
        stream.append(process.log_e)
    assert path == pytest.approx(stream, abs=1e-10)
    rows = log_e_path(np.stack([d, d[::-1]]), population=300, null_mean=-0.03)
    assert rows[0] == pytest.approx(path, abs=1e-10)


def test_nothing_is_staked_where_only_losses_can_be_left():
    # 10 items with a null sum of -2: after eight zeros the two left must both be losses, and are.
    process = BettingProcess(population=10, null_mean=-0.2)
    for _ in range(8):
        process.update(0)
    before = process.e
    assert process.update(-1) == before
    assert process.update(-1) == before


def test_an_impossible_null_is_infinite_evidence_and_stays_so():
    process = BettingProcess(population=10, null_mean=-0.2)
    values = [process.update(0) for _ in range(10)]
    assert math.isfinite(values[8])
    assert values[9] == math.inf
    assert log_e_path(np.zeros(10), population=10, null_mean=-0.2)[9] == math.inf


def test_a_certain_null_is_no_evidence():
    process = BettingProcess(population=4, null_mean=0.5)
    values = [process.update(-1), process.update(-1), process.update(0), process.update(0)]
    assert values[-1] == 0.0
    assert log_e_path([-1, -1, 0, 0], population=4, null_mean=0.5)[-1] == -math.inf


def test_rounding_of_the_null_sum_is_not_taken_for_proof():
    # 0.07 * 100 is 7.000000000000001 in floats; the seven items left are exactly the losses the null asks for.
    assert 0.07 * 100 != 7.0
    path = log_e_path([0] * 93 + [-1] * 7, population=100, null_mean=-0.07)
    assert np.isfinite(path).all()


def test_an_unknown_item_counts_against_both_kinds_of_evidence():
    known, unknown = (MarginProcess(population=1000, margin=0.01) for _ in range(2))
    for _ in range(20):
        sure, unsure = known.update(0), unknown.update(-1, 1)
    assert unsure.e_above < sure.e_above
    assert unsure.e_below < sure.e_below


@pytest.mark.parametrize("d", [1.5, -2, float("nan"), float("inf"), None])
def test_a_difference_out_of_range_is_refused(d):
    with pytest.raises(EstimateError, match="difference"):
        MarginProcess(population=10, margin=0.01).update(d)


@pytest.mark.parametrize(
    "build",
    [
        lambda: BettingProcess(population=0, null_mean=0.0),
        lambda: BettingProcess(population=10, null_mean=1.0),
        lambda: BettingProcess(population=10, null_mean=0.0, grid=[0.5, 1.0]),
        lambda: BettingProcess(population=10, null_mean=0.0, grid=[]),
        lambda: MarginProcess(population=10, margin=0.0),
        lambda: MarginProcess(population=10, margin=0.1).update(1, -1),
        lambda: log_e_path(np.zeros(11), population=10, null_mean=0.0),
        lambda: log_e_path([2.0], population=10, null_mean=0.0),
        lambda: log_e_path([float("nan")], population=10, null_mean=0.0),
        lambda: log_e_path(np.zeros((1, 1, 1)), population=10, null_mean=0.0),
    ],
)
def test_processes_that_cannot_exist_are_refused(build):
    with pytest.raises(EstimateError):
        build()


def test_the_list_ends():
    process = BettingProcess(population=2, null_mean=0.0)
    process.update(0)
    process.update(0)
    with pytest.raises(EstimateError, match="all 2 items"):
        process.update(0)
