"""The flake budget of nights: how rarely nothing raises an alarm, how surely a real loss does, what a night costs.

C9 and the 3 % row of C10 are in test_statistics_sequential.py; here are the other rows, the whole night with the full
comparison that an alarm or the cap starts, the interval at any stop, and the search for changes over months.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.history import CompareRow, NightRow
from evalkit.nightly.night import Known, plan_night, rules_for
from evalkit.nightly.trends import find_changes
from evalkit.nightly.watch import Full, NightOutcome, State, Watch, conclude
from evalkit.policy import load_policy
from evalkit.statistics.sequential import ALARM, CAP, first_stops, log_e_path, simulate_nights
from evalkit.statistics.tango import tango_scores

N = 14042
Z = 1.959963984540054
POLICY = load_policy("nightly")
RULES = rules_for(POLICY, N)
STATES = {ALARM: State.ALARM, CAP: State.CAP}


def counted(rho, difference, nights, rng):
    """Draw losses and gains of the list anew for each night: the list itself is a sample of items like it."""
    flips = rng.binomial(N, rho, nights)
    losses = rng.binomial(flips, (1.0 - difference / rho) / 2.0)
    return losses, flips - losses


def outcome_of(why, z):
    """Return the outcome of a night by the product's own table; a confirming run cannot make it an OK."""
    if why not in STATES:
        return NightOutcome.OK
    full = Full(state="PASS" if z > Z else "FAIL" if z < -Z else "OPEN", n=N, difference=0.0)
    seen = Watch(
        state=STATES[why],
        used=1,
        missing_baseline=0,
        missing_candidate=0,
        log_e=0.0,
        log_e_loss=0.0,
        n11=1,
        n10=0,
        n01=0,
        n00=0,
    )
    return conclude("mmlu", 1.0, seen, None, full)[0]


def whole_nights(rho, difference, nights, seed):
    """Return the outcomes of whole nights, the full comparison included."""
    rng = np.random.default_rng(seed)
    losses, gains = counted(rho, difference, nights, rng)
    why, _ = simulate_nights(RULES, losses, gains, rng)
    z = tango_scores(losses, gains, N, -RULES.margin)
    return [outcome_of(state, score) for state, score in zip(why.tolist(), z.tolist(), strict=True)]


@pytest.mark.parametrize("rho", [0.01, 0.03, 0.06])
def test_no_change_raises_at_most_one_alarm_in_a_hundred_nights(rho):
    found = whole_nights(rho, 0.0, 1000, seed=1301)
    assert found.count(NightOutcome.ALARM) / len(found) <= 0.01
    assert found.count(NightOutcome.OK) / len(found) >= 0.95


@pytest.mark.parametrize("rho", [0.03, 0.06])
def test_a_loss_of_two_points_is_found_on_the_first_night(rho):
    found = whole_nights(rho, -0.02, 1000, seed=1302)
    assert found.count(NightOutcome.ALARM) / len(found) >= 0.99
    assert found.count(NightOutcome.OK) / len(found) <= 0.01


@pytest.mark.parametrize(
    ("rho", "points", "expected", "items"),
    [
        (0.01, 0.0, (1.00, 0.0, 0.0), 1013),
        (0.06, 0.0, (0.62, 0.0, 0.38), 2872),
        (0.06, 2.0, (0.0, 0.42, 0.58), 3419),
        (0.10, 0.0, (0.35, 0.0, 0.65), 3341),
    ],
)
def test_c10_the_plan_says_what_the_operating_table_says(rho, points, expected, items):
    """The plan of a night rests on 300 simulated ones: shares within four standard errors of both simulations."""
    known = {("recipe", "mmlu"): Known(discordance=rho, source="table")}
    (planned,) = plan_night(POLICY, ["recipe"], {"mmlu": N}, known).endpoints
    seen = planned.lost if points else planned.unchanged
    for share, reference in zip((seen.ok, seen.alarm, seen.cap), expected, strict=True):
        variance = max(reference * (1.0 - reference), 0.005)
        assert share == pytest.approx(reference, abs=4.0 * math.sqrt(variance * (1 / 300 + 1 / 1000)) + 0.005)
    assert seen.items == pytest.approx(items, abs=4.0 * 1200.0 * math.sqrt(1 / 300 + 1 / 1000))
    more = (planned.unchanged.alarm + planned.unchanged.cap) * (N - RULES.items)
    assert planned.items == pytest.approx(planned.unchanged.items + more)


def stopped_nights(rho, losses, gains, count, seed):
    """Return (difference, flips, items) of nights on one list, each at its own stop; all items after the cap."""
    rng = np.random.default_rng(seed)
    population = np.zeros(N, dtype=np.int8)
    population[:losses], population[losses : losses + gains] = -1, 1
    found, coverage = [], []
    for _ in range(0, count, 50):
        d = rng.permuted(np.tile(population, (50, 1)), axis=1)[:, : RULES.items].astype(float)
        why, stop = first_stops(d, RULES)
        for row, state, at in zip(d, why.tolist(), stop.tolist(), strict=True):
            whole = state != 0
            seen = population if whole else row[:at]
            found.append((float(seen.mean()), float(np.abs(seen).mean()), len(seen)))
        true = (gains - losses) / N
        low = log_e_path(d, population=N, null_mean=true).max(axis=1)
        high = log_e_path(-d, population=N, null_mean=-true).max(axis=1)
        coverage += list(np.maximum(low, high) < math.log(40.0))
    return found, float(np.mean(coverage))


@pytest.fixture(scope="module")
def quiet_nights():
    return stopped_nights(0.03, 211, 211, 500, seed=1303)


def test_the_interval_of_a_night_holds_at_every_item(quiet_nights):
    # The interval leaves out the true difference only if it was ever refuted, at any item of the night.
    _, coverage = quiet_nights
    assert coverage >= 0.95 - 4.0 * math.sqrt(0.05 * 0.95 / 500)


def row(night: int, seen) -> NightRow:
    difference, flips, n = seen
    lost = round(n * (flips - difference) / 2)
    gained = round(n * (flips + difference) / 2)
    compared = CompareRow(
        suite="s", site="default", name="recipe", night=f"{night:03d}", at=None, identity={}, environment={},
        endpoint="mmlu", scope="full" if n == N else "watch", task="mmlu", metric="acc", unit="proportion", n=n,
        counts=(n - lost - gained, lost, gained, 0), baseline_value=1.0, candidate_value=1.0 + difference,
        difference=difference, lower=None, upper=None, level=None, method=None, invalid_share=None,
        log_probability_change=None, rate=None, outcome=None,
    )  # fmt: skip
    return NightRow(
        suite="s", site="default", night=f"{night:03d}", recipe="recipe", endpoint="mmlu", outcome="OK", state="OK",
        confirm=None, full=None, reasons=[], asked=n, used=n, log_e=3.0, log_e_loss=-1.0, order_sha256=None,
        started_at=f"{night:03d}", environment={}, subjects=[], identity={}, watched=compared if n < N else None,
        whole=compared if n == N else None, rate=None,
    )  # fmt: skip


def test_a_year_without_a_change_shows_none(quiet_nights):
    seen, _ = quiet_nights
    rng = np.random.default_rng(1304)
    histories = 60
    false = sum(
        bool(find_changes([row(night, seen[at]) for night, at in enumerate(rng.integers(0, len(seen), 180))]))
        for _ in range(histories)
    )
    # at most 1 in 100 for each of two measures; 5 of 60 would be four standard errors above that
    assert false <= 4


@pytest.mark.parametrize(("losses", "gains", "measure"), [(282, 141, "difference"), (422, 422, "flips")])
def test_a_change_is_found_near_its_night(quiet_nights, losses, gains, measure):
    before, _ = quiet_nights
    after, _ = stopped_nights(0.03, losses, gains, 100, seed=1305)
    rng = np.random.default_rng(1306)
    hits = 0
    for _ in range(20):
        nights = [before[at] for at in rng.integers(0, len(before), 20)]
        nights += [after[at] for at in rng.integers(0, len(after), 15)]
        changes = find_changes([row(night, one) for night, one in enumerate(nights)])
        hits += any(change.measure == measure and abs(int(change.night) - 20) <= 2 for change in changes)
    assert hits >= 16
