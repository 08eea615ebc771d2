"""Is the evidence of the betting process honest at every item, and how fast does it come?

As many nights as behind the protocol's reference values: 4,000 for C9 and 1,000 for each cell of C10.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from betting_process import BettingProcess

from evalkit.statistics.sequential import log_e_path, relative_gain
from evalkit.statistics.tango import tango_scores

N, CAP, MARGIN = 14042, 4000, 0.01
OK, ALARM = math.log(20), math.log(100)
STAKES = [
    Fraction(1, 50),
    Fraction(1, 20),
    Fraction(1, 10),
    Fraction(1, 5),
    Fraction(7, 20),
    Fraction(3, 5),
    Fraction(9, 10),
]


def exact_path(values, null_mean):
    """Return e after every item in rational arithmetic."""
    wealth, total, path = [Fraction(1)] * len(STAKES), Fraction(0), []
    for seen, d in enumerate(values):
        left, needed = Fraction(len(values) - seen), null_mean * len(values) - total
        gain = relative_gain(Fraction(d), left, needed) if left + needed else Fraction(0)
        wealth = [amount * (1 + stake * gain) for amount, stake in zip(wealth, STAKES, strict=True)]
        total += d
        path.append(sum(wealth) / len(wealth))
    return path


@pytest.mark.parametrize("population", [(1, 0, 0, -1, -1, -1), (0, 0, 0, -1), (-1, -1, 1, -1, 0), (1, 1, 0, -1, 0, 1)])
@pytest.mark.parametrize("sign", [1, -1], ids=["against a large loss", "against a small loss"])
def test_c8_the_expectation_is_exactly_one_after_every_item(population, sign):
    mirrored = [sign * d for d in population]
    mean = Fraction(sum(mirrored), len(mirrored))
    paths = [exact_path(order, mean) for order in permutations(mirrored)]
    for step in range(len(population)):
        assert sum(path[step] for path in paths) == len(paths)


def test_c8_the_process_is_the_rational_one():
    population = (1, 0, 0, -1, -1, -1)
    for order in set(permutations(population)):
        process = BettingProcess(population=6, null_mean=-1 / 3)
        ours = [process.update(d) for d in order]
        assert ours == pytest.approx([float(e) for e in exact_path(order, Fraction(-1, 3))], rel=1e-12)


def nights(seed, count, rho, losses_over_gains):
    """Yield blocks of random orders, cut at the cap: the population holds exactly the wanted flips."""
    rng = np.random.default_rng(seed)
    flips = round(rho * N)
    gains = max(0, (flips - losses_over_gains) // 2)
    population = np.zeros(N, dtype=np.int8)
    population[:gains] = 1
    population[gains : 2 * gains + losses_over_gains] = -1
    for start in range(0, count, 50):
        block = np.tile(population, (min(50, count - start), 1))
        yield rng.permuted(block, axis=1)[:, :CAP]


def first_reached(path, threshold):
    """Return the number of the item at which each night reaches the threshold; CAP + 1 if it never does."""
    reached = path >= threshold
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, CAP + 1)


def outcomes(seed, count, rho, losses_over_gains):
    """Return shares of OK, ALARM and CAP, and the mean number of items."""
    ok, alarm = [], []
    for d in nights(seed, count, rho, losses_over_gains):
        ok.append(first_reached(log_e_path(d, population=N, null_mean=-MARGIN), OK))
        alarm.append(first_reached(log_e_path(-d, population=N, null_mean=MARGIN), ALARM))
    at_ok, at_alarm = np.concatenate(ok), np.concatenate(alarm)
    stop = np.minimum(np.minimum(at_ok, at_alarm), CAP)
    shares = np.mean([at_ok < at_alarm, at_alarm < at_ok, at_ok == at_alarm], axis=1)
    return shares, float(stop.mean())


@pytest.mark.parametrize("rho", [0.01, 0.03, 0.06])
def test_c9_false_evidence_is_as_rare_as_promised(rho):
    # 141 net losses are just above one point, so "the loss is at least one point" is true: OK is false evidence.
    false_ok = [
        first_reached(log_e_path(d, population=N, null_mean=-MARGIN), OK) <= CAP for d in nights(909, 4000, rho, 141)
    ]
    share = np.mean(np.concatenate(false_ok))
    assert share <= 0.05
    assert 0.008 < share < 0.034
    # 140 net losses are just below one point: ALARM is false evidence. 0.01 + 4 standard errors of 4,000 nights.
    false_alarm = [
        first_reached(log_e_path(-d, population=N, null_mean=MARGIN), ALARM) <= CAP for d in nights(910, 4000, rho, 140)
    ]
    assert np.mean(np.concatenate(false_alarm)) <= 0.0165


COUNT, REFERENCE_COUNT = 1000, 1000


@pytest.mark.parametrize(
    ("points", "expected", "items"),
    [
        (0.0, (0.93, 0.0, 0.07), 2019),
        (0.5, (0.31, 0.0, 0.69), 3449),
        (1.0, (0.02, 0.01, 0.97), 3910),
        (1.5, (0.0, 0.17, 0.83), 3763),
        (2.0, (0.0, 0.89, 0.11), 2405),
        (3.0, (0.0, 1.0, 0.0), 593),
    ],
)
def test_c10_the_operating_table_at_three_percent_flips(points, expected, items):
    shares, mean_items = outcomes(1010, COUNT, 0.03, round(points / 100 * N))
    for share, reference in zip(shares, expected, strict=True):
        # four standard errors of both simulations, no wider than the protocol's band; a printed zero may be 0.005
        variance = max(reference * (1 - reference), 0.005)
        band = min(0.065, 4 * math.sqrt(variance * (1 / COUNT + 1 / REFERENCE_COUNT)) + 0.005)
        assert share == pytest.approx(reference, abs=band)
    assert mean_items == pytest.approx(items, abs=4 * 1000 * math.sqrt(1 / COUNT + 1 / REFERENCE_COUNT))


def test_looking_often_at_a_test_for_one_look_is_not_honest():
    # The contrast to C9: the fixed-n score test at one-sided 0.05, true loss at the margin, read again and again.
    rng, count = np.random.default_rng(11), 1500
    looks = {every: np.arange(every, N + 1, every) for every in (200, 500, N // 10)}
    false = dict.fromkeys(looks, 0)
    for _ in range(count):
        u = rng.random(N)
        losses, flips = np.cumsum(u < (0.03 + MARGIN) / 2), np.cumsum(u < 0.03)
        for every, at in looks.items():
            n10, n01 = losses[at - 1], flips[at - 1] - losses[at - 1]
            false[every] += bool(np.any(tango_scores(n10, n01, at, -MARGIN) > 1.6448536269514722))
    shares = [false[every] / count for every in looks]
    assert shares == pytest.approx([0.271, 0.240, 0.166], abs=0.06)
    assert min(shares) > 0.10
